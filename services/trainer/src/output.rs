//! The folder of a run: who owns it, its metrics, its result.
//!
//! `plan.json` names the plan and is made once. `metrics.jsonl` has one line per step and no clock,
//! so that the same plan gives the same bytes. `checkpoints/step-N/` are whole or absent. `model/`
//! and `outcome.json` appear at the end.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use models::weights::hex;
use runtime::artefact::{create_new, write_atomic};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::events::EventWriter;
use crate::plan::Plan;

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Steps done in all stages, this one included.
    pub step: u64,
    /// Name of the stage.
    pub stage: String,
    /// Mean loss per supervised token.
    pub loss: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Positions of the step, pictures included.
    pub tokens: u64,
    /// Supervised positions of the step.
    pub supervised: u64,
    /// Samples of the step.
    pub samples: u64,
}

/// A file or folder of the output, hashed when it was finished.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Written {
    /// Where it lies.
    pub path: PathBuf,
    /// Of the file, or of the folder's manifest.
    pub sha256: String,
    /// Of the file, or of all files in the folder.
    pub size_bytes: u64,
}

impl Written {
    /// Hashes what was written.
    ///
    /// # Errors
    /// Something that cannot be read.
    pub(crate) fn hash(path: PathBuf) -> Result<Self, Error> {
        let failed = |source| Error::Artefact {
            field: "spec.output".into(),
            source,
        };
        let (sha256, size_bytes) = runtime::artefact::digest(&path).map_err(failed)?;
        Ok(Self {
            path,
            sha256,
            size_bytes,
        })
    }
}

/// What a run left, for a caller that asks again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// The model's folder.
    pub model: Written,
    /// The metrics.
    pub metrics: Written,
    /// Samples that supervise nothing.
    pub skipped_sample_count: u64,
    /// Loss of the last step.
    pub final_loss: f64,
    /// Supervised positions in all.
    pub supervised_token_count: u64,
    /// Hashes of the base and of all stages' sources.
    #[serde(default)]
    pub inputs: Vec<String>,
}

/// An output folder that belongs to one plan.
#[derive(Debug)]
pub(crate) struct Output {
    folder: PathBuf,
    plan_sha256: String,
}

impl Output {
    /// Takes the folder for `plan`, or finds it taken by the same plan before.
    ///
    /// # Errors
    /// [`Error::FolderTaken`], or a folder that cannot be written.
    pub(crate) fn claim(plan: &Plan) -> Result<Self, Error> {
        let plan_sha256 = hex(&Sha256::digest(plan.request.as_bytes()));
        let path = plan.output.join("plan.json");
        let run = json!({
            "plan_sha256": plan_sha256,
            "base": plan.base_name,
            "seed": plan.seed,
            "version": env!("CARGO_PKG_VERSION"),
            "stages": plan.stages,
        });
        let text = serde_json::to_vec_pretty(&run).unwrap_or_default();
        let is_new = create_new(&path, &text).map_err(Error::write(&path))?;
        let output = Self {
            folder: plan.output.clone(),
            plan_sha256,
        };
        if !is_new {
            let found = std::fs::read(&path).unwrap_or_default();
            let found: serde_json::Value = serde_json::from_slice(&found).unwrap_or_default();
            if found["plan_sha256"] != output.plan_sha256.as_str() {
                return Err(Error::FolderTaken {
                    folder: output.folder,
                });
            }
        }
        Ok(output)
    }

    /// The plan's hash, as checkpoints carry it.
    pub(crate) fn plan_sha256(&self) -> &str {
        &self.plan_sha256
    }

    /// Where checkpoints lie.
    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.folder.join("checkpoints")
    }

    /// Where the model goes.
    pub(crate) fn model(&self) -> PathBuf {
        self.folder.join("model")
    }

    /// The result of the plan, if it was finished before.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        let bytes = std::fs::read(self.folder.join("outcome.json")).ok()?;
        let outcome: Outcome = serde_json::from_slice(&bytes).ok()?;
        outcome
            .model
            .path
            .join("model.safetensors")
            .is_file()
            .then_some(outcome)
    }

    /// Writes the result; the run is finished then.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(crate) fn finish(&self, outcome: &Outcome) -> Result<(), Error> {
        let path = self.folder.join("outcome.json");
        write_atomic(
            &path,
            &serde_json::to_vec_pretty(outcome).unwrap_or_default(),
        )
        .map_err(Error::write(&path))
    }

    /// Opens the logs after `done` steps: lines of later steps, left by an owner that was killed,
    /// are cut off. Each owner has an event file of its own.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(crate) fn logs(&self, done: u64, epoch: u64) -> Result<Logs, Error> {
        let path = self.metrics();
        let earlier = std::fs::read_to_string(&path).unwrap_or_default();
        let is_done = |line: &&str| {
            serde_json::from_str::<Metric>(line).is_ok_and(|metric| metric.step <= done)
        };
        let kept: String = earlier
            .lines()
            .take_while(is_done)
            .map(|line| format!("{line}\n"))
            .collect();
        write_atomic(&path, kept.as_bytes()).map_err(Error::write(&path))?;
        let metrics = OpenOptions::new()
            .append(true)
            .open(&path)
            .map_err(Error::write(&path))?;
        let events = self
            .folder
            .join(format!("events.out.tfevents.{epoch:010}.diptych"));
        let events = EventWriter::create(&events).map_err(Error::write(events))?;
        Ok(Logs {
            path,
            metrics,
            events,
        })
    }

    /// The metrics file.
    pub(crate) fn metrics(&self) -> PathBuf {
        self.folder.join("metrics.jsonl")
    }
}

/// `metrics.jsonl` and the event file.
#[derive(Debug)]
pub(crate) struct Logs {
    path: PathBuf,
    metrics: File,
    events: EventWriter,
}

impl Logs {
    /// Adds one step.
    ///
    /// # Errors
    /// A disk that is full.
    pub(crate) fn add(&mut self, metric: &Metric) -> Result<(), Error> {
        let mut line = serde_json::to_vec(metric).unwrap_or_default();
        line.push(b'\n');
        self.metrics
            .write_all(&line)
            .map_err(Error::write(&self.path))?;
        let scalars = [
            ("train/loss", metric.loss),
            ("train/learning_rate", metric.lr),
            ("train/gradient_norm", metric.grad_norm),
            ("train/supervised_tokens", metric.supervised as f64),
        ];
        self.events
            .scalars(metric.step, &scalars)
            .map_err(Error::write(&self.path))
    }

    /// Makes sure that all lines are on the disk.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.metrics.sync_all().map_err(Error::write(&self.path))
    }
}

/// Folders `step-N` under `folder`, the newest first.
pub(crate) fn step_folders(folder: &Path) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let step = entry
                .file_name()
                .to_str()?
                .strip_prefix("step-")?
                .parse()
                .ok()?;
            Some((step, entry.path()))
        })
        .collect();
    found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    found
}
