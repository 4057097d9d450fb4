//! ShareGPT: a record per line, turns of `human` and `gpt` with an `<image>` for every picture
//! shown, and the pictures' paths beside `data.jsonl`, one per `<image>`, as LLaMA-Factory asks.

use super::{
    Error, Sink, TargetError,
    images::{ImageFolder, TextFile, in_order_shown},
};
use crate::llava::{Turn, turns};
use proto::dataset::v1::Sample;
use serde::Serialize;
use std::path::Path;

pub(super) struct Writer {
    images: ImageFolder,
    lines: TextFile,
}

#[derive(Serialize)]
struct Record<'a> {
    id: &'a str,
    conversations: Vec<Turn>,
    images: Vec<String>,
    ability: &'a str,
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
            let shown = in_order_shown(sample, &names);
            let path = |name: String| format!("{}/{name}", ImageFolder::NAME);
            let record = Record {
                id: &sample.id,
                conversations: turns(sample),
                images: shown.into_iter().map(path).collect(),
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
