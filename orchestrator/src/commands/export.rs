//! `diptych export`.

use anyhow::Result;
use dataset::export::{Error, Exported, Settings, TargetError, export};
use serde::Serialize;

use super::{BadInput, Session, open_dataset};
use crate::{
    cli::{ExportArgs, ExportFormat},
    progress::Progress,
};

#[derive(Debug, Serialize)]
struct Outcome {
    samples: u64,
    images: u64,
    files: u64,
    path: String,
}

pub(super) async fn execute(args: ExportArgs, session: &Session) -> Result<()> {
    let reader = open_dataset(&args.dataset).await?;
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
        path: args.out.display().to_string(),
    };
    let sentence = format!(
        "{sample_count} samples with {image_count} pictures in {}",
        outcome.path
    );
    session.say(&outcome, &sentence)
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
