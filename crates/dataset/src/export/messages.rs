//! `messages` in the form of OpenAI's chat completions, a record per line. Contents are lists of
//! parts throughout, since a column of texts here and lists there is none that Arrow can read.
//! A picture's `url` is a path beside `data.jsonl`.

use super::{
    Error, Sink, TargetError,
    images::{ImageFolder, TextFile},
};
use crate::llava::shown_images;
use proto::dataset::v1::{Role, Sample};
use serde::Serialize;
use std::path::Path;

pub(super) struct Writer {
    images: ImageFolder,
    lines: TextFile,
}

#[derive(Serialize)]
struct Record<'a> {
    id: &'a str,
    messages: Vec<Message<'a>>,
    ability: &'a str,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Vec<Part<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    ImageUrl { image_url: ImageUrl },
    Text { text: &'a str },
}

#[derive(Serialize)]
struct ImageUrl {
    url: String,
}

impl Writer {
    pub(super) fn create(folder: &Path) -> Result<Self, TargetError> {
        Ok(Self {
            images: ImageFolder::create(folder)?,
            lines: TextFile::create(folder.join("data.jsonl"))?,
        })
    }
}

impl Sink for Writer {
    fn add(&mut self, samples: &[Sample]) -> Result<(), Error> {
        for sample in samples {
            let names = self.images.add(sample)?;
            let record = Record {
                id: &sample.id,
                messages: messages(sample, &names),
                ability: &sample.ability,
            };
            self.lines.json(&record)?;
            self.lines.text("\n")?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<u64, Error> {
        self.lines.finish()?;
        Ok(1)
    }
}

fn messages<'a>(sample: &'a Sample, names: &[String]) -> Vec<Message<'a>> {
    let turns = sample.conversation.iter().flat_map(|said| &said.turns);
    let image = |index: usize| {
        let url = format!("{}/{}", ImageFolder::NAME, names.get(index)?);
        Some(Part::ImageUrl {
            image_url: ImageUrl { url },
        })
    };
    turns
        .zip(shown_images(sample))
        .map(|(turn, shown)| {
            let text = Part::Text {
                text: turn.text.trim(),
            };
            Message {
                role: match turn.role() {
                    Role::User => "user",
                    Role::Assistant | Role::Unspecified => "assistant",
                },
                content: shown.into_iter().filter_map(image).chain([text]).collect(),
            }
        })
        .collect()
}
