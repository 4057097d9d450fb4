//! `diptych synth`.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{BadInput, Session, make_folder, run::read_recipe};
use crate::{
    cli::SynthArgs,
    experiment::synthesize_with_progress,
    journals,
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
        refuse_foreign(folder).map_err(|error| error.context(BadInput))?;
        make_folder(folder)?;
    }
    let share = Share {
        index: shard_index,
        count: shard_count,
        budget: budget.unwrap_or_default(),
        wait,
    };
    // A place that cannot be had, or is another recipe's, is refused before any model is loaded.
    synth::accepted(&plan, &out, share).await?;
    let journals = out
        .folder()
        .map(|out| journals::folder(out, shard_index, shard_count));
    let needs = Needs {
        shard_count,
        ..Needs::synthesis(&recipe, journals)
    };
    let suite = session.open(&needs).await?;
    let summary = async {
        synth::check(&suite, &recipe).await?;
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
