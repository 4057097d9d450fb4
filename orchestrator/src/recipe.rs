//! The recipe: one TOML file that decides a whole experiment.
//!
//! Every key has a default but `seed` and `synth.abilities`; a key that is not
//! known is an error, since a misspelt key that is ignored costs a night. A bound that its measure
//! cannot reach is one too: it would let everything through, or nothing.

mod gates;
mod training;

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use self::{
    gates::Gates,
    training::{Eval, Stage, Train},
};
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
    /// Rounds that make anew what repeats a sample of another partition, 0 to 16; the attempts of a
    /// slot are counted over all of them. What repeats after the last is taken out. With 0 partitions
    /// are not compared with each other.
    #[serde(default = "default_rounds", skip_serializing_if = "is_default_rounds")]
    pub max_rounds: u32,
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
    /// Back-end that promptgen must have: `grammar`, `openai` or `local`. Empty takes whatever an
    /// endpoint has, and the grammar in this process.
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
    /// Back-end that dialogue must have: `grammar`, `openai` or `local`. Empty takes whatever an
    /// endpoint has, and the grammar in this process.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub backend: String,
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
            self.synth.max_rounds <= MAX_ROUNDS,
            "`synth.max_rounds` is {}; it must lie in 0..={MAX_ROUNDS}",
            self.synth.max_rounds
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
            (0.0..=MAX_GUIDANCE).contains(&image.guidance),
            "`synth.image.guidance` is {}; it must lie in 0..={MAX_GUIDANCE}",
            image.guidance
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
            eval.check()?;
        }
        Ok(())
    }
}

/// More than any one ability has been asked for; a larger number is a typing error.
const MAX_SAMPLES_PER_ABILITY: u64 = 100_000_000;

/// Each round leaves a small share of the one before; what repeats then has nothing else to show.
const MAX_ROUNDS: u32 = 16;
/// As the schema has it.
const MAX_GUIDANCE: f32 = 100.0;

/// Beyond this, another prompt is the better use of a picture's time.
const MAX_SEEDS_PER_PROMPT: u32 = 16;

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

fn default_rounds() -> u32 {
    4
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_default_rounds(count: &u32) -> bool {
    *count == default_rounds()
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
    fn a_bound_that_its_measure_cannot_reach_is_refused_with_the_range() {
        for (gate, range) in [
            ("min_pixel_deviation = 300.0", "0..=127.5"),
            ("min_pixel_deviation = nan", "0..=127.5"),
            ("max_duplicate_distance = 257", "0..=256"),
            ("min_alignment = 25.0", "-1..=1"),
        ] {
            let text =
                format!("seed = 1\n[synth]\nabilities = {{ animal = 3 }}\n[synth.gates]\n{gate}\n");
            let text = format!("{:#}", parse(&text).unwrap_err());
            let key = gate.split(' ').next().unwrap_or_default();
            assert!(text.contains(key) && text.contains(range), "{text}");
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
