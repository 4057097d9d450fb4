//! `diptych synth`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};
use clap::Args;
use dataset::store::Location;

use super::{BadInput, Session, folder::NewFolder, run::read_recipe};
use crate::{
    experiment::{synthesize_with_progress, unchecked_words, warn_of_unchecked},
    journals,
    suite::{JOURNALS, Needs},
    synth::{self, Budget, Plan, Share},
};

/// Arguments of `synth`.
#[derive(Debug, Args)]
pub struct SynthArgs {
    /// Recipe file.
    pub recipe: PathBuf,
    /// Folder of the dataset, or s3://BUCKET/PREFIX with AWS's own environment variables.
    #[arg(long, value_name = "DIR")]
    pub out: Location,
    /// Which share of the partitions to make, from 0.
    #[arg(long, default_value_t = 0, value_name = "I")]
    pub shard_index: u32,
    /// Into how many shares the partitions are dealt.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub shard_count: u32,
    /// What this may take before it stops, to be continued: 90s, 30m, 2h, 500images. Beyond it no
    /// partition of 64 samples is begun, and the two under way are ended: allow for as much.
    #[arg(long, value_name = "CAP")]
    pub budget: Option<Budget>,
    /// How long a process whose share is done waits for the next partition of the others, to share
    /// the later rounds too: 90s, 30m, 2h; 0s does not wait, and the last process to end makes the
    /// later rounds.
    #[arg(long, default_value = "0s", value_name = "TIME", value_parser = synth::wait)]
    pub wait: Duration,
}

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
    let share = Share {
        index: shard_index,
        count: shard_count,
        budget: budget.unwrap_or_default(),
        wait,
    };
    // A place that cannot be had, is another recipe's, or is damaged, is refused before any model is
    // loaded; and one that was made for a recipe that is refused then goes again.
    let journals = out
        .folder()
        .map(|out| journals::folder(out, shard_index, shard_count));
    let made = out
        .folder()
        .map(|out| NewFolder::make(out, journals.clone()));
    let _made = made.transpose()?;
    if let Some(folder) = out.folder() {
        refuse_foreign(folder).map_err(|error| error.context(BadInput))?;
    }
    let is_done = synth::is_complete(&plan, &out).await?;
    let needs = Needs {
        shard_count,
        ..Needs::synthesis(&recipe, journals)
    };
    let suite = session.open(&needs).await?;
    let summary = async {
        synth::check(&suite, &recipe).await?;
        if !is_done {
            warn_of_unchecked(&suite, &plan).await?;
        }
        synthesize_with_progress(&suite, &plan, &out, share, "synthesis").await
    }
    .await;
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
    sentence.push_str(&unchecked_words(&summary));
    session.say(&summary, &sentence)?;
    ensure!(
        !summary.stopped_at_budget,
        "stopped at the budget of {}: run it again to go on",
        share.budget
    );
    Ok(())
}

/// Refuses a folder that holds something else than a dataset, such as an export of one.
fn refuse_foreign(folder: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        // What is wrong with a folder that is there is said when it is written to.
        Ok(entries) if !folder.join(HEADER).exists() => entries,
        _ => return Ok(()),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_foreign = |name: &String| {
        // A header that was being written has more to its name; a journal may be there before it.
        let is_ours = name.starts_with(HEADER) || name == JOURNALS;
        !(is_ours || name == "lost+found" || name.starts_with('.'))
    };
    let mut foreign: Vec<String> = names.filter(is_foreign).collect();
    foreign.sort();
    foreign.truncate(3);
    ensure!(
        foreign.is_empty(),
        "{} is no dataset and holds other files ({}): choose a new or empty folder",
        folder.display(),
        foreign.join(", ")
    );
    Ok(())
}

/// What every dataset has.
const HEADER: &str = "dataset.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_an_export_is_refused_and_one_with_journals_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        assert!(refuse_foreign(&out.join("new")).is_ok());
        std::fs::create_dir(out.join(JOURNALS)).unwrap();
        assert!(refuse_foreign(out).is_ok());
        std::fs::write(out.join("data.json"), "[]").unwrap();
        let refused = refuse_foreign(out).unwrap_err().to_string();
        assert!(refused.contains("(data.json)"), "{refused}");
        std::fs::write(out.join(HEADER), "{}").unwrap();
        assert!(refuse_foreign(out).is_ok());
    }
}
