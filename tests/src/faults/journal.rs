//! The journal of a language model's answers, before and after each of its lines is on the disk.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Result, bail, ensure};
use dataset::store::kill_point;

use super::{Dataset, MAX_STARTS, SIGABRT, Tally, complaint};
use crate::{checkout, obedient_model, obedient_model::ObedientModel, program};

/// Places of a journal; see `llm::Journal`.
const POINTS: [&str; 2] = ["journal.before", "journal.after"];

/// Both writing stages ask a language model, one question at a time.
const RECIPE: &str = r#"
seed = 5
[synth]
max_attempts = 4
abilities = { animal = 12 }
[synth.prompts]
backend = "openai"
[synth.dialogue]
backend = "openai"
[synth.image]
steps = 4
[synth.gates]
min_pixel_deviation = 4.0
dialogue_agrees = true
"#;
/// Questions under way at a time: one of promptgen, one of dialogue.
const UNDER_WAY: u64 = 2;

/// Ends the run at each point of its journals, at the first passage, the third, and so on: every
/// answer on the disk is used and never asked for again.
///
/// # Errors
/// A run that never ends, one that was not ended, or one that paid an answer twice.
pub fn journal_points(rounds: u32) -> Result<Tally> {
    let mut tally = Tally::of("points of the journal");
    if rounds == 0 {
        return Ok(tally);
    }
    let folder = tempfile::tempdir()?;
    let recipe = folder.path().join("recipe.toml");
    std::fs::write(&recipe, RECIPE)?;
    let model = ObedientModel::start();
    let run = Run { recipe, model };
    let (undisturbed, questions) = run.in_peace(&folder.path().join("peace"))?;
    for round in 0..rounds {
        for point in POINTS {
            let out = folder.path().join(format!("{point}-{round}"));
            let before = run.model.asked();
            let restarts = run.ended_at(point, 2 * round + 1, &out)?;
            let asked = run.model.asked() - before;
            ensure!(
                asked <= questions + UNDER_WAY,
                "{point}: {asked} questions where {questions} are enough"
            );
            tally.add(restarts, &Dataset::read(&out)?, &undisturbed);
        }
    }
    Ok(tally)
}

struct Run {
    recipe: PathBuf,
    model: ObedientModel,
}

impl Run {
    /// The dataset, and how many questions it took.
    fn in_peace(&self, out: &Path) -> Result<(Dataset, u64)> {
        if let Some(complaint) = complaint(self.synth(out))? {
            bail!("the undisturbed run failed: {complaint}");
        }
        let asked = self.model.asked();
        if let Some(complaint) = complaint(self.synth(out))? {
            bail!("running it again failed: {complaint}");
        }
        ensure!(
            asked > 0 && asked == self.model.asked(),
            "running it again asked again"
        );
        Ok((Dataset::read(out)?, asked))
    }

    /// Ends at a passage of a point, then runs to the end; how often it was started again.
    fn ended_at(&self, point: &str, passage: u32, out: &Path) -> Result<u32> {
        let mut command = self.synth(out);
        command.env(kill_point::VARIABLE, format!("{point}:{passage}"));
        let signal = command.status()?.signal();
        ensure!(signal == Some(SIGABRT), "{point}:{passage} did not end it");
        for start in 1..=MAX_STARTS {
            match complaint(self.synth(out))? {
                None => return Ok(start),
                Some(complaint) => eprintln!("start {start}: {complaint}"),
            }
        }
        bail!("{} did not end in {MAX_STARTS} starts", out.display())
    }

    fn synth(&self, out: &Path) -> Command {
        let mut command = program("diptych");
        command
            .env("DIPTYCH_ASSETS", checkout())
            .env("DIPTYCH_LLM_URL", self.model.url())
            .env("DIPTYCH_LLM_MODEL", obedient_model::NAME)
            .env("DIPTYCH_LLM_MAX_CONCURRENCY", "1")
            .arg("synth")
            .arg(&self.recipe)
            .arg("--out")
            .arg(out)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }
}
