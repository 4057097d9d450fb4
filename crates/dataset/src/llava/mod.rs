//! LLaVA's training JSON (haotian-liu/LLaVA, `llava/train/train.py`): one list of
//! records, each with an image's path and a conversation of `human` and `gpt`.
//!
//! ```json
//! [{"id": "…", "image": "….png", "conversations": [
//!   {"from": "human", "value": "<image>\nWhat colour is the bus?"},
//!   {"from": "gpt", "value": "It is red."}]}]
//! ```

mod export;
mod read;

pub use export::{Error as ExportError, Exported, export};
pub use read::{Error as ReadError, Reader, image_folder, read};

use proto::dataset::v1::{Role, Sample};
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
    let turns = sample
        .conversation
        .as_ref()
        .map_or(&[][..], |conversation| &conversation.turns);
    let is_shown = |image: usize| {
        turns.iter().any(|turn| {
            turn.image_index
                .iter()
                .any(|&index| index as usize == image)
        })
    };
    let unshown_count = (0..sample.images.len())
        .filter(|&image| !is_shown(image))
        .count();
    let turn = |(position, turn): (usize, &proto::dataset::v1::Turn)| {
        let first = if position == 0 { unshown_count } else { 0 };
        let tokens = format!("{IMAGE_TOKEN}\n").repeat(first + turn.image_index.len());
        let speaker = if turn.role() == Role::User {
            Speaker::Human
        } else {
            Speaker::Gpt
        };
        Turn {
            speaker,
            value: tokens + turn.text.trim(),
        }
    };
    turns.iter().enumerate().map(turn).collect()
}

#[cfg(test)]
mod tests;
