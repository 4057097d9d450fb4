//! `diptych export`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use dataset::{
    export::{Error, Exported, Settings, TargetError, export},
    store::{Location, Reader, Step},
};
use serde::Serialize;

use super::{BadInput, Session, open_dataset};
use crate::progress::{Progress, warn};

#[derive(Debug, Serialize)]
struct Outcome {
    samples: u64,
    images: u64,
    files: u64,
    /// Partitions of 64 samples that are not made yet; 0 for a dataset that is finished.
    missing_partitions: u64,
    path: String,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Dataset: a folder, or s3://BUCKET/PREFIX.
    pub dataset: Location,
    /// Format.
    #[arg(long, value_enum)]
    pub format: ExportFormat,
    /// Folder to write; new or empty.
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// Export what is there of a dataset that is not finished, with a warning; without it such a dataset
    /// is refused, since running `diptych synth` again completes it.
    #[arg(long)]
    pub allow_partial: bool,
    /// Size after which the next file is begun, in MiB (webdataset, hf).
    #[arg(long, default_value_t = 512, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub max_file_mib: u64,
}

/// Formats a dataset can be exported to.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ExportFormat {
    /// `data.json` and `images/`, as LLaVA's own training code reads.
    Llava,
    /// `data.jsonl` with `conversations` and `images`, and `images/`.
    Sharegpt,
    /// `data.jsonl` with `messages` of content parts, and `images/`.
    Messages,
    /// Tar files, as the package `webdataset` reads.
    Webdataset,
    /// Parquet files and a card, as `datasets.load_dataset` reads.
    Hf,
}

pub(super) async fn execute(args: ExportArgs, session: &Session) -> Result<()> {
    let reader = open_dataset(&args.dataset).await?;
    let missing_partitions = reader.missing().count() as u64;
    let is_compared = reader.is_compared().await?;
    check_whole(&args, &reader, is_compared).map_err(|error| error.context(BadInput))?;
    let settings = Settings {
        format: args.format.into(),
        max_file_bytes: args.max_file_mib << 20,
    };
    let total = reader.sample_count();
    let progress = Progress::start("export", total);
    let mut watch = |done| progress.set(done, total, "samples");
    let done = export(&reader, &args.out, &settings, &mut watch).await;
    let Exported {
        sample_count,
        image_count,
        file_count,
    } = done.map_err(complaint)?;
    progress.finish(&format!("{sample_count} samples"));
    let outcome = Outcome {
        samples: sample_count,
        images: image_count,
        files: file_count,
        missing_partitions,
        path: args.out.display().to_string(),
    };
    let sentence = format!(
        "{sample_count} samples with {image_count} pictures in {}",
        outcome.path
    );
    session.say(&outcome, &sentence)
}

/// Refuses a dataset that is still to be completed, or warns where it is wanted as it is.
fn check_whole(args: &ExportArgs, reader: &Reader, is_compared: bool) -> Result<()> {
    let lack = match reader.standing().step(reader.plan(), is_compared) {
        Step::Done => return Ok(()),
        Step::Make { round, missing } => {
            let (missing, all) = (
                missing.len(),
                reader.partitions().len() + reader.missing().count(),
            );
            let round = match round {
                0 => String::new(),
                round => format!(" of round {round}, which makes anew what repeats,"),
            };
            format!("{missing} of {all} partitions{round} are missing")
        }
        Step::Compare { .. } => {
            "its partitions were not looked through for samples that repeat others".to_owned()
        }
    };
    let planned: u64 = reader.plan().sample_counts.values().sum();
    let there = reader.sample_count();
    let sentence = format!(
        "{} is not finished: {there} of {planned} samples are there, {lack}",
        args.dataset
    );
    ensure!(
        args.allow_partial,
        "{sentence}; run its synthesis again to complete it, or export what is there with --allow-partial"
    );
    warn(&sentence);
    Ok(())
}

/// A target that holds something is the caller's mistake.
fn complaint(error: Error) -> anyhow::Error {
    let is_mistake = matches!(error, Error::Target(TargetError::NotEmpty(_)));
    let error = anyhow::Error::from(error);
    match is_mistake {
        true => error.context(BadInput),
        false => error,
    }
}

impl From<ExportFormat> for dataset::export::Format {
    fn from(format: ExportFormat) -> Self {
        match format {
            ExportFormat::Llava => Self::Llava,
            ExportFormat::Sharegpt => Self::ShareGpt,
            ExportFormat::Messages => Self::Messages,
            ExportFormat::Webdataset => Self::WebDataset,
            ExportFormat::Hf => Self::HuggingFace,
        }
    }
}
