//! `diptych synth`.

use anyhow::{Result, ensure};

use super::{BadInput, Session, make_folder, run::read_recipe};
use crate::{
    cli::SynthArgs,
    experiment::synthesize_with_progress,
    suite::{Needs, ServiceName},
    synth::{Plan, Share},
};

pub(super) async fn execute(args: SynthArgs, session: &Session) -> Result<()> {
    let SynthArgs {
        recipe,
        out,
        shard_index,
        shard_count,
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
    make_folder(&out)?;
    let needs = Needs {
        image_model: recipe.synth.image.model.clone(),
        measures: true,
        ..Needs::services(&[
            ServiceName::Promptgen,
            ServiceName::Diffusion,
            ServiceName::Dialogue,
        ])
    };
    let suite = session.open(&needs).await?;
    let share = Share {
        index: shard_index,
        count: shard_count,
    };
    let summary = synthesize_with_progress(&suite, &plan, &out, share, "synthesis").await;
    suite.close().await?;
    let summary = summary?;
    let sentence = format!(
        "{} samples in {} (manifest {})",
        summary.accepted,
        out.display(),
        summary.manifest_sha256
    );
    session.say(&summary, &sentence)
}
