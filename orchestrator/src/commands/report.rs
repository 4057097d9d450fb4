//! `diptych report`.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::{BadInput, Session};
use crate::{
    assets::Assets,
    cli::ReportArgs,
    experiment::{Record, RunFolder},
    files,
    recipe::Recipe,
    report,
    run_report::{self, BenchmarkFolders},
};

#[derive(Debug, Serialize)]
struct Outcome {
    report: String,
}

pub(super) async fn execute(args: ReportArgs, session: &Session) -> Result<()> {
    let ReportArgs { run, out } = args;
    write(&RunFolder::new(run), &out, &session.assets)
        .await
        .map_err(|error| error.context(BadInput))?;
    let outcome = Outcome {
        report: out.display().to_string(),
    };
    session.say(&outcome, &outcome.report)
}

/// Writes the report of a run.
pub(super) async fn write(folder: &RunFolder, out: &Path, assets: &Assets) -> Result<()> {
    let report = run_report::gather(folder, &benchmarks(folder, assets)?).await?;
    files::write(out, report::render(&report).as_bytes())
}

fn benchmarks(folder: &RunFolder, assets: &Assets) -> Result<BenchmarkFolders> {
    let record = files::read_json::<Record>(&folder.record())?.unwrap_or_default();
    let recipe: Option<Recipe> = toml::from_str(&record.recipe).ok();
    let real = recipe
        .and_then(|recipe| recipe.eval)
        .map(|eval| assets.benchmark(&eval.real_benchmark));
    let generated = [("ai_generated".to_owned(), folder.benchmark())];
    Ok(generated
        .into_iter()
        .chain(real.map(|path| ("real".to_owned(), path)))
        .collect())
}
