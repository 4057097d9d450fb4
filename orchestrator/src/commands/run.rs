//! `diptych run`.

use std::path::Path;

use anyhow::Result;

use super::{BadInput, Session, make_folder, report};
use crate::{
    cli::RunArgs,
    experiment::{self, Record, RunFolder},
    files,
    recipe::Recipe,
    scores::Scores,
    suite::{Needs, ServiceName},
};

pub(super) async fn execute(args: RunArgs, session: &Session) -> Result<()> {
    let RunArgs {
        recipe: recipe_path,
        out,
    } = args;
    let (recipe, text) = read_recipe(&recipe_path)?;
    let folder = RunFolder::new(&out);
    if experiment::is_finished(&recipe, &folder)
        .await
        .map_err(|error| error.context(BadInput))?
    {
        return finish(session, &folder, "finished before; nothing was done");
    }
    make_folder(&out)?;
    let needs = Needs {
        services: ServiceName::ALL.to_vec(),
        artefact_roots: vec![
            std::path::absolute(&out)?,
            session.assets.root().to_path_buf(),
            session.assets.base_data(),
        ],
        image_model: recipe.synth.image.model.clone(),
    };
    let suite = session.open(&needs).await?;
    let outcome = experiment::run(&suite, &session.assets, &recipe, &text, &folder).await;
    suite.close().await?;
    outcome?;
    report::write(&folder, &folder.report(), &session.assets).await?;
    finish(session, &folder, "done")
}

fn finish(session: &Session, folder: &RunFolder, how: &str) -> Result<()> {
    let record = files::read_json::<Record>(&folder.record())?.unwrap_or_default();
    let scores = files::read_json::<Scores>(&folder.scores())?.unwrap_or_default();
    let sentence = format!(
        "{how}: {} samples in {} (manifest {})\n{}\nreport: {}",
        record.synthesis.accepted,
        folder.dataset().display(),
        record.manifest_sha256,
        experiment::verdict(&scores),
        folder.report().display()
    );
    session.say(&record, &sentence)
}

/// Reads a recipe and keeps its text.
pub(super) fn read_recipe(path: &Path) -> Result<(Recipe, String)> {
    let recipe = Recipe::read(path).map_err(|error| error.context(BadInput))?;
    Ok((recipe, std::fs::read_to_string(path)?))
}
