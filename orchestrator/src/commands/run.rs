//! `diptych run`.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};
use clap::Args;

use super::{BadInput, Session, folder::NewFolder, report};
use crate::{
    experiment::{self, Record, RunFolder},
    files,
    recipe::Recipe,
    scores::Scores,
    suite::{JOURNALS, Needs, ServiceName, parse_endpoints},
    synth::Budget,
};

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Recipe file.
    pub recipe: PathBuf,
    /// Folder of the run.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// What making the dataset may take before it stops, to be continued: 90s, 30m, 2h, 500images;
    /// the benchmark's pictures, training and evaluation are not counted. Beyond it no partition of
    /// 64 samples is begun, and the two under way are ended: allow for as much.
    #[arg(long, value_name = "CAP")]
    pub budget: Option<Budget>,
}

pub(super) async fn execute(args: RunArgs, session: &Session) -> Result<()> {
    let RunArgs {
        recipe: recipe_path,
        out,
        budget,
    } = args;
    let budget = budget.unwrap_or_default();
    let (recipe, text) = read_recipe(&recipe_path)?;
    let folder = RunFolder::new(&out);
    if experiment::is_finished(&recipe, &folder, &session.assets)
        .await
        .map_err(|error| error.context(BadInput))?
    {
        return finish(session, &folder, "finished before; nothing was done");
    }
    check_built_ins(&recipe, &session.global.endpoints)?;
    let inputs = inputs(&recipe).map_err(|error| error.context(BadInput))?;
    let _made = NewFolder::make(&out, Some(out.join(JOURNALS)))?;
    // The services keep their records under the first root.
    let roots = [
        std::path::absolute(&out)?,
        session.assets.root().to_path_buf(),
        session.assets.base_data(),
    ];
    let needs = Needs {
        services: ServiceName::ALL.to_vec(),
        artefact_roots: roots.into_iter().chain(inputs).collect(),
        ..Needs::synthesis(&recipe, Some(out.join(JOURNALS)))
    };
    let suite = session.open(&needs).await?;
    let outcome = experiment::run(&suite, &session.assets, &recipe, &text, &folder, budget).await;
    suite.close().await?;
    outcome?;
    report::write(&folder, &folder.report(), &session.assets).await?;
    finish(session, &folder, "done")
}

/// Folders of this machine that the recipe names, which services in this process may read.
pub(super) fn inputs(recipe: &Recipe) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    let is_path = |name: &str| !name.starts_with("builtin:");
    if let Some(train) = &recipe.train {
        if is_path(&train.model) {
            folders.push(existing("train.model", Path::new(&train.model))?);
        }
        if is_path(&train.base_data) {
            let file = existing("train.base_data", Path::new(&train.base_data))?;
            folders.extend(file.parent().map(Path::to_path_buf));
        }
    }
    if let Some(eval) = &recipe.eval
        && is_path(&eval.real_benchmark)
    {
        folders.push(existing(
            "eval.real_benchmark",
            Path::new(&eval.real_benchmark),
        )?);
    }
    Ok(folders)
}

/// Built-in names of models and data that services of this process must know; a service elsewhere
/// may know others.
const BUILT_INS: [(&str, ServiceName, &str); 3] = [
    ("train.model", ServiceName::Trainer, "builtin:nano-llava"),
    ("train.base_data", ServiceName::Trainer, "builtin:nano-base"),
    (
        "eval.real_benchmark",
        ServiceName::Eval,
        "builtin:nano-real",
    ),
];

/// Refuses an unknown built-in name now: the step that needs it may come hours later.
pub(super) fn check_built_ins(recipe: &Recipe, endpoints: &[String]) -> Result<()> {
    let elsewhere = parse_endpoints(endpoints)?;
    let (train, eval) = (recipe.train.as_ref(), recipe.eval.as_ref());
    let named = [
        train.map(|train| &train.model),
        train.map(|train| &train.base_data),
        eval.map(|eval| &eval.real_benchmark),
    ];
    for ((key, service, known), name) in BUILT_INS.into_iter().zip(named) {
        let Some(name) = name.filter(|_| !elsewhere.contains_key(&service)) else {
            continue;
        };
        if name.starts_with("builtin:") && name != known {
            let unknown = anyhow!("`{key}`: there is no `{name}`; the built-in one is {known}");
            return Err(unknown.context(BadInput));
        }
    }
    Ok(())
}

fn existing(key: &str, path: &Path) -> Result<PathBuf> {
    ensure!(
        path.exists(),
        "`{key}`: there is nothing at {}",
        path.display()
    );
    Ok(std::path::absolute(path)?)
}

fn finish(session: &Session, folder: &RunFolder, how: &str) -> Result<()> {
    let record = files::read_json::<Record>(&folder.record())?.unwrap_or_default();
    let scores = files::read_json::<Scores>(&folder.scores())?.unwrap_or_default();
    let sentence = format!(
        "{how}: {} samples in {} (manifest {}){}\n{}\nreport: {}",
        record.synthesis.accepted,
        folder.dataset().display(),
        record.manifest_sha256,
        experiment::unchecked_words(&record.synthesis),
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
