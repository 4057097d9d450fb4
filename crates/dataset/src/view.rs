//! A sample as JSON: all that is known of it, its pictures' bytes aside. The names are those of the
//! Parquet columns.

use crate::shard::written;
use proto::dataset::v1::{
    Attribute, Facts, GateResult, Image, Prompt, Provenance, Relation, Sample, Subject, Turn,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// See the module.
#[derive(Debug, Serialize)]
pub struct SampleView<'a> {
    id: &'a str,
    ability: &'a str,
    slot: u64,
    attempt: u32,
    conversation: Vec<TurnView<'a>>,
    conversation_provenance: Option<ProvenanceView<'a>>,
    prompts: Vec<PromptView<'a>>,
    images: Vec<ImageView<'a>>,
    gates: Vec<GateView<'a>>,
}

impl<'a> SampleView<'a> {
    /// The view of a sample.
    pub fn of(sample: &'a Sample) -> Self {
        let said = sample.conversation.as_ref();
        let turns = said.map_or(&[][..], |said| &said.turns);
        let provenance = said.and_then(|said| said.provenance.as_ref());
        Self {
            id: &sample.id,
            ability: &sample.ability,
            slot: sample.slot,
            attempt: sample.attempt,
            conversation: turns.iter().map(TurnView::of).collect(),
            conversation_provenance: provenance.map(ProvenanceView::of),
            prompts: sample.prompts.iter().map(PromptView::of).collect(),
            images: sample.images.iter().map(ImageView::of).collect(),
            gates: sample.gates.iter().map(GateView::of).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct TurnView<'a> {
    role: String,
    text: &'a str,
    image_index: &'a [u32],
    kind: String,
    answer_keywords: &'a [String],
}

impl<'a> TurnView<'a> {
    fn of(turn: &'a Turn) -> Self {
        Self {
            role: written(turn.role().as_str_name(), "ROLE_"),
            text: &turn.text,
            image_index: &turn.image_index,
            kind: written(turn.kind().as_str_name(), "QUESTION_KIND_"),
            answer_keywords: &turn.answer_keywords,
        }
    }
}

#[derive(Debug, Serialize)]
struct PromptView<'a> {
    text: &'a str,
    negative_text: &'a str,
    syntax: String,
    keyword: &'a str,
    facts: Option<FactsView<'a>>,
    provenance: Option<ProvenanceView<'a>>,
}

impl<'a> PromptView<'a> {
    fn of(prompt: &'a Prompt) -> Self {
        Self {
            text: &prompt.text,
            negative_text: &prompt.negative_text,
            syntax: written(prompt.syntax().as_str_name(), "PROMPT_SYNTAX_"),
            keyword: &prompt.keyword,
            facts: prompt.facts.as_ref().map(FactsView::of),
            provenance: prompt.provenance.as_ref().map(ProvenanceView::of),
        }
    }
}

#[derive(Debug, Serialize)]
struct FactsView<'a> {
    subjects: Vec<SubjectView<'a>>,
    scene: &'a str,
    style: &'a str,
    abnormality: &'a str,
    relations: Vec<RelationView<'a>>,
}

impl<'a> FactsView<'a> {
    fn of(facts: &'a Facts) -> Self {
        Self {
            subjects: facts.subjects.iter().map(SubjectView::of).collect(),
            scene: &facts.scene,
            style: &facts.style,
            abnormality: &facts.abnormality,
            relations: facts.relations.iter().map(RelationView::of).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct SubjectView<'a> {
    name: &'a str,
    category: &'a str,
    count: u32,
    attributes: BTreeMap<&'a str, &'a str>,
}

impl<'a> SubjectView<'a> {
    fn of(subject: &'a Subject) -> Self {
        let attribute = |Attribute { name, value }: &'a Attribute| (name.as_str(), value.as_str());
        Self {
            name: &subject.name,
            category: &subject.category,
            count: subject.count,
            attributes: subject.attributes.iter().map(attribute).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct RelationView<'a> {
    subject_index: u32,
    predicate: &'a str,
    object_index: u32,
}

impl<'a> RelationView<'a> {
    fn of(relation: &'a Relation) -> Self {
        Self {
            subject_index: relation.subject_index,
            predicate: &relation.predicate,
            object_index: relation.object_index,
        }
    }
}

#[derive(Debug, Serialize)]
struct ImageView<'a> {
    media_type: &'a str,
    width_px: u32,
    height_px: u32,
    sha256: &'a str,
    ai_generated: bool,
    provenance: Option<ProvenanceView<'a>>,
}

impl<'a> ImageView<'a> {
    fn of(image: &'a Image) -> Self {
        Self {
            media_type: &image.media_type,
            width_px: image.width_px,
            height_px: image.height_px,
            sha256: &image.sha256,
            ai_generated: image.ai_generated,
            provenance: image.provenance.as_ref().map(ProvenanceView::of),
        }
    }
}

#[derive(Debug, Serialize)]
struct GateView<'a> {
    gate: &'a str,
    verdict: String,
    value: Option<f64>,
    threshold: Option<f64>,
    reason: &'a str,
}

impl<'a> GateView<'a> {
    fn of(gate: &'a GateResult) -> Self {
        Self {
            gate: &gate.gate,
            verdict: written(gate.verdict().as_str_name(), "GATE_VERDICT_"),
            value: gate.value,
            threshold: gate.threshold,
            reason: &gate.reason,
        }
    }
}

#[derive(Debug, Serialize)]
struct ProvenanceView<'a> {
    producer: &'a str,
    code_version: &'a str,
    model: &'a str,
    model_sha256: &'a str,
    /// Absent where the work had no seed.
    seed: Option<u64>,
    parameters: BTreeMap<&'a str, &'a str>,
    parent_sha256: &'a [String],
}

impl<'a> ProvenanceView<'a> {
    fn of(origin: &'a Provenance) -> Self {
        let parameters = origin.parameters.iter();
        Self {
            producer: &origin.producer,
            code_version: &origin.code_version,
            model: &origin.model,
            model_sha256: &origin.model_sha256,
            seed: origin.seeded.then_some(origin.seed),
            parameters: parameters
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect(),
            parent_sha256: &origin.parent_sha256,
        }
    }
}
