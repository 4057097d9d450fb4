//! What can be audited, and how it is told apart.

use super::{Auditor, EvaluationSets, Report, Row};
use crate::{
    json_list::{Error as ReadError, JsonList},
    llava, stablellava,
    store::{Error as StoreError, Location, Reader},
};
use futures::TryStreamExt as _;
use std::{
    path::{Path, PathBuf},
    pin::pin,
};

/// What is audited.
#[derive(Clone, Debug)]
pub enum Source {
    /// A dataset of ours.
    Dataset(Location),
    /// LLaVA JSON and the folder that its image paths start from.
    Llava {
        /// The file.
        json: PathBuf,
        /// The folder.
        images: PathBuf,
    },
    /// StableLLaVA's release: one JSON file per ability.
    StableLlava(Vec<PathBuf>),
}

/// Why an audit failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A dataset cannot be read.
    #[error("cannot read the dataset")]
    Store(#[from] StoreError),
}

impl Source {
    /// Looks what a path is: a folder with `dataset.json` or `data.json`, or JSON whose first
    /// record has `conversations` (LLaVA) or none (the release).
    ///
    /// # Errors
    /// There is nothing, or nothing that can be read.
    pub fn at(path: &Path, image_folder: Option<PathBuf>) -> Result<Self, Error> {
        if path.join("dataset.json").is_file() {
            return Ok(Self::Dataset(Location::from(path)));
        }
        let json = match path.join("data.json") {
            inside if inside.is_file() => inside,
            _ => path.to_owned(),
        };
        let files = stablellava::files(&json)?;
        let first = files.first().map(|file| JsonList::open(file)).transpose()?;
        let first = first.and_then(|mut list| list.next()).transpose()?;
        if first.is_some_and(|(_, record)| record.get("prompt").is_some()) {
            return Ok(Self::StableLlava(files));
        }
        let json = files.into_iter().next().unwrap_or(json);
        let folder = json.parent().filter(|folder| *folder != Path::new(""));
        let folder = folder.unwrap_or(Path::new(".")).to_path_buf();
        let beside = match folder.join("images") {
            images if images.is_dir() => images,
            _ => folder,
        };
        let images = image_folder.unwrap_or(beside);
        Ok(Self::Llava { json, images })
    }

    /// Its kind: `dataset`, `llava` or `stablellava`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dataset(_) => "dataset",
            Self::Llava { .. } => "llava",
            Self::StableLlava(_) => "stablellava",
        }
    }
}

/// Audits a source, and tells `watch` the samples looked at.
///
/// # Errors
/// The source cannot be read. A single record that breaks a rule is a defect and no error.
pub async fn audit(
    source: &Source,
    evaluation: EvaluationSets,
    watch: &mut (dyn FnMut(u64) + Send),
) -> Result<Report, Error> {
    let mut auditor = Auditor::new(evaluation);
    match source {
        Source::Dataset(place) => dataset(&mut auditor, place, watch).await?,
        Source::Llava { json, images } => {
            for (record, index) in llava::read(json)?.zip(0..) {
                match record {
                    Ok(record) => auditor.add(&Row::of_llava(record, index, images)),
                    Err(error) => broken(&mut auditor, error)?,
                }
                watch(index + 1);
            }
        }
        Source::StableLlava(files) => {
            let mut done = 0;
            for file in files {
                let ability = stablellava::ability(file);
                for row in stablellava::read(file)? {
                    match row {
                        Ok(row) => auditor.add(&Row::of_release(row, &ability)),
                        Err(error) => broken(&mut auditor, error)?,
                    }
                    done += 1;
                    watch(done);
                }
            }
        }
    }
    Ok(auditor.finish(source.kind()))
}

fn broken(auditor: &mut Auditor, error: ReadError) -> Result<(), Error> {
    match error {
        ReadError::Record { path, index, .. } => {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            auditor.add_broken(&format!("{file}, record {index}"));
            Ok(())
        }
        error => Err(error.into()),
    }
}

async fn dataset(
    auditor: &mut Auditor,
    place: &Location,
    watch: &mut (dyn FnMut(u64) + Send),
) -> Result<(), Error> {
    let reader = Reader::open(place.open()?).await?;
    let planned: u64 = reader.plan().sample_counts.values().sum();
    auditor.add_planned(planned, planned - reader.sample_count().min(planned));
    let mut samples = pin!(reader.samples());
    let mut done = 0;
    while let Some(sample) = samples.try_next().await? {
        auditor.add(&Row::of_sample(&sample));
        done += 1;
        watch(done);
    }
    Ok(())
}
