//! `diptych report`.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::{BadInput, Session, check_target};
use crate::{
    assets::Assets,
    cli::ReportArgs,
    experiment::{Record, RunFolder},
    files,
    recipe::Recipe,
    report::{self, Report},
    run_report::{self, BenchmarkFolders, PAIRS_PER_ABILITY},
};

#[derive(Debug, Serialize)]
struct Outcome {
    report: String,
}

pub(super) async fn execute(args: ReportArgs, session: &Session) -> Result<()> {
    let ReportArgs { run, out } = args;
    check_target(&out)?;
    let folder = RunFolder::new(run);
    let report = gather(&folder, &session.assets).await;
    let report = report.map_err(|error| error.context(BadInput))?;
    files::write(&out, report::render(&report).as_bytes())?;
    let outcome = Outcome {
        report: out.display().to_string(),
    };
    session.say(&outcome, &outcome.report)
}

/// Writes the report of a run.
pub(super) async fn write(folder: &RunFolder, out: &Path, assets: &Assets) -> Result<()> {
    let report = gather(folder, assets).await?;
    files::write(out, report::render(&report).as_bytes())
}

async fn gather(folder: &RunFolder, assets: &Assets) -> Result<Report> {
    let benchmarks = benchmarks(folder, assets)?;
    run_report::gather(folder, &benchmarks, PAIRS_PER_ABILITY).await
}

fn benchmarks(folder: &RunFolder, assets: &Assets) -> Result<BenchmarkFolders> {
    let record = files::read_json::<Record>(&folder.record())?.unwrap_or_default();
    let recipe: Option<Recipe> = toml::from_str(&record.recipe).ok();
    let real = recipe
        .and_then(|recipe| recipe.eval)
        .map(|eval| assets.benchmark(&eval.real_benchmark))
        .transpose()?;
    let generated = [("ai_generated".to_owned(), folder.benchmark())];
    Ok(generated
        .into_iter()
        .chain(real.map(|path| ("real".to_owned(), path)))
        .collect())
}
