//! `diptych export`.

use anyhow::Result;
use serde::Serialize;

use dataset::store::Reader;

use super::{BadInput, Session};
use crate::cli::{ExportArgs, ExportFormat};

#[derive(Debug, Serialize)]
struct Outcome {
    samples: u64,
    path: String,
}

pub(super) async fn execute(args: ExportArgs, session: &Session) -> Result<()> {
    let ExportArgs {
        dataset,
        format,
        out,
    } = args;
    let reader = match dataset.open().map_err(anyhow::Error::from) {
        Ok(root) => Reader::open(root).await.map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    let reader = reader.map_err(|error| error.context(BadInput))?;
    let samples = match format {
        ExportFormat::Llava => dataset::llava::export(&reader, &out).await?.sample_count,
    };
    let outcome = Outcome {
        samples,
        path: out.display().to_string(),
    };
    session.say(&outcome, &format!("{samples} samples in {}", outcome.path))
}
