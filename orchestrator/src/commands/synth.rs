//! `diptych synth`.

use anyhow::{Result, ensure};

use super::{BadInput, Session, make_folder, run::read_recipe};
use crate::{
    cli::SynthArgs,
    experiment::synthesize_with_progress,
    suite::{JOURNALS, Needs},
    synth::{self, Plan, Share},
};

pub(super) async fn execute(args: SynthArgs, session: &Session) -> Result<()> {
    let SynthArgs {
        recipe,
        out,
        shard_index,
        shard_count,
        budget,
    } = args;
    let (recipe, _) = read_recipe(&recipe)?;
    let in_range = || -> Result<()> {
        ensure!(
            shard_index < shard_count,
            "--shard-index {shard_index} is not below --shard-count {shard_count}"
        );
        Ok(())
    };
    in_range().map_err(|error| error.context(BadInput))?;
    let plan = Plan::training(&recipe)
        .with_evaluation_sets(&session.assets)
        .map_err(|error| error.context(BadInput))?;
    if let Some(folder) = out.folder() {
        make_folder(folder)?;
    }
    // A journal belongs to one process.
    let journals = out.folder().map(|out| match shard_count {
        1 => out.join(JOURNALS),
        _ => out.join(JOURNALS).join(format!("shard-{shard_index}")),
    });
    let needs = Needs::synthesis(&recipe, journals);
    let suite = session.open(&needs).await?;
    let share = Share {
        index: shard_index,
        count: shard_count,
        budget: budget.unwrap_or_default(),
    };
    let summary = async {
        synth::check(&suite, &recipe).await?;
        synthesize_with_progress(&suite, &plan, &out, share, "synthesis").await
    }
    .await;
    suite.close().await?;
    let summary = summary?;
    let sentence = format!(
        "{} samples in {} (manifest {})",
        summary.accepted, out, summary.manifest_sha256
    );
    session.say(&summary, &sentence)?;
    ensure!(
        !summary.stopped_at_budget,
        "stopped at the budget of {}: run it again to go on",
        share.budget
    );
    Ok(())
}
