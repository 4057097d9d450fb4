//! How models are trained on the samples, and how they are evaluated.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::MAX_SAMPLES_PER_ABILITY;

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

impl Train {
    pub(super) fn check(&self) -> Result<()> {
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
                stage.learning_rate > 0.0 && stage.learning_rate.is_finite(),
                "`train.{name}.learning_rate` is {}; it must be a number over 0",
                stage.learning_rate
            );
            ensure!(
                (0.0..=1.0).contains(&stage.warmup_ratio),
                "`train.{name}.warmup_ratio` is {}; it must lie in 0..=1",
                stage.warmup_ratio
            );
            ensure!(
                stage.weight_decay >= 0.0 && stage.weight_decay.is_finite(),
                "`train.{name}.weight_decay` is {}; it must be 0 or more",
                stage.weight_decay
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

impl Eval {
    pub(super) fn check(&self) -> Result<()> {
        ensure!(
            self.questions_per_ability > 0,
            "`eval.questions_per_ability` is 0; it must be 1 or more"
        );
        ensure!(
            (1..=MAX_SAMPLES_PER_ABILITY).contains(&self.generated_images_per_ability),
            "`eval.generated_images_per_ability` is {}; it must lie in 1..={MAX_SAMPLES_PER_ABILITY}",
            self.generated_images_per_ability
        );
        Ok(())
    }
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

pub(super) fn default_real_benchmark() -> String {
    "builtin:nano-real".to_owned()
}

fn default_resamples() -> u32 {
    10_000
}
