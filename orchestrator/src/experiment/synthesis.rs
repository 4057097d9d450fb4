//! The first step: pictures and conversations that pass the gates.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use dataset::{plan::Partition, store::Location};

use super::{Run, advice::advice};
use crate::{
    progress::{Progress, warn},
    suite::Suite,
    synth::{self, Plan, Share, Summary},
};

impl Run<'_> {
    pub(super) async fn synthesize(&mut self) -> Result<()> {
        let started_at = Instant::now();
        let plan = Plan::training(self.recipe).with_evaluation_sets(self.assets)?;
        synth::check(self.suite, self.recipe).await?;
        warn_of_unchecked(self.suite, &plan).await?;
        let makers = synth::makers(self.suite, &plan).await?;
        self.note_makers(makers, &plan).await?;
        let summary = synthesize_with_progress(
            self.suite,
            &plan,
            &Location::Folder(self.folder.dataset()),
            Share {
                budget: self.budget,
                ..Share::ALL
            },
            "synthesis",
        )
        .await?;
        let stopped = summary.stopped_at_budget;
        self.record
            .manifest_sha256
            .clone_from(&summary.manifest_sha256);
        self.record.synthesis = summary;
        self.finish_step("synthesis", started_at)?;
        ensure!(
            !stopped,
            "stopped at the budget of {}: run it again to go on",
            self.budget
        );
        Ok(())
    }

    /// Notes who makes the dataset. A dataset has one set of makers: once begun, its record stays,
    /// and going on with others is refused.
    async fn note_makers(&mut self, makers: BTreeMap<String, String>, plan: &Plan) -> Result<()> {
        let before = &self.record.models;
        let dataset = Location::Folder(self.folder.dataset());
        let is_begun = synth::accepted(plan, &dataset, Share::ALL).await? > 0;
        if before.is_empty() || !is_begun {
            self.record.models = makers;
            return self.save();
        }
        if synth::is_complete(plan, &dataset).await? {
            return Ok(());
        }
        synth::check_makers(before, &makers, &self.folder.root().display())
    }
}

/// Says which gates of the recipe will let everything through, for want of a model or of data, and
/// names them.
///
/// # Errors
/// A service that does not answer.
pub async fn warn_of_unchecked(suite: &Suite, plan: &Plan) -> Result<Vec<String>> {
    let found = synth::unchecked(suite, plan).await?;
    found.iter().for_each(|lack| warn(&lack.to_string()));
    Ok(found.iter().map(|lack| lack.gate.to_owned()).collect())
}

/// What nobody checked, as the end of a sentence: `; not checked: safety (40 samples)`. Empty where all
/// that the recipe asks for was.
pub fn unchecked_words(summary: &Summary) -> String {
    let counts = summary.unchecked.iter();
    let counts: Vec<String> = counts
        .map(|(gate, count)| format!("{gate} ({count} samples)"))
        .collect();
    match counts.is_empty() {
        true => String::new(),
        false => format!("; not checked: {}", counts.join(", ")),
    }
}

/// Synthesizes with a bar that counts accepted samples.
///
/// # Errors
/// As [`synth::synthesize`].
pub async fn synthesize_with_progress(
    suite: &Suite,
    plan: &Plan,
    place: &Location,
    share: Share,
    name: &str,
) -> Result<Summary> {
    let wanted = synth::wanted(plan, share);
    let present = synth::accepted(plan, place, share).await?;
    let watcher = BarWatcher {
        progress: Progress::start(name, wanted),
        wanted,
        accepted: AtomicU64::new(present),
        images: AtomicU64::new(0),
    };
    let summary = synth::synthesize(suite, plan, place, share, &watcher).await?;
    let rejected: u64 = summary.rejected.values().sum();
    // A share of later rounds may be larger or smaller than what it lost.
    let wanted = summary.accepted + summary.missing;
    let mut text = format!(
        "{} of {wanted} samples, {rejected} rejected on the way",
        summary.accepted
    );
    if rejected > 0 {
        let counts = summary.rejected.iter();
        let counts: Vec<String> = counts
            .map(|(gate, count)| format!("{gate} {count}"))
            .collect();
        text.push_str(&format!(" ({})", counts.join(", ")));
    }
    if summary.repeated > 0 {
        text.push_str(&format!(
            "; {} repeated one of another partition, and their slots were made anew in {} rounds",
            summary.repeated, summary.later_rounds
        ));
    }
    text.push_str(&unchecked_words(&summary));
    watcher.progress.finish(&text);
    check_yield(&summary, wanted)?;
    Ok(summary)
}

/// Warns of samples that are missing for good, and refuses to call it done where all are.
fn check_yield(summary: &Summary, wanted: u64) -> Result<()> {
    let Summary {
        accepted, missing, ..
    } = *summary;
    if missing == 0 || summary.stopped_at_budget {
        return Ok(());
    }
    let counts = summary.rejected.iter();
    let counts = counts.map(|(gate, count)| format!("{gate} rejected {count}"));
    let reasons = counts.collect::<Vec<_>>().join(", ");
    ensure!(
        accepted > 0,
        "not one of {wanted} samples was accepted: {reasons}; {}, and choose another --out",
        advice(&summary.rejected)
    );
    warn(&format!(
        "{accepted} of {wanted} samples were accepted, {missing} could not be made within the attempts: {reasons}"
    ));
    Ok(())
}

struct BarWatcher {
    progress: Progress,
    wanted: u64,
    accepted: AtomicU64,
    images: AtomicU64,
}

impl synth::Watcher for BarWatcher {
    fn image_done(&self) {
        let images = self.images.fetch_add(1, Ordering::Relaxed) + 1;
        self.progress.set(
            self.accepted.load(Ordering::Relaxed),
            self.wanted,
            format!("accepted, {images} pictures"),
        );
    }

    fn sample_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    fn samples_dropped(&self, count: u64) {
        let left = |accepted: u64| Some(accepted.saturating_sub(count));
        // A function that always gives a value cannot fail.
        let _ = self
            .accepted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
    }

    fn waits_for(&self, partitions: usize) {
        self.progress.set(
            self.accepted.load(Ordering::Relaxed),
            self.wanted,
            format!("accepted; waiting for {partitions} partitions of other processes"),
        );
    }

    fn waited_in_vain(&self, wait: Duration, partitions: &[Partition]) {
        let Some(first) = partitions.first().filter(|_| !wait.is_zero()) else {
            return;
        };
        let what_now = match first.round {
            0 => "run this again when they have ended, or with a longer --wait",
            _ => "this process makes them itself",
        };
        warn(&format!(
            "waited {} s (--wait) for the next of {} partitions of other shares, such as {first}, and \
             none came: see whether their processes still run; {what_now}",
            wait.as_secs(),
            partitions.len()
        ));
    }
}
