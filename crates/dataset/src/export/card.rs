//! The card of an exported dataset: `README.md` with the front matter that the Hugging Face hub
//! reads. It says what the dataset knows of itself and calls unknown what it does not know.

use crate::{
    shard::{encoded_file, written},
    store::{Reader, Statistics},
};
use proto::dataset::v1::{GateVerdict, Provenance, Sample};
use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

/// Distinct models listed; more would be no card any more.
const MAX_MODEL_COUNT: usize = 100;

/// Licence of what the built-in models make (`models/nano/ART_LICENSES.md`): their weights and the
/// art they were trained on.
const BUILTIN_LICENCE: &str = "apache-2.0";

/// What a card says, collected sample by sample.
#[derive(Debug, Default)]
pub(super) struct Card {
    recipe_sha256: String,
    recipe_seed: u64,
    manifest_sha256: String,
    statistics: BTreeMap<String, Statistics>,
    sample_count: u64,
    image_count: u64,
    image_bytes: u64,
    turn_count: u64,
    kinds: BTreeMap<String, u64>,
    gates: BTreeMap<String, Verdicts>,
    models: BTreeMap<Maker, u64>,
}

#[derive(Debug, Default)]
struct Verdicts {
    passed: u64,
    not_checked: u64,
}

/// Who made a part of the samples.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Maker {
    part: &'static str,
    producer: String,
    model: String,
    model_sha256: String,
    code_version: String,
}

impl Card {
    pub(super) fn of(dataset: &Reader) -> Self {
        Self {
            recipe_sha256: dataset.plan().recipe_sha256.clone(),
            recipe_seed: dataset.plan().recipe_seed,
            manifest_sha256: dataset.manifest_sha256(),
            statistics: dataset.statistics(),
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, sample: &Sample) {
        self.sample_count += 1;
        self.image_count += sample.images.len() as u64;
        for image in &sample.images {
            self.image_bytes += encoded_file(image).len() as u64;
            self.made_by("pictures", image.provenance.as_ref());
        }
        for prompt in &sample.prompts {
            self.made_by("prompts", prompt.provenance.as_ref());
        }
        if let Some(said) = &sample.conversation {
            self.made_by("dialogues", said.provenance.as_ref());
            self.turn_count += said.turns.len() as u64;
            for question in said.turns.iter().step_by(2) {
                let kind = written(question.kind().as_str_name(), "QUESTION_KIND_");
                *self.kinds.entry(kind).or_default() += 1;
            }
        }
        for gate in &sample.gates {
            let verdicts = self.gates.entry(gate.gate.clone()).or_default();
            match gate.verdict() {
                GateVerdict::Passed => verdicts.passed += 1,
                _ => verdicts.not_checked += 1,
            }
        }
    }

    fn made_by(&mut self, part: &'static str, origin: Option<&Provenance>) {
        let Some(origin) = origin else { return };
        let maker = Maker {
            part,
            producer: origin.producer.clone(),
            model: origin.model.clone(),
            model_sha256: origin.model_sha256.clone(),
            code_version: origin.code_version.clone(),
        };
        if self.models.contains_key(&maker) || self.models.len() < MAX_MODEL_COUNT {
            *self.models.entry(maker).or_default() += 1;
        }
    }

    /// The licence, where every picture is known to be under one.
    fn licence(&self) -> &'static str {
        let mut painters = self.models.keys().filter(|maker| maker.part == "pictures");
        let is_known = self.image_count > 0
            && painters.all(|maker| maker.model.starts_with("builtin:"))
            && self.models.keys().any(|maker| maker.part == "pictures");
        if is_known { BUILTIN_LICENCE } else { "unknown" }
    }

    pub(super) fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        self.front_matter(out)?;
        self.summary(out)?;
        self.abilities(out)?;
        self.makers(out)?;
        self.gates(out)?;
        self.how_to_load(out)?;
        self.licences(out)
    }

    fn front_matter(&self, out: &mut String) -> fmt::Result {
        writeln!(
            out,
            "---\nlicense: {licence}\nlanguage:\n- en\npretty_name: Image–dialogue pairs of recipe {recipe}\n\
             size_categories:\n- {size}\ntask_categories:\n- visual-question-answering\n- image-to-text\n\
             tags:\n- synthetic\n- llava\n- diptych\nconfigs:\n- config_name: default\n  data_files:\n  \
             - split: train\n    path: data/train-*.parquet\n---\n",
            licence = self.licence(),
            recipe = short(&self.recipe_sha256),
            size = size_category(self.sample_count),
        )
    }

    fn summary(&self, out: &mut String) -> fmt::Result {
        let megabytes = self.image_bytes as f64 / 1e6;
        writeln!(
            out,
            "# Image–dialogue pairs of recipe {}\n\n\
             {} samples, {} pictures ({megabytes:.1} MB), {} turns. Made by Diptych {}.\n\n\
             | | |\n|---|---|\n| recipe | `{}` |\n| seed | {} |\n| manifest | `{}` |\n",
            short(&self.recipe_sha256),
            self.sample_count,
            self.image_count,
            self.turn_count,
            env!("CARGO_PKG_VERSION"),
            self.recipe_sha256,
            self.recipe_seed,
            self.manifest_sha256,
        )
    }

    fn abilities(&self, out: &mut String) -> fmt::Result {
        writeln!(
            out,
            "## Abilities\n\n| ability | samples | wanted | attempts |\n|---|---:|---:|---:|"
        )?;
        for (ability, counts) in &self.statistics {
            writeln!(
                out,
                "| {ability} | {} | {} | {} |",
                counts.accepted_count, counts.planned_count, counts.tally.attempt_count
            )?;
        }
        writeln!(out, "\n| kind of question | asked |\n|---|---:|")?;
        for (kind, count) in &self.kinds {
            writeln!(out, "| {kind} | {count} |")?;
        }
        writeln!(out)
    }

    fn makers(&self, out: &mut String) -> fmt::Result {
        writeln!(
            out,
            "## Who made it\n\n| part | count | by | version | model | SHA-256 of the model |\n\
             |---|---:|---|---|---|---|"
        )?;
        for (maker, count) in &self.models {
            writeln!(
                out,
                "| {} | {count} | {} | {} | {} | {} |",
                maker.part,
                cell(&maker.producer),
                cell(&maker.code_version),
                cell(&maker.model),
                cell(&maker.model_sha256),
            )?;
        }
        if self.models.len() == MAX_MODEL_COUNT {
            writeln!(out, "\nOnly the first {MAX_MODEL_COUNT} are listed.")?;
        }
        writeln!(
            out,
            "\nEvery row holds its seeds and settings: `prompts[].provenance`, \
             `image_details[].provenance`, `conversation_provenance`.\n"
        )
    }

    fn gates(&self, out: &mut String) -> fmt::Result {
        let mut rejected: BTreeMap<&str, u64> = BTreeMap::new();
        for counts in self.statistics.values() {
            for (reason, count) in &counts.tally.rejected_counts {
                *rejected.entry(reason).or_default() += count;
            }
        }
        writeln!(
            out,
            "## Gates\n\nWhat is not checked is not passed.\n\n\
             | gate | passed | not checked | rejected on the way |\n|---|---:|---:|---:|"
        )?;
        for (gate, verdicts) in &self.gates {
            let rejected = rejected.remove(gate.as_str()).unwrap_or_default();
            let Verdicts {
                passed,
                not_checked,
            } = verdicts;
            writeln!(
                out,
                "| {} | {passed} | {not_checked} | {rejected} |",
                cell(gate)
            )?;
        }
        for (reason, count) in rejected {
            writeln!(out, "| {} | – | – | {count} |", cell(reason))?;
        }
        writeln!(out)
    }

    fn how_to_load(&self, out: &mut String) -> fmt::Result {
        writeln!(
            out,
            "## How to load it\n\n```python\nfrom datasets import load_dataset\n\n\
             data = load_dataset(\"PATH/OF/THIS/FOLDER\", split=\"train\")\n\
             data[0][\"images\"][0]          # a PIL image\n\
             data[0][\"conversation\"]       # turns: role, text, image_index, kind, answer_keywords\n\
             ```\n"
        )
    }

    fn licences(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "## Licences\n")?;
        match self.licence() {
            "unknown" => writeln!(
                out,
                "Not known to the program that wrote this card: it depends on the models and data \
                 named above. Ask those who published them before you publish this."
            ),
            licence => writeln!(
                out,
                "Every picture was made by a built-in model of Diptych, which is under {licence}."
            ),
        }
    }
}

/// A text in a cell of a table, or a dash.
fn cell(text: &str) -> String {
    match text {
        "" => "–".into(),
        text => text.replace('|', "\\|").replace('\n', " "),
    }
}

fn short(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}

/// The hub's own names of sizes.
fn size_category(count: u64) -> &'static str {
    match count {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        _ => "1M<n<10M",
    }
}
