//! `diptych import`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use dataset::import::{Error, Imported, Source, import};
use serde::Serialize;

use super::{BadInput, Session};
use crate::progress::Progress;

#[derive(Debug, Serialize)]
struct Outcome {
    samples: u64,
    /// 0 for what has no pictures: such a dataset trains no model that looks.
    images: u64,
    abilities: BTreeMap<String, u64>,
    path: String,
}

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Format.
    #[arg(long, value_enum)]
    pub format: ImportFormat,
    /// File to read, or folder of files.
    #[arg(long = "in", value_name = "PATH")]
    pub input: PathBuf,
    /// Folder of the dataset; new or empty.
    #[arg(long, value_name = "DATASET")]
    pub out: PathBuf,
    /// Folder that the JSON's image paths start from [default: `images` beside the JSON, or the
    /// JSON's own folder].
    #[arg(long, value_name = "DIR")]
    pub image_folder: Option<PathBuf>,
}

/// Formats a dataset can be made of.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ImportFormat {
    /// LLaVA's training JSON, with its pictures.
    Llava,
    /// What the authors of StableLLaVA released: one JSON file per ability, no pictures.
    Stablellava,
}

pub(super) async fn execute(args: ImportArgs, session: &Session) -> Result<()> {
    let progress = Progress::start("import", 0);
    let source = source(&args);
    let mut watch = |done, total| progress.set(done, total, "samples");
    let done = import(&source, &args.out, &mut watch).await;
    let Imported {
        sample_count,
        image_count,
        abilities,
    } = done.map_err(complaint)?;
    progress.finish(&format!("{sample_count} samples"));
    let outcome = Outcome {
        samples: sample_count,
        images: image_count,
        abilities,
        path: args.out.display().to_string(),
    };
    let pictures = match image_count {
        0 => "without pictures: the source holds none".to_owned(),
        count => format!("with {count} pictures"),
    };
    let sentence = format!(
        "{sample_count} samples {pictures}; they are in {}",
        outcome.path
    );
    session.say(&outcome, &sentence)
}

fn source(args: &ImportArgs) -> Source {
    match args.format {
        ImportFormat::Stablellava => Source::StableLlava {
            path: args.input.clone(),
        },
        ImportFormat::Llava => {
            // The folder that an export of ours is may be named too.
            let json = match args.input.is_dir() {
                true => args.input.join("data.json"),
                false => args.input.clone(),
            };
            let beside = || {
                // The parent of a bare file name is no folder that can be opened.
                let folder = json.parent().filter(|folder| *folder != Path::new(""));
                let folder = folder.unwrap_or(Path::new(".")).to_path_buf();
                let images = folder.join("images");
                if images.is_dir() { images } else { folder }
            };
            Source::Llava {
                images: args.image_folder.clone().unwrap_or_else(beside),
                json,
            }
        }
    }
}

/// What is wrong with the files, or with the choice of the folder, is the caller's mistake.
fn complaint(error: Error) -> anyhow::Error {
    let is_failure = matches!(
        error,
        Error::Store(_) | Error::Target(dataset::export::TargetError::Write { .. })
    );
    let error = anyhow::Error::from(error);
    match is_failure {
        true => error,
        false => error.context(BadInput),
    }
}
