//! LLaVA's training JSON (haotian-liu/LLaVA, `llava/train/train.py`): one list of
//! records, each with an image's path and a conversation of `human` and `gpt`.
//!
//! ```json
//! [{"id": "…", "image": "….png", "conversations": [
//!   {"from": "human", "value": "<image>\nWhat colour is the bus?"},
//!   {"from": "gpt", "value": "It is red."}]}]
//! ```

mod read;

pub use crate::json_list::Error as ReadError;
pub use read::{Reader, image_folder, read};

use proto::dataset::v1::{self as schema, Role, Sample};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Stands in a turn's words where an image is shown.
pub const IMAGE_TOKEN: &str = "<image>";

/// One training example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Id as written; neither unique nor of any form in other people's files.
    pub id: String,
    /// Image paths relative to the image folder, none of which leaves it. Empty
    /// for text alone.
    pub images: Vec<PathBuf>,
    /// Turns: the human first, then in alternation.
    pub turns: Vec<Turn>,
    /// Ability, as our own exports say it; empty in other people's files.
    pub ability: String,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Who speaks.
    #[serde(rename = "from")]
    pub speaker: Speaker,
    /// Words, with the image token where an image is shown.
    pub value: String,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// Who asks.
    Human,
    /// Who answers.
    Gpt,
}

/// A sample's conversation as LLaVA writes it: each image as a token and a line
/// break before the words of the turn that shows it. Images that no turn shows
/// stand in the first turn.
pub fn turns(sample: &Sample) -> Vec<Turn> {
    let turns = sample.conversation.iter().flat_map(|said| &said.turns);
    let turn = |(turn, shown): (&schema::Turn, Vec<usize>)| {
        let speaker = match turn.role() {
            Role::User => Speaker::Human,
            Role::Assistant | Role::Unspecified => Speaker::Gpt,
        };
        let tokens = format!("{IMAGE_TOKEN}\n").repeat(shown.len());
        Turn {
            speaker,
            value: tokens + turn.text.trim(),
        }
    };
    turns.zip(shown_images(sample)).map(turn).collect()
}

/// For each turn the images that stand before its words, by their index.
pub(crate) fn shown_images(sample: &Sample) -> Vec<Vec<usize>> {
    let turns = sample.conversation.iter().flat_map(|said| &said.turns);
    let named = turns.map(|turn| turn.image_index.iter().map(|&index| index as usize));
    let mut shown: Vec<Vec<usize>> = named.map(Iterator::collect).collect();
    let is_shown = |image: &usize| shown.iter().any(|images| images.contains(image));
    let mut first: Vec<usize> = (0..sample.images.len())
        .filter(|image| !is_shown(image))
        .collect();
    if let Some(turn) = shown.first_mut() {
        first.append(turn);
        *turn = first;
    }
    shown
}

/// The other way round: image tokens taken out of the words, and each counted as the next of
/// `image_count` images.
///
/// # Errors
/// One phrase: more tokens than images, or a turn that has no words beside them.
pub fn unmarked(turns: &[Turn], image_count: usize) -> Result<Vec<schema::Turn>, String> {
    let mut next_image = 0;
    let mut found = Vec::with_capacity(turns.len());
    for (position, turn) in turns.iter().enumerate() {
        let token_count = turn.value.matches(IMAGE_TOKEN).count();
        let text = turn.value.replace(IMAGE_TOKEN, "").trim().to_owned();
        if text.is_empty() {
            return Err(format!("turn {position} has no words"));
        }
        let role = match turn.speaker {
            Speaker::Human => Role::User,
            Speaker::Gpt => Role::Assistant,
        };
        let shown = next_image..next_image + token_count;
        next_image = shown.end;
        found.push(schema::Turn {
            role: role.into(),
            text,
            image_index: shown.map(|index| index as u32).collect(),
            ..schema::Turn::default()
        });
    }
    if next_image > image_count {
        return Err(format!(
            "it has {next_image} image tokens and {image_count} images"
        ));
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
