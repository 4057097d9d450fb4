//! What a sample must be before it is committed. The rules are the store's: a
//! sample that breaks one is a fault of its writer, and would be found by no one
//! once it lies in a shard.

use super::Error;
use crate::{identity::SampleKey, llava::IMAGE_TOKEN, plan::Partition, plan::Plan};
use proto::dataset::v1::{
    Conversation, GateResult, GateVerdict, Image, QuestionKind, Role, Sample, Turn, image::Content,
};

/// Checks the samples of a partition: in slot order, each of its place, whole.
pub(super) fn check(plan: &Plan, partition: &Partition, samples: &[Sample]) -> Result<(), Error> {
    let mut next_slot = 0;
    for sample in samples {
        let faults = place(plan, partition, next_slot, sample)
            .or_else(|| fault(sample))
            .or_else(|| sample.gates.iter().find_map(gate_fault));
        if let Some(reason) = faults {
            return Err(Error::Sample {
                partition: partition.to_string(),
                id: sample.id.clone(),
                reason: reason.to_owned(),
            });
        }
        next_slot = sample.slot + 1;
    }
    Ok(())
}

/// What is wrong with a sample's own parts, its place and its gates aside: ask before a commit,
/// which refuses the whole partition for one such sample.
pub fn fault(sample: &Sample) -> Option<&'static str> {
    let mut images = sample.images.iter();
    images
        .find_map(|image| image_fault(image, &sample.id))
        .or_else(|| conversation_fault(sample))
}

fn place(
    plan: &Plan,
    partition: &Partition,
    next_slot: u64,
    sample: &Sample,
) -> Option<&'static str> {
    let Sample {
        id,
        ability,
        slot,
        attempt,
        prompts,
        ..
    } = sample;
    let key = SampleKey {
        recipe_seed: plan.recipe_seed,
        ability,
        slot: *slot,
        attempt: *attempt,
    };
    if *ability != partition.ability || !partition.slots().any(|own| own == *slot) {
        Some("it belongs to another partition")
    } else if *slot < next_slot {
        Some("slots must stand in order, each once")
    } else if *id != key.id().to_string() {
        Some("its id is not the hash of recipe seed, ability, slot and attempt")
    } else if prompts.iter().any(|prompt| prompt.sample_id != *id) {
        Some("a prompt carries another sample's id")
    } else {
        None
    }
}

fn image_fault(image: &Image, id: &str) -> Option<&'static str> {
    let Some(Content::Data(data)) = &image.content else {
        return Some("an image has no bytes; a shard holds images, not references to them");
    };
    if image.sample_id != id {
        Some("an image carries another sample's id")
    } else if !["image/png", "image/jpeg"].contains(&image.media_type.as_str()) {
        Some("an image is neither image/png nor image/jpeg")
    } else if image.sha256 != crate::identity::sha256_hex(data) {
        Some("an image's hash is not that of its bytes")
    } else {
        None
    }
}

fn conversation_fault(sample: &Sample) -> Option<&'static str> {
    let Some(Conversation {
        sample_id, turns, ..
    }) = &sample.conversation
    else {
        return Some("it has no conversation");
    };
    let roles = [Role::User, Role::Assistant].into_iter().cycle();
    if *sample_id != sample.id {
        Some("the conversation carries another sample's id")
    } else if turns.is_empty() || !turns.len().is_multiple_of(2) {
        Some("the conversation does not end with an answer")
    } else if turns
        .iter()
        .zip(roles)
        .any(|(turn, role)| turn.role != i32::from(role))
    {
        Some("user and assistant do not take turns")
    } else {
        turns
            .iter()
            .find_map(|turn| turn_fault(turn, sample.images.len()))
    }
}

fn turn_fault(turn: &Turn, image_count: usize) -> Option<&'static str> {
    if turn.text.trim().is_empty() {
        Some("a turn has no words")
    } else if turn.text.contains(IMAGE_TOKEN) {
        Some("a turn's words hold the image token; `image_index` says where images stand")
    } else if turn
        .image_index
        .iter()
        .any(|&index| index as usize >= image_count)
    {
        Some("a turn shows an image that the sample does not have")
    } else if QuestionKind::try_from(turn.kind).is_err() {
        Some("a turn is of an unknown kind")
    } else {
        None
    }
}

fn gate_fault(gate: &GateResult) -> Option<&'static str> {
    match GateVerdict::try_from(gate.verdict) {
        Ok(GateVerdict::Passed | GateVerdict::NotChecked) => None,
        Ok(GateVerdict::Rejected) => Some("a gate rejected it"),
        Ok(GateVerdict::Unspecified) | Err(_) => Some("a gate has no verdict"),
    }
}
