//! `diptych synth`.

use anyhow::{Result, ensure};

use super::{BadInput, Session, make_folder, run::read_recipe};
use crate::{
    cli::SynthArgs,
    experiment::synthesize_with_progress,
    suite::{JOURNALS, Needs},
    synth::{Plan, Share},
};

pub(super) async fn execute(args: SynthArgs, session: &Session) -> Result<()> {
    let SynthArgs {
        recipe,
        out,
        shard_index,
        shard_count,
        budget,
        wait,
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
        wait,
    };
    let summary = synthesize_with_progress(&suite, &plan, &out, share, "synthesis").await;
    suite.close().await?;
    let summary = summary?;
    let mut sentence = format!(
        "{} samples in {} (manifest {})",
        summary.accepted, out, summary.manifest_sha256
    );
    if summary.awaited > 0 {
        sentence.push_str(&format!(
            "; {} partitions of other shares are missing: the last share to end makes the later \
             rounds, and so does this command when it is run again after it",
            summary.awaited
        ));
    }
    session.say(&summary, &sentence)?;
    ensure!(
        !summary.stopped_at_budget,
        "stopped at the budget of {}: run it again to go on",
        share.budget
    );
    Ok(())
}
