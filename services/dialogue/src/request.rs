//! Requests, checked.

use crate::error::Error;
use dataset::identity::{MalformedId, SampleId};
use proto::{
    dataset::v1::{Conversation, Image, Prompt, QuestionKind},
    dialogue::v1::{CheckDialogueRequest, DialogueItem, WriteDialoguesRequest},
};
use std::collections::BTreeSet;

const DEFAULT_ROUND_COUNT: u32 = 3;
const MAX_ROUND_COUNT: u32 = 16;

/// Conversations wanted.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) items: Vec<Item>,
    pub(crate) style: Style,
}

/// What all conversations of a request have in common.
#[derive(Clone, Debug)]
pub(crate) struct Style {
    pub(crate) seed: u64,
    /// Kinds allowed; empty for those of the ability.
    pub(crate) kinds: Vec<QuestionKind>,
    pub(crate) round_count: usize,
}

/// One conversation wanted. `prompts` has one or more.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) sample_id: SampleId,
    pub(crate) prompts: Vec<Prompt>,
    /// Pictures, for back-ends that look; as they came.
    pub(crate) images: Vec<Image>,
}

impl Wanted {
    /// Checks a request; `max_items` is the endpoint's bound.
    pub(crate) fn try_from_request(
        request: WriteDialoguesRequest,
        max_items: usize,
    ) -> Result<Self, Error> {
        let item_count = request.items.len();
        if item_count == 0 {
            return Err(Error::field("items", "ask for at least one conversation"));
        }
        if item_count > max_items {
            let rule = format!(
                "{item_count} are more than this endpoint writes in one request ({max_items}); ask in parts"
            );
            return Err(Error::field("items", rule));
        }
        let round_count = match request.round_count {
            0 => DEFAULT_ROUND_COUNT,
            given if given <= MAX_ROUND_COUNT => given,
            given => {
                return Err(Error::field(
                    "round_count",
                    format!("{given} is not 1 to {MAX_ROUND_COUNT}"),
                ));
            }
        };
        let style = Style {
            seed: request.seed,
            kinds: kinds(&request.kinds)?,
            round_count: round_count as usize,
        };
        Ok(Self {
            items: items(request.items)?,
            style,
        })
    }
}

/// A conversation with its prompts, both present.
pub(crate) fn to_check(
    request: CheckDialogueRequest,
) -> Result<(Conversation, Vec<Prompt>), Error> {
    let CheckDialogueRequest {
        conversation,
        prompts,
    } = request;
    let conversation = conversation
        .ok_or_else(|| Error::field("conversation", "give the conversation to check"))?;
    if prompts.is_empty() {
        return Err(Error::field(
            "prompts",
            "give the prompt of each image, with its facts",
        ));
    }
    if let Some(index) = prompts.iter().position(|prompt| prompt.facts.is_none()) {
        return Err(Error::field(
            format!("prompts[{index}].facts"),
            "there is nothing to check against without facts",
        ));
    }
    Ok((conversation, prompts))
}

fn kinds(numbers: &[i32]) -> Result<Vec<QuestionKind>, Error> {
    let kind = |(index, &number): (usize, &i32)| match QuestionKind::try_from(number) {
        Ok(kind) if kind != QuestionKind::Unspecified => Ok(kind),
        _ => Err(Error::field(
            format!("kinds[{index}]"),
            format!("{number} is no kind of question"),
        )),
    };
    numbers.iter().enumerate().map(kind).collect()
}

fn items(items: Vec<DialogueItem>) -> Result<Vec<Item>, Error> {
    let mut ids = BTreeSet::new();
    let mut checked = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let DialogueItem {
            sample_id,
            prompts,
            images,
        } = item;
        let at = |field: &str| format!("items[{index}].{field}");
        let sample_id: SampleId = sample_id
            .parse()
            .map_err(|error: MalformedId| Error::field(at("sample_id"), error.to_string()))?;
        if !ids.insert(sample_id) {
            return Err(Error::field(
                at("sample_id"),
                format!("{sample_id} stands there twice"),
            ));
        }
        if prompts.is_empty() {
            return Err(Error::field(
                at("prompts"),
                "give the prompt of each image, with its facts",
            ));
        }
        checked.push(Item {
            sample_id,
            prompts,
            images,
        });
    }
    Ok(checked)
}
