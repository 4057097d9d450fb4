//! Records of either source as what a sample needs, pictures not yet read.

use super::Source;
use crate::{
    json_list::Error,
    llava::{self, Speaker, Turn, unmarked},
    plan::is_ability_name,
    stablellava,
};
use proto::dataset::v1::{self as schema, Prompt, PromptSyntax, Provenance, QuestionKind};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// Ability of records that name none.
const NO_ABILITY: &str = "imported";

/// A record on its way.
pub(super) struct Draft {
    pub(super) ability: String,
    pub(super) turns: Vec<schema::Turn>,
    pub(super) prompts: Vec<Prompt>,
    pub(super) pictures: Vec<PathBuf>,
    producer: &'static str,
    file: PathBuf,
    index: u64,
    id: String,
    /// Pictures as the record names them.
    named_pictures: Vec<String>,
}

impl Draft {
    /// The error of this record.
    pub(super) fn refuse(&self, reason: String) -> Error {
        Error::Record {
            path: self.file.clone(),
            index: self.index,
            id: self.id.clone(),
            reason,
        }
    }

    /// Where the record was. The file by its name only: a shard knows no machine.
    pub(super) fn origin(&self) -> Provenance {
        let file = self.file.file_name().unwrap_or_default().to_string_lossy();
        let parameters = [
            ("file", file.into_owned()),
            ("record", self.index.to_string()),
            ("id", self.id.clone()),
            ("image", self.named_pictures.join(", ")),
        ];
        let named = |(name, value): (&str, String)| (name.to_owned(), value);
        Provenance {
            producer: self.producer.into(),
            code_version: env!("CARGO_PKG_VERSION").into(),
            parameters: HashMap::from(parameters.map(named)),
            ..Provenance::default()
        }
    }
}

/// The files of a source.
pub(super) fn files(source: &Source) -> Result<Vec<PathBuf>, Error> {
    match source {
        Source::Llava { json, .. } => Ok(vec![json.clone()]),
        Source::StableLlava { path } => stablellava::files(path),
    }
}

type Drafts<'a> = Box<dyn Iterator<Item = Result<Draft, Error>> + Send + 'a>;

/// The records of a source, in the order of its files.
pub(super) fn read(source: &Source) -> Result<Drafts<'_>, Error> {
    match source {
        Source::Llava { json, images } => {
            let records = llava::read(json)?.zip(0..);
            Ok(Box::new(records.map(move |(record, index)| {
                of_llava(json, images, index, record?)
            })))
        }
        Source::StableLlava { path } => {
            let mut all: Drafts<'_> = Box::new(std::iter::empty());
            for file in stablellava::files(path)? {
                let rows = stablellava::read(&file)?;
                let drafts = rows.map(move |row| of_row(&file, row?));
                all = Box::new(all.chain(drafts));
            }
            Ok(all)
        }
    }
}

fn of_llava(json: &Path, images: &Path, index: u64, record: llava::Record) -> Result<Draft, Error> {
    let named = record.images.iter().map(|path| path.display().to_string());
    let mut draft = Draft {
        ability: match is_ability_name(&record.ability) {
            true => record.ability,
            false => NO_ABILITY.into(),
        },
        turns: Vec::new(),
        prompts: Vec::new(),
        pictures: record.images.iter().map(|path| images.join(path)).collect(),
        producer: "import/llava",
        file: json.to_owned(),
        index,
        id: record.id,
        named_pictures: named.collect(),
    };
    draft.turns =
        unmarked(&record.turns, draft.pictures.len()).map_err(|reason| draft.refuse(reason))?;
    let is_inside = |path: &PathBuf| match (path.canonicalize(), images.canonicalize()) {
        (Ok(path), Ok(images)) => path.is_file() && path.starts_with(images),
        _ => false,
    };
    match draft.pictures.iter().find(|path| !is_inside(path)) {
        Some(missing) => Err(draft.refuse(format!("there is no picture {}", missing.display()))),
        None => Ok(draft),
    }
}

/// A row has no picture, so its image token goes; what it named stands in the provenance.
fn of_row(file: &Path, row: stablellava::Row) -> Result<Draft, Error> {
    let ability = stablellava::ability(file);
    let prompt = Prompt {
        ability: ability.clone(),
        keyword: stablellava::subject(&row.prompt).unwrap_or_default().into(),
        text: row.prompt,
        // The release's own script renders with plain diffusers: the brackets do nothing.
        syntax: PromptSyntax::Plain.into(),
        ..Prompt::default()
    };
    let mut draft = Draft {
        ability,
        turns: Vec::new(),
        prompts: vec![prompt],
        pictures: Vec::new(),
        producer: "import/stablellava",
        file: file.to_owned(),
        index: row.index,
        id: row.id,
        named_pictures: vec![row.image],
    };
    let said = [(Speaker::Human, row.question), (Speaker::Gpt, row.answer)];
    let said = said.map(|(speaker, value)| Turn { speaker, value });
    let token_count = said[0].value.matches(llava::IMAGE_TOKEN).count();
    let turns = unmarked(&said, token_count).map_err(|reason| draft.refuse(reason))?;
    let without_picture = |turn: schema::Turn| schema::Turn {
        image_index: Vec::new(),
        kind: QuestionKind::Caption.into(),
        ..turn
    };
    draft.turns = turns.into_iter().map(without_picture).collect();
    Ok(draft)
}
