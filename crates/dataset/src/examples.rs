//! Samples for this crate's tests.

use crate::{
    identity::{SampleKey, sha256_hex},
    plan::{Partition, Plan},
};
use proto::dataset::v1::{
    Attribute, Conversation, Facts, GateResult, GateVerdict, Image, Prompt, PromptSyntax,
    Provenance, QuestionKind, Relation, Role, Sample, Subject, Turn, WeightedText, image::Content,
};

pub(crate) const RECIPE_SEED: u64 = 11;

pub(crate) fn plan(counts: &[(&str, u64)]) -> Plan {
    Plan {
        recipe_sha256: sha256_hex("recipe"),
        recipe_seed: RECIPE_SEED,
        sample_counts: counts
            .iter()
            .map(|&(name, count)| (name.to_owned(), count))
            .collect(),
    }
}

pub(crate) fn partition(plan: &Plan, ability: &str, index: u32) -> Partition {
    let is_wanted = |found: &Partition| found.ability == ability && found.index == index;
    plan.partitions().find(is_wanted).unwrap()
}

pub(crate) fn samples(ability: &str, slots: impl IntoIterator<Item = u64>) -> Vec<Sample> {
    let slots = slots.into_iter();
    slots.map(|slot| sample(ability, slot)).collect()
}

/// A sample in which no field is left at its default.
pub(crate) fn sample(ability: &str, slot: u64) -> Sample {
    let id = SampleKey {
        recipe_seed: RECIPE_SEED,
        ability,
        slot,
        attempt: 1,
    }
    .id()
    .to_string();
    Sample {
        id: id.clone(),
        ability: ability.to_owned(),
        slot,
        attempt: 1,
        prompts: vec![prompt(&id, ability)],
        images: vec![image(&id, slot)],
        conversation: Some(Conversation {
            sample_id: id,
            turns: vec![
                turn(
                    Role::User,
                    &format!("What is in picture {slot}?"),
                    &[0],
                    &[],
                ),
                turn(
                    Role::Assistant,
                    "A fox, says the \"bus\" — 狐.",
                    &[],
                    &["fox"],
                ),
            ],
            provenance: Some(provenance("dialogue/grammar")),
        }),
        gates: vec![GateResult {
            gate: "alignment".into(),
            verdict: GateVerdict::Passed.into(),
            value: Some(0.31),
            threshold: None,
            reason: "close enough".into(),
        }],
    }
}

fn prompt(id: &str, ability: &str) -> Prompt {
    let attribute = Attribute {
        name: "color".into(),
        value: "red".into(),
    };
    let subject = Subject {
        name: "fox".into(),
        category: "animal".into(),
        count: 2,
        attributes: vec![attribute],
    };
    let relation = Relation {
        subject_index: 0,
        predicate: "left_of".into(),
        object_index: 1,
    };
    Prompt {
        sample_id: id.to_owned(),
        ability: ability.to_owned(),
        keyword: "fox".into(),
        text: "((fox)), beach, cartoon".into(),
        negative_text: "blurry".into(),
        syntax: PromptSyntax::Webui.into(),
        parts: vec![WeightedText {
            text: "fox".into(),
            weight: 1.21,
        }],
        facts: Some(Facts {
            subjects: vec![subject],
            scene: "beach".into(),
            style: "cartoon".into(),
            abnormality: "the fox is red".into(),
            relations: vec![relation],
        }),
        provenance: Some(provenance("promptgen/grammar")),
    }
}

fn image(id: &str, slot: u64) -> Image {
    let data = slot.to_string().repeat(300);
    Image {
        sample_id: id.to_owned(),
        media_type: "image/png".into(),
        width_px: 64,
        height_px: 48,
        sha256: sha256_hex(&data),
        ai_generated: true,
        provenance: Some(provenance("diffusion/candle")),
        content: Some(Content::Data(data.into())),
    }
}

fn turn(role: Role, text: &str, image_index: &[u32], answer_keywords: &[&str]) -> Turn {
    Turn {
        role: role.into(),
        text: text.into(),
        image_index: image_index.to_vec(),
        kind: QuestionKind::Wh.into(),
        answer_keywords: answer_keywords
            .iter()
            .map(|&word| word.to_owned())
            .collect(),
    }
}

fn provenance(producer: &str) -> Provenance {
    let parameters = [("steps", "25"), ("guidance", "7.5"), ("scheduler", "ddim")];
    Provenance {
        producer: producer.into(),
        code_version: "0.1.0".into(),
        model: "builtin:nano-sd".into(),
        model_sha256: sha256_hex("model"),
        seed: u64::MAX,
        seeded: true,
        parameters: parameters
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        parent_sha256: vec![sha256_hex("parent")],
    }
}
