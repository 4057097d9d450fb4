//! LLaVA JSON and a folder of images. Paths in the JSON are relative to the image folder.

use super::{
    Error, Sink, TargetError,
    images::{ImageFolder, TextFile},
};
use crate::llava::{Turn, turns};
use proto::dataset::v1::Sample;
use serde::Serialize;
use std::path::Path;

pub(super) struct Writer {
    images: ImageFolder,
    json: TextFile,
    is_begun: bool,
}

/// A record as written. Readers of this format ignore keys they do not know.
#[derive(Serialize)]
struct Record<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ImagePaths>,
    conversations: Vec<Turn>,
    ability: &'a str,
}

/// LLaVA's own reader knows one path; its successors take a list for several.
#[derive(Serialize)]
#[serde(untagged)]
enum ImagePaths {
    One(String),
    Several(Vec<String>),
}

impl Writer {
    pub(super) fn create(folder: &Path) -> Result<Self, TargetError> {
        Ok(Self {
            images: ImageFolder::create(folder)?,
            json: TextFile::create(folder.join("data.json"))?,
            is_begun: false,
        })
    }
}

impl Sink for Writer {
    fn add(&mut self, samples: &[Sample]) -> Result<(), Error> {
        for sample in samples {
            let mut paths = self.images.add(sample)?;
            let record = Record {
                id: &sample.id,
                image: match paths.len() {
                    0 => None,
                    1 => paths.pop().map(ImagePaths::One),
                    _ => Some(ImagePaths::Several(paths)),
                },
                conversations: turns(sample),
                ability: &sample.ability,
            };
            self.json.text(if self.is_begun { ",\n" } else { "[\n" })?;
            self.json.json(&record)?;
            self.is_begun = true;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<u64, Error> {
        self.json
            .text(if self.is_begun { "\n]\n" } else { "[]\n" })?;
        self.json.finish()?;
        Ok(1)
    }
}
