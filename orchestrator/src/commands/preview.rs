//! `diptych preview`: the first samples of a recipe, in a page.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use dataset::store::Location;
use serde::Serialize;

use super::{Session, check_target, run::read_recipe};
use crate::{
    bad_input::BadInput,
    experiment::{Record, RunFolder, synthesize_with_progress, unchecked_words, warn_of_unchecked},
    files,
    recipe::Recipe,
    report,
    run_report::{self, BenchmarkFolders},
    suite::{JOURNALS, Needs},
    synth::{self, Plan, Share, Summary},
};

#[derive(Debug, Serialize)]
struct Outcome {
    out: String,
    samples: u64,
    rejected: BTreeMap<String, u64>,
    unchecked: BTreeMap<String, u64>,
}

/// Arguments of `preview`.
#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// Recipe file.
    pub recipe: PathBuf,
    /// Samples, taken from the abilities in turn.
    #[arg(short = 'n', long, default_value_t = 9, value_parser = clap::value_parser!(u64).range(1..=500), value_name = "COUNT")]
    pub count: u64,
    /// HTML file to write.
    #[arg(long, value_name = "FILE.html")]
    pub out: PathBuf,
}

pub(super) async fn execute(args: PreviewArgs, session: &Session) -> Result<()> {
    let PreviewArgs { recipe, count, out } = args;
    check_target(&out)?;
    let (mut recipe, _) = read_recipe(&recipe)?;
    recipe.synth.abilities = first_of(&recipe.synth.abilities, count);
    (recipe.train, recipe.eval) = (None, None);
    let temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
    let folder = RunFolder::new(temporary.path().to_path_buf());
    let summary = synthesize(&recipe, &folder, session).await?;
    let record = Record {
        name: recipe.name.clone(),
        recipe: toml::to_string_pretty(&recipe).context("cannot write the recipe down")?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        manifest_sha256: summary.manifest_sha256.clone(),
        synthesis: summary.clone(),
        ..Record::default()
    };
    files::write_json(&folder.record(), &record)?;
    let report = run_report::gather(&folder, &BenchmarkFolders::new(), count as usize).await?;
    files::write(&out, report::render(&report).as_bytes())?;
    let unchecked = unchecked_words(&summary);
    let outcome = Outcome {
        out: out.display().to_string(),
        samples: summary.accepted,
        rejected: summary.rejected,
        unchecked: summary.unchecked,
    };
    let sentence = format!("{} samples in {}{unchecked}", outcome.samples, outcome.out);
    session.say(&outcome, &sentence)
}

async fn synthesize(recipe: &Recipe, folder: &RunFolder, session: &Session) -> Result<Summary> {
    let plan = Plan::training(recipe)
        .with_evaluation_sets(&session.assets)
        .map_err(|error| error.context(BadInput))?;
    let needs = Needs::synthesis(recipe, Some(folder.root().join(JOURNALS)));
    let suite = session.open(&needs).await?;
    let place = Location::Folder(folder.dataset());
    let made = async {
        synth::check(&suite, recipe).await?;
        warn_of_unchecked(&suite, &plan).await?;
        synthesize_with_progress(&suite, &plan, &place, Share::ALL, "preview").await
    };
    let made = made.await;
    suite.close().await?;
    made
}

/// The first slots of the abilities in turn, `count` in all or fewer where the recipe has fewer; their
/// ids, and so their first prompts and pictures, are those of the whole run.
fn first_of(wanted: &BTreeMap<String, u64>, count: u64) -> BTreeMap<String, u64> {
    let mut shown: BTreeMap<String, u64> = BTreeMap::new();
    let mut left = count;
    while left > 0 {
        let before = left;
        for (ability, &most) in wanted {
            let slots = shown.get(ability).copied().unwrap_or_default();
            if left > 0 && slots < most {
                shown.insert(ability.clone(), slots + 1);
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_takes_from_each_ability_in_turn_and_no_more_than_there_is() {
        let wanted = |counts: &[(&str, u64)]| -> BTreeMap<String, u64> {
            let pairs = counts.iter().map(|&(name, count)| (name.to_owned(), count));
            pairs.collect()
        };
        let recipe = wanted(&[("animal", 20), ("color", 1), ("food", 20)]);
        let nine = wanted(&[("animal", 4), ("color", 1), ("food", 4)]);
        assert_eq!(first_of(&recipe, 9), nine);
        assert_eq!(first_of(&recipe, 1), wanted(&[("animal", 1)]));
        assert_eq!(first_of(&recipe, 1_000), recipe);
    }
}
