//! Samples of a run: pairs to look at, quotas, verdicts of the gates, examples of what they rejected.

use std::collections::BTreeMap;

use anyhow::Result;
use dataset::store::{Reader, Root};
use futures::StreamExt as _;
use proto::dataset::v1::{GateResult, GateVerdict, Image, Role as Speaker, Sample, image::Content};

use crate::{
    experiment::RunFolder,
    recipe::Recipe,
    report::{Pair, Picture, Quota, RejectedPair, Turn},
    synth::gates,
};

/// Rejected samples shown per gate.
const REJECTED_PER_GATE: usize = 4;

pub(super) struct Samples {
    pub(super) pairs: Vec<Pair>,
    pub(super) rejected: Vec<RejectedPair>,
    pub(super) quotas: Vec<Quota>,
    /// Verdicts on the accepted samples, by gate.
    pub(super) verdicts: BTreeMap<String, Verdicts>,
}

#[derive(Default)]
pub(super) struct Verdicts {
    pub(super) passed_count: u64,
    pub(super) not_checked_count: u64,
}

impl Samples {
    pub(super) async fn read(
        folder: &RunFolder,
        recipe: &Recipe,
        pairs_per_ability: usize,
    ) -> Result<Self> {
        let reader = Reader::open(Root::folder(&folder.dataset())?).await?;
        let mut shown: BTreeMap<String, usize> = BTreeMap::new();
        let mut verdicts: BTreeMap<String, Verdicts> = BTreeMap::new();
        let mut pairs = Vec::new();
        let mut samples = std::pin::pin!(reader.samples());
        while let Some(sample) = samples.next().await {
            let sample = sample?;
            let count = shown.entry(sample.ability.clone()).or_default();
            *count += 1;
            if *count <= pairs_per_ability {
                pairs.push(pair(&sample));
            }
            for (gate, verdict) in said(&sample) {
                let verdicts = verdicts.entry(gate.to_owned()).or_default();
                match verdict {
                    GateVerdict::Passed => verdicts.passed_count += 1,
                    GateVerdict::NotChecked => verdicts.not_checked_count += 1,
                    GateVerdict::Rejected | GateVerdict::Unspecified => {}
                }
            }
        }
        let statistics = reader.statistics();
        let quotas = recipe
            .synth
            .abilities
            .iter()
            .map(|(ability, &wanted_count)| Quota {
                ability: ability.clone(),
                accepted_count: statistics
                    .get(ability)
                    .map_or(0, |counts| counts.accepted_count),
                wanted_count,
                attempt_count: statistics
                    .get(ability)
                    .map_or(0, |counts| counts.tally.attempt_count),
            });
        Ok(Self {
            rejected: rejected(&reader).await?,
            pairs,
            quotas: quotas.collect(),
            verdicts,
        })
    }
}

/// What each gate said of a sample: where it looked at several pictures, it passed none unless it
/// passed all.
fn said(sample: &Sample) -> BTreeMap<&str, GateVerdict> {
    let mut said = BTreeMap::new();
    for gate in &sample.gates {
        let verdict = said
            .entry(gate.gate.as_str())
            .or_insert(GateVerdict::Passed);
        if gate.verdict() != GateVerdict::Passed {
            *verdict = gate.verdict();
        }
    }
    said
}

/// Examples of rejected samples, [`REJECTED_PER_GATE`] of each gate.
async fn rejected(reader: &Reader) -> Result<Vec<RejectedPair>> {
    let mut shown: BTreeMap<String, usize> = BTreeMap::new();
    let mut pairs = Vec::new();
    for manifest in reader.partitions().values() {
        for sample in reader.rejected_of(manifest).await? {
            let Some(gate) = gates::rejection(&sample.gates) else {
                continue;
            };
            let count = shown.entry(gate.gate.clone()).or_default();
            *count += 1;
            if *count <= REJECTED_PER_GATE {
                pairs.push(rejected_pair(&sample, gate));
            }
        }
    }
    pairs.sort_by(|one, other| one.gate.cmp(&other.gate));
    Ok(pairs)
}

fn rejected_pair(sample: &Sample, gate: &GateResult) -> RejectedPair {
    RejectedPair {
        ability: sample.ability.clone(),
        gate: gate.gate.clone(),
        reason: gate.reason.clone(),
        pictures: pictures(sample),
        prompt: prompt_text(sample),
    }
}

fn prompt_text(sample: &Sample) -> String {
    let texts = sample.prompts.iter().map(|prompt| prompt.text.as_str());
    texts.collect::<Vec<_>>().join(" · ")
}

/// The pictures of a sample, each with its prompt.
fn pictures(sample: &Sample) -> Vec<Picture> {
    let prompts = sample.prompts.iter().map(|prompt| prompt.text.as_str());
    let prompts = prompts.chain(std::iter::repeat(""));
    let pairs = sample.images.iter().zip(prompts);
    pairs
        .filter_map(|(image, prompt)| picture(image, prompt))
        .collect()
}

fn pair(sample: &Sample) -> Pair {
    let turns = sample
        .conversation
        .as_ref()
        .map(|conversation| conversation.turns.as_slice())
        .unwrap_or_default();
    let turns = turns.chunks(2).filter_map(|round| match round {
        [question, answer] if question.role() == Speaker::User => Some(Turn {
            question: question.text.clone(),
            answer: answer.text.clone(),
        }),
        _ => None,
    });
    Pair {
        ability: sample.ability.clone(),
        prompt: prompt_text(sample),
        pictures: pictures(sample),
        turns: turns.collect(),
    }
}

fn picture(image: &Image, alt: &str) -> Option<Picture> {
    match &image.content {
        Some(Content::Data(data)) => Some(Picture {
            media_type: image.media_type.clone(),
            data: data.to_vec(),
            width_px: image.width_px,
            alt: alt.to_owned(),
        }),
        Some(Content::Artefact(_)) | None => None,
    }
}
