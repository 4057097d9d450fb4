//! One partition, from its slots to its accepted samples: a pure function of the recipe, so
//! that any number of processes gives the same dataset.
//!
//! Attempt by attempt: prompts for the slots that are still open, the prompt gates in slot order,
//! pictures, the picture gates, dialogues for what passed, the dialogue gates. A slot whose sample
//! is rejected stays open for the next attempt, until the attempts are spent.
//!
//! * `prompts`, `pictures`, `dialogues`: one stage each, with its gates.
//! * `earlier`: in a later round, what the rounds before it accepted.

mod dialogues;
mod earlier;
mod pictures;
mod prompts;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use dataset::{
    duplicates::Frozen,
    identity::{SampleId, SampleKey},
    image_hash::ImageHash,
    plan::{OpenSlot, Partition},
    store::PartitionTally,
};
use proto::dataset::v1::{Conversation, GateResult, Image, ItemFailure, Prompt, Sample};

use super::{
    Plan, Watcher,
    gates::{self, Held, NOT_MADE, SAFETY},
    stages::{self, Outcomes},
};
use crate::suite::Suite;

/// The reason of a picture that was made, flagged by the checkpoint's safety checker and withheld.
const WITHHELD: &str = "UNSAFE_IMAGE";

/// What one partition became.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Accepted samples, by slot.
    pub(super) samples: Vec<Sample>,
    /// Hashes of their pictures, likewise.
    pub(super) pictures: BTreeMap<u64, Vec<ImageHash>>,
    /// Examples of rejected ones, [`EXAMPLES_PER_GATE`] of each gate.
    pub(super) rejected: Vec<Sample>,
    /// What became of the attempts.
    pub(super) tally: PartitionTally,
}

/// What is to be made.
pub(super) struct Task<'a> {
    pub(super) partition: &'a Partition,
    /// What earlier rounds accepted; none in the first round.
    pub(super) frozen: Option<Arc<Frozen>>,
    /// Prompts with which its slots came to nothing in earlier rounds, where the next attempts are told.
    pub(super) failed_texts: Vec<String>,
}

/// Makes one partition.
///
/// # Errors
/// A stage that failed for good. A failed item is no error: it is counted and tried again.
pub(super) async fn make(
    suite: &Suite,
    plan: &Plan,
    task: Task<'_>,
    watcher: &dyn Watcher,
) -> Result<Outcome> {
    let Task {
        partition,
        frozen,
        failed_texts,
    } = task;
    let earlier_texts = frozen
        .as_ref()
        .map(|frozen| frozen.texts(&partition.ability));
    let mut work = Work {
        suite,
        plan,
        partition,
        watcher,
        picture_count: stages::picture_count(suite, &partition.ability).await?,
        outcome: Outcome::default(),
        held: Held::default(),
        texts: earlier_texts.unwrap_or_default().to_vec(),
        frozen,
        failed_texts,
    };
    let mut open: Vec<OpenSlot> = partition.open_slots().collect();
    for attempt in 0..plan.max_attempts {
        // A slot of a later round goes on behind the attempts that it has had.
        let due = open.iter().filter(|open| open.first_attempt <= attempt);
        let due: Vec<u64> = due.map(|open| open.slot).collect();
        if due.is_empty() {
            continue;
        }
        let left = work
            .attempt(&due, attempt)
            .await
            .with_context(|| format!("partition {partition}"))?;
        open.retain(|open| open.first_attempt > attempt || left.contains(&open.slot));
    }
    work.outcome.tally.unfilled_slot_count = open.len() as u64;
    work.outcome.samples.sort_by_key(|sample| sample.slot);
    Ok(work.outcome)
}

struct Work<'a> {
    suite: &'a Suite,
    plan: &'a Plan,
    partition: &'a Partition,
    watcher: &'a dyn Watcher,
    /// Pictures of one sample, 1 or more.
    picture_count: u32,
    outcome: Outcome,
    /// What has been accepted, and what of this attempt is still on its way.
    held: Held,
    /// Prompts of the first attempt, in a later round of earlier samples, against which alignment is
    /// measured.
    texts: Vec<String>,
    /// What earlier rounds accepted.
    frozen: Option<Arc<Frozen>>,
    /// Prompts that came to nothing, where the next attempt is told.
    failed_texts: Vec<String>,
}

/// A sample on its way: with its prompts first, then with a picture for each.
#[derive(Clone)]
struct Draft {
    slot: u64,
    attempt: u32,
    id: SampleId,
    prompts: Vec<Prompt>,
    images: Vec<Image>,
    gates: Vec<GateResult>,
}

impl Draft {
    /// The name of each picture with its prompt: what is random about a picture, and what is held of
    /// it, goes by that name.
    fn pictures(&self) -> impl Iterator<Item = (SampleId, &Prompt)> {
        let numbered = (0..).zip(&self.prompts);
        numbered.map(|(index, prompt)| (self.id.picture(index), prompt))
    }
}

impl Work<'_> {
    /// Tries the open slots once and returns those that stay open.
    async fn attempt(&mut self, open: &[u64], attempt: u32) -> Result<Vec<u64>> {
        self.outcome.tally.attempt_count += open.len() as u64;
        let ids: Vec<(u64, SampleId)> = open
            .iter()
            .map(|&slot| (slot, self.sample_id(slot, attempt)))
            .collect();
        let drafts = self.write_prompts(&ids, attempt).await?;
        let drafts = self.render(drafts).await?;
        let accepted = self.write_dialogues(drafts).await?;
        let filled: Vec<u64> = accepted.iter().map(|sample| sample.slot).collect();
        for sample in &accepted {
            self.watcher.sample_accepted();
            for gate in gates::unchecked(&self.plan.gates, &sample.gates) {
                self.outcome.tally.leave_unchecked(gate);
            }
        }
        self.outcome.samples.extend(accepted);
        Ok(open
            .iter()
            .copied()
            .filter(|slot| !filled.contains(slot))
            .collect())
    }

    fn sample_id(&self, slot: u64, attempt: u32) -> SampleId {
        let ability = self.partition.ability.as_str();
        SampleKey {
            recipe_seed: self.plan.wanted.recipe_seed,
            ability,
            slot,
            attempt,
        }
        .id()
    }

    /// Counts an attempt that came to nothing, once, whatever of it failed.
    fn count_failure(&mut self, failure: Option<&ItemFailure>) {
        let Some(failure) = failure else {
            return;
        };
        tracing::debug!(
            reason = failure.reason,
            message = failure.message,
            "an item failed"
        );
        // The renderer's safety checker withheld the picture: the gate's word, said earlier.
        let counted = match failure.reason.as_str() {
            WITHHELD => SAFETY.to_owned(),
            reason => format!("{NOT_MADE}:{reason}"),
        };
        self.outcome.tally.reject(&counted);
    }

    /// A draft that could not go on: counted as failed, and out of the others' way.
    fn fail(&mut self, draft: &Draft, failure: Option<&ItemFailure>) {
        self.count_failure(failure);
        self.give_up(draft);
    }

    /// Counts a rejected draft, and keeps it as an example where its gate has few and there is a
    /// picture to look at.
    fn reject(&mut self, rejection: &GateResult, draft: Draft, conversation: Option<Conversation>) {
        tracing::debug!(
            gate = rejection.gate,
            reason = rejection.reason,
            "a sample was rejected"
        );
        self.give_up(&draft);
        let tally = &mut self.outcome.tally;
        tally.reject(&rejection.gate);
        let is_kept = tally.rejected_counts[&rejection.gate] <= EXAMPLES_PER_GATE;
        if is_kept && !draft.images.is_empty() {
            let sample = self.sample(draft, conversation);
            self.outcome.rejected.push(sample);
        }
    }

    fn give_up(&mut self, draft: &Draft) {
        for (id, _) in draft.pictures() {
            self.held.forget(id);
        }
        if self.plan.rewrite {
            let texts = draft.prompts.iter().map(|prompt| prompt.text.clone());
            self.failed_texts.extend(texts);
        }
    }

    fn sample(&self, draft: Draft, conversation: Option<Conversation>) -> Sample {
        Sample {
            id: draft.id.to_string(),
            ability: self.partition.ability.clone(),
            slot: draft.slot,
            attempt: draft.attempt,
            prompts: draft.prompts,
            images: draft.images,
            conversation,
            gates: draft.gates,
        }
    }
}

/// What a stage made, and what it could not, by the names of what was asked for.
struct Kept<T> {
    made: HashMap<String, T>,
    failed: HashMap<String, ItemFailure>,
}

impl<T> Kept<T> {
    fn of(outcomes: Outcomes<T>) -> Self {
        let (mut made, mut failed) = (HashMap::new(), HashMap::new());
        for (name, outcome) in outcomes {
            match outcome {
                Ok(value) => drop(made.insert(name, value)),
                Err(failure) => drop(failed.insert(name, failure)),
            }
        }
        Self { made, failed }
    }

    fn take(&mut self, name: SampleId) -> Option<T> {
        self.made.remove(&name.to_string())
    }

    /// Why the first of `names` that failed did.
    fn first_failure(&self, names: impl IntoIterator<Item = SampleId>) -> Option<&ItemFailure> {
        let mut names = names.into_iter();
        names.find_map(|name| self.failed.get(&name.to_string()))
    }
}

/// Rejected samples kept per partition and gate, for people to look at.
const EXAMPLES_PER_GATE: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_of_several_failures_is_told_by_the_first_of_them() {
        let key = |slot| SampleKey {
            recipe_seed: 1,
            ability: "animal",
            slot,
            attempt: 0,
        };
        let [one, two, three] = [0, 1, 2].map(|slot| key(slot).id());
        let failed = |reason: &str| Err(stages::failure(reason, "no"));
        let outcomes = [(one, Ok(7)), (two, failed("LATE")), (three, failed("CUT"))];
        let outcomes = outcomes.map(|(name, outcome)| (name.to_string(), outcome));
        let mut kept = Kept::of(outcomes.into_iter().collect());
        assert_eq!(
            [kept.take(one), kept.take(one), kept.take(two)],
            [Some(7), None, None]
        );
        let told = kept.first_failure([one, three, two]);
        assert_eq!(told.map(|failure| failure.reason.as_str()), Some("CUT"));
        assert_eq!(kept.first_failure([one]), None);
    }
}
