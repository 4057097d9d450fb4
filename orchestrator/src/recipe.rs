//! The recipe: one TOML file that decides a whole experiment.
//!
//! Every key has a default but `seed` and `synth.abilities`; a key that is not
//! known is an error, since a misspelt key that is ignored costs a night.

use std::{collections::BTreeMap, ops::RangeInclusive, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use dataset::image_hash::NEAR_BITS;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use crate::measuring::MeasuringModels;
use crate::toml_file;

/// A whole experiment: what to synthesize, how to train, how to evaluate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name, for people.
    #[serde(default = "default_name")]
    pub name: String,
    /// Seed of everything random.
    pub seed: u64,
    /// What to synthesize.
    pub synth: Synth,
    /// How to train. Absent: `diptych run` stops after synthesis.
    pub train: Option<Train>,
    /// How to evaluate. Absent: `diptych run` stops after training.
    pub eval: Option<Eval>,
}

/// What to synthesize.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Synth {
    /// Accepted samples per ability.
    pub abilities: BTreeMap<String, u64>,
    /// Attempts per slot before the slot is given up, 1 or more.
    #[serde(default = "default_attempts")]
    pub max_attempts: u32,
    /// Pictures rendered for each prompt, from seeds of their own; the one that fits its prompt best
    /// among those that pass the gates is kept. 1 or more.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub seeds_per_prompt: u32,
    /// Whether the next attempt at a slot is told which texts came to nothing, so that a language
    /// model writes something else.
    #[serde(default, skip_serializing_if = "is_false")]
    pub rewrite: bool,
    /// Share of each style; empty means equal shares.
    #[serde(default)]
    pub style_weights: BTreeMap<String, f32>,
    /// How prompts are written.
    #[serde(default, skip_serializing_if = "PromptSettings::is_default")]
    pub prompts: PromptSettings,
    /// How images are sampled.
    #[serde(default)]
    pub image: ImageSettings,
    /// How dialogues are written.
    #[serde(default)]
    pub dialogue: DialogueSettings,
    /// Models that measure prompts and pictures for the gates.
    #[serde(default, skip_serializing_if = "MeasuringModels::is_default")]
    pub measure: MeasuringModels,
    /// What a sample must pass.
    #[serde(default)]
    pub gates: Gates,
}

/// How prompts are written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptSettings {
    /// Back-end that promptgen must have: `grammar` or `openai`. Empty takes whatever an endpoint
    /// has, and the grammar in this process.
    pub backend: String,
}

impl PromptSettings {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How images are sampled.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageSettings {
    /// Model by name; empty means the service's default.
    pub model: String,
    /// Denoising steps, 1 to 1000.
    pub steps: u32,
    /// Classifier-free guidance scale.
    pub guidance: f32,
    /// What should not be seen.
    pub negative_prompt: String,
    /// `webui` (emphasis is real) or `plain` (diffusers' reading).
    pub prompt_syntax: PromptSyntax,
    /// Width in pixels; 0 means the model's own.
    pub width_px: u32,
    /// Height in pixels; 0 means the model's own.
    pub height_px: u32,
}

/// How emphasis in prompts is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PromptSyntax {
    /// As diffusers.
    Plain,
    /// `(x)`, `[x]`, `(x:1.3)`, BREAK.
    Webui,
}

/// How dialogues are written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DialogueSettings {
    /// Question–answer rounds per sample, 1 to 16.
    pub rounds: u32,
    /// Back-end that dialogue must have: `grammar` or `openai`. Empty takes whatever an endpoint has,
    /// and the grammar in this process.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub backend: String,
}

/// What a sample must pass. A recipe without `[synth.gates]` has the gates of [`Default`]; one
/// with it has just the gates that it names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gates {
    /// Whether a prompt must be a description in good form that names its keyword.
    #[serde(default, skip_serializing_if = "is_false")]
    pub prompt_form: bool,
    /// Greatest MinHash similarity of two prompts of one partition, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prompt_similarity: Option<f64>,
    /// Greatest cosine of two prompts of one partition, by the text embedding service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prompt_cosine: Option<f64>,
    /// Greatest cosine of two pictures of one partition, by the image scoring service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_image_cosine: Option<f64>,
    /// Greatest MinHash similarity of two dialogues of one partition, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_dialogue_similarity: Option<f64>,
    /// Greatest MinHash similarity of a question with its answer to one of an evaluation set's, 0
    /// to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_leak_similarity: Option<f64>,
    /// Least standard deviation of the pixels, in levels of 0 to 255.
    pub min_pixel_deviation: Option<f64>,
    /// Least cosine between picture and prompt.
    pub min_alignment: Option<f64>,
    /// Least lead of the own prompt's cosine over the highest one of the partition's other
    /// prompts; robust against a model whose cosines all lie close together. Below 0 it lets
    /// through what a near-equal prompt fits a little better.
    pub min_alignment_lead: Option<f64>,
    /// Greatest Hamming distance of 256-bit difference hashes at which two pictures of one
    /// partition count as the same.
    pub max_duplicate_distance: Option<u32>,
    /// Greatest Hamming distance of 256-bit difference hashes at which a picture counts as one of
    /// an evaluation set's.
    pub max_leak_distance: Option<u32>,
    /// Evaluation sets that no picture may come near to: built-in names, or folders with a
    /// `questions.jsonl`.
    #[serde(default)]
    pub evaluation_sets: Vec<String>,
    /// Whether a dialogue must agree with the facts.
    #[serde(default)]
    pub dialogue_agrees: bool,
    /// Whether the image scoring service is asked of every picture if it is safe, and those that are
    /// not are refused. Without it, only what diffusion says while rendering counts.
    #[serde(default, skip_serializing_if = "is_false")]
    pub refuse_unsafe: bool,
}

/// How to train: one alignment stage shared by all runs, then instruction tuning with and
/// without the synthesized data.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Model to start from, by name or folder.
    #[serde(default = "default_llava")]
    pub model: String,
    /// Base data: a built-in name, or a LLaVA JSON file.
    #[serde(default = "default_base_data")]
    pub base_data: String,
    /// Projector alignment on the base data.
    pub align: Stage,
    /// Instruction tuning. `steps` is that of *synthetic* and *control*.
    pub instruct: Stage,
    /// Instruction steps of *baseline*, which sees the base data alone.
    pub baseline_steps: u32,
    /// Share of synthesized samples in a step of *synthetic*, over 0 and under 1.
    #[serde(default = "default_synthetic_share")]
    pub synthetic_share: f32,
    /// Seeds of the data order, one set of runs each. The first gives the folders
    /// `train/{baseline,control,synthetic}`, others `train/synthetic.seed7` and so on.
    #[serde(default = "default_training_seeds")]
    pub seeds: Vec<u64>,
}

/// One training stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Optimizer steps, 1 or more.
    pub steps: u32,
    /// Samples per step.
    #[serde(default = "default_batch_size")]
    pub batch_size: u32,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Share of steps over which the rate rises.
    #[serde(default = "default_warmup")]
    pub warmup_ratio: f64,
    /// Decoupled weight decay.
    #[serde(default)]
    pub weight_decay: f64,
}

/// How to evaluate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eval {
    /// Questions per ability and benchmark.
    pub questions_per_ability: u32,
    /// Held-out pictures rendered per ability for the AI-generated benchmark.
    pub generated_images_per_ability: u64,
    /// Benchmark of real pictures: a built-in name, or a folder.
    #[serde(default = "default_real_benchmark")]
    pub real_benchmark: String,
    /// Bootstrap resamples.
    #[serde(default = "default_resamples")]
    pub resamples: u32,
}

impl Recipe {
    /// Reads a recipe file and checks it.
    ///
    /// # Errors
    /// One sentence that names the file, the key and the line.
    pub fn read(path: &Path) -> Result<Self> {
        let recipe: Self = toml_file::read(path, "recipe")?;
        recipe
            .check()
            .with_context(|| format!("recipe {} is not valid", path.display()))?;
        Ok(recipe)
    }

    /// Hash of all that decides the samples, in lower-case hexadecimal. Training and
    /// evaluation settings are not part of it: a dataset may serve several of them.
    pub fn synthesis_hash(&self) -> String {
        // Serialization of a tree of plain values with ordered maps cannot fail.
        let bytes = serde_json::to_vec(&(self.seed, &self.synth)).unwrap_or_default();
        hex(&Sha256::digest(bytes))
    }

    /// Hash of the whole recipe, in lower-case hexadecimal.
    pub fn hash(&self) -> String {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        hex(&Sha256::digest(bytes))
    }

    fn check(&self) -> Result<()> {
        ensure!(
            !self.synth.abilities.is_empty(),
            "`synth.abilities` names no ability"
        );
        for (ability, &count) in &self.synth.abilities {
            ensure!(
                (1..=MAX_SAMPLES_PER_ABILITY).contains(&count),
                "`synth.abilities.{ability}` is {count}; it must lie in 1..={MAX_SAMPLES_PER_ABILITY}"
            );
        }
        ensure!(
            self.synth.max_attempts > 0,
            "`synth.max_attempts` is 0; it must be 1 or more"
        );
        ensure!(
            (1..=MAX_SEEDS_PER_PROMPT).contains(&self.synth.seeds_per_prompt),
            "`synth.seeds_per_prompt` is {}; it must lie in 1..={MAX_SEEDS_PER_PROMPT}",
            self.synth.seeds_per_prompt
        );
        self.synth.gates.check()?;
        let image = &self.synth.image;
        ensure!(
            (1..=1000).contains(&image.steps),
            "`synth.image.steps` is {}; it must lie in 1..=1000",
            image.steps
        );
        ensure!(
            (1..=16).contains(&self.synth.dialogue.rounds),
            "`synth.dialogue.rounds` is {}; it must lie in 1..=16",
            self.synth.dialogue.rounds
        );
        if let Some(train) = &self.train {
            train.check()?;
        } else if self.eval.is_some() {
            bail!("`[eval]` needs `[train]`: there would be no model to evaluate");
        }
        if let Some(eval) = &self.eval {
            ensure!(
                eval.questions_per_ability > 0,
                "`eval.questions_per_ability` is 0; it must be 1 or more"
            );
            ensure!(
                (1..=MAX_SAMPLES_PER_ABILITY).contains(&eval.generated_images_per_ability),
                "`eval.generated_images_per_ability` is {}; it must lie in 1..={MAX_SAMPLES_PER_ABILITY}",
                eval.generated_images_per_ability
            );
        }
        Ok(())
    }
}

/// More than any one ability has been asked for; a larger number is a typing error.
const MAX_SAMPLES_PER_ABILITY: u64 = 100_000_000;

/// Beyond this, another prompt is the better use of a picture's time.
const MAX_SEEDS_PER_PROMPT: u32 = 16;

impl Gates {
    fn check(&self) -> Result<()> {
        const SHARE: RangeInclusive<f64> = 0.0..=1.0;
        const COSINE: RangeInclusive<f64> = -1.0..=1.0;
        const LEAD: RangeInclusive<f64> = -2.0..=2.0;
        for (key, bound, range) in [
            ("max_prompt_similarity", self.max_prompt_similarity, SHARE),
            ("max_prompt_cosine", self.max_prompt_cosine, COSINE),
            ("max_image_cosine", self.max_image_cosine, COSINE),
            (
                "max_dialogue_similarity",
                self.max_dialogue_similarity,
                SHARE,
            ),
            ("max_leak_similarity", self.max_leak_similarity, SHARE),
            ("min_alignment", self.min_alignment, COSINE),
            ("min_alignment_lead", self.min_alignment_lead, LEAD),
        ] {
            if let Some(bound) = bound.filter(|bound| !range.contains(bound)) {
                bail!(
                    "`synth.gates.{key}` is {bound}; it must lie in {}..={}",
                    range.start(),
                    range.end()
                );
            }
        }
        Ok(())
    }
}

impl Train {
    fn check(&self) -> Result<()> {
        for (name, stage) in [("align", &self.align), ("instruct", &self.instruct)] {
            ensure!(
                stage.steps > 0,
                "`train.{name}.steps` is 0; it must be 1 or more"
            );
            ensure!(
                stage.batch_size > 0,
                "`train.{name}.batch_size` is 0; it must be 1 or more"
            );
            ensure!(
                stage.learning_rate > 0.0,
                "`train.{name}.learning_rate` must be over 0"
            );
        }
        ensure!(
            self.baseline_steps > 0,
            "`train.baseline_steps` is 0; it must be 1 or more"
        );
        ensure!(
            self.synthetic_share > 0.0 && self.synthetic_share < 1.0,
            "`train.synthetic_share` is {}; it must lie between 0 and 1",
            self.synthetic_share
        );
        ensure!(
            !self.seeds.is_empty(),
            "`train.seeds` is empty; name one seed or more"
        );
        Ok(())
    }
}

impl Default for ImageSettings {
    fn default() -> Self {
        Self {
            model: String::new(),
            steps: 25,
            guidance: 3.0,
            negative_prompt: String::new(),
            prompt_syntax: PromptSyntax::Webui,
            width_px: 0,
            height_px: 0,
        }
    }
}

impl Default for DialogueSettings {
    fn default() -> Self {
        Self {
            rounds: 3,
            backend: String::new(),
        }
    }
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            prompt_form: true,
            max_prompt_similarity: Some(0.9),
            max_prompt_cosine: None,
            max_image_cosine: None,
            max_dialogue_similarity: None,
            max_leak_similarity: None,
            min_pixel_deviation: Some(4.0),
            min_alignment: None,
            min_alignment_lead: Some(0.0),
            max_duplicate_distance: Some(NEAR_BITS),
            max_leak_distance: Some(NEAR_BITS),
            evaluation_sets: vec![default_real_benchmark()],
            dialogue_agrees: true,
            refuse_unsafe: false,
        }
    }
}

fn default_name() -> String {
    "unnamed".to_owned()
}

fn one() -> u32 {
    1
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_one(count: &u32) -> bool {
    *count == 1
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(flag: &bool) -> bool {
    !flag
}

fn default_attempts() -> u32 {
    4
}

fn default_llava() -> String {
    "builtin:nano-llava".to_owned()
}

fn default_base_data() -> String {
    "builtin:nano-base".to_owned()
}

fn default_synthetic_share() -> f32 {
    0.5
}

fn default_training_seeds() -> Vec<u64> {
    vec![1]
}

fn default_batch_size() -> u32 {
    16
}

fn default_warmup() -> f64 {
    0.03
}

fn default_real_benchmark() -> String {
    "builtin:nano-real".to_owned()
}

fn default_resamples() -> u32 {
    10_000
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn parse(text: &str) -> Result<Recipe> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("recipe.toml");
        fs::write(&path, text)?;
        Recipe::read(&path)
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line() {
        let error = parse("seed = 1\n[synth]\nabilties = { animal = 3 }\n").unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("abilties") && text.contains("line 3"),
            "{text}"
        );
    }

    #[test]
    fn zero_and_a_thousand_million_samples_are_refused_by_name() {
        for count in ["0", "1000000000"] {
            let error = parse(&format!(
                "seed = 1\n[synth]\nabilities = {{ animal = {count} }}\n"
            ))
            .unwrap_err();
            let text = format!("{error:#}");
            assert!(
                text.contains("synth.abilities.animal") && text.contains(count),
                "{text}"
            );
        }
    }

    #[test]
    fn a_recipe_without_measuring_models_and_safety_keeps_its_hash() {
        let base = "seed = 1\n[synth]\nabilities = { animal = 3 }\n[synth.gates]\n";
        let plain = parse(base).unwrap();
        let written = serde_json::to_string(&plain).unwrap();
        assert!(!written.contains("measure") && !written.contains("refuse_unsafe"));
        let off = parse(&format!("{base}refuse_unsafe = false\n")).unwrap();
        assert_eq!(plain.synthesis_hash(), off.synthesis_hash());
        let on = parse(&format!("{base}refuse_unsafe = true\n")).unwrap();
        assert_ne!(plain.synthesis_hash(), on.synthesis_hash());
        let model = "[synth.measure]\nscoring_model = \"models/siglip\"\n";
        let other = parse(&format!("{base}{model}")).unwrap();
        assert_ne!(plain.synthesis_hash(), other.synthesis_hash());
    }

    #[test]
    fn training_settings_do_not_change_the_identity_of_the_samples() {
        let base = "seed = 1\n[synth]\nabilities = { animal = 3 }\n";
        let train = "[train]\nbaseline_steps = 1\nalign = { steps = 1, learning_rate = 1e-3 }\ninstruct = { steps = 1, learning_rate = 1e-3 }\n";
        let (plain, trained) = (
            parse(base).unwrap(),
            parse(&format!("{base}{train}")).unwrap(),
        );
        assert_eq!(plain.synthesis_hash(), trained.synthesis_hash());
        assert_ne!(plain.hash(), trained.hash());
        let other = parse("seed = 2\n[synth]\nabilities = { animal = 3 }\n").unwrap();
        assert_ne!(plain.synthesis_hash(), other.synthesis_hash());
    }
}
