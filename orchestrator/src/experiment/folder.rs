//! Where things lie in the folder of a run.

use std::path::{Path, PathBuf};

/// The folder of a run and where things lie in it.
#[derive(Debug, Clone)]
pub struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    /// The run in `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Synthesized samples.
    pub fn dataset(&self) -> PathBuf {
        self.root.join("dataset")
    }

    /// Held-out samples that the AI-generated benchmark is made from.
    pub fn held_out(&self) -> PathBuf {
        self.root.join("benchmark/dataset")
    }

    /// The AI-generated benchmark.
    pub fn benchmark(&self) -> PathBuf {
        self.root.join("benchmark/ai_generated")
    }

    /// One training run, by [`run_name`](super::run_name).
    pub fn training(&self, name: &str) -> PathBuf {
        self.root.join("train").join(name)
    }

    /// Answers of the models.
    pub fn evaluation(&self) -> PathBuf {
        self.root.join("eval")
    }

    /// Scores.
    pub fn scores(&self) -> PathBuf {
        self.root.join("eval.json")
    }

    /// Report.
    pub fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }

    /// Recipe, versions, hashes and timings.
    pub fn record(&self) -> PathBuf {
        self.root.join("run.json")
    }
}
