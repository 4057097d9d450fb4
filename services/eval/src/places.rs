//! Where models, benchmarks and outputs lie.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use runtime::artefact::{self, Roots};
use runtime::options::NamedFolder;
use runtime::{Kind, ServiceError as _};

use crate::{
    benchmark::Benchmark,
    error::Error,
    options::Options,
    spec::{Artefact, BenchmarkRef, Location, ModelRef},
};

/// Models below the assets, with the names they are served by.
const BUILTIN_MODELS: [(&str, &str); 1] = [("builtin:nano-llava", "models/nano/nano-llava")];
/// Benchmarks below the assets.
const BUILTIN_BENCHMARKS: [(&str, &str); 1] = [("builtin:nano-real", "models/nano/bench-real")];

/// Everything that requests can name.
#[derive(Debug)]
pub(crate) struct Places {
    models: BTreeMap<String, PathBuf>,
    benchmarks: BTreeMap<String, PathBuf>,
    abilities: Option<PathBuf>,
    roots: Roots,
}

impl Places {
    /// What the options open. A builtin that is not on the disk is not served.
    ///
    /// # Errors
    /// An artefact root that cannot be made.
    pub(crate) fn open(options: &Options) -> Result<Self, Error> {
        Ok(Self {
            models: served(&options.models, &BUILTIN_MODELS, options.assets.as_deref()),
            benchmarks: served(
                &options.benchmarks,
                &BUILTIN_BENCHMARKS,
                options.assets.as_deref(),
            ),
            abilities: options
                .assets
                .as_ref()
                .map(|assets| assets.join("abilities")),
            roots: Roots::open(&options.artefacts)?,
        })
    }

    /// The artefact roots.
    pub(crate) fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Folder of the ability files.
    ///
    /// # Errors
    /// The service was started without assets.
    pub(crate) fn abilities(&self) -> Result<&Path, Error> {
        self.abilities
            .as_deref()
            .ok_or_else(|| Error::Abilities("start this service with --assets DIR".into()))
    }

    /// Served models by name.
    pub(crate) fn models(&self) -> &BTreeMap<String, PathBuf> {
        &self.models
    }

    /// Names of the served benchmarks.
    pub(crate) fn benchmark_names(&self) -> impl Iterator<Item = &str> {
        self.benchmarks.keys().map(String::as_str)
    }

    /// The folder of a model. Its content is compared with what the reference says, if it says.
    ///
    /// # Errors
    /// Unknown name, or a place outside of the roots, missing or changed.
    pub(crate) fn model(&self, model: &ModelRef) -> Result<PathBuf, Error> {
        match model {
            ModelRef::Served(name) => {
                self.models
                    .get(name)
                    .cloned()
                    .ok_or_else(|| Error::UnknownModel {
                        name: name.clone(),
                        known: listed(self.models.keys()),
                    })
            }
            ModelRef::Checkpoint(folder) => Ok(self.roots.resolve(&folder.clone().into())?),
        }
    }

    /// Whether a model is there, without a look at its content.
    ///
    /// # Errors
    /// As [`Places::model`], but for changed content.
    pub(crate) fn find_model(&self, model: &ModelRef) -> Result<(), Error> {
        match model {
            ModelRef::Served(_) => self.model(model).map(drop),
            ModelRef::Checkpoint(folder) => Ok(self.roots.locate(&folder.uri).map(drop)?),
        }
    }

    /// Opens a benchmark.
    ///
    /// # Errors
    /// Unknown name, a place outside of the roots, or a folder that is no benchmark.
    pub(crate) fn benchmark(&self, reference: &BenchmarkRef) -> Result<Benchmark, Error> {
        let folder = match &reference.location {
            Location::Builtin(name) => {
                self.benchmarks
                    .get(name)
                    .cloned()
                    .ok_or_else(|| Error::UnknownBenchmark {
                        name: name.clone(),
                        known: listed(self.benchmarks.keys()),
                    })?
            }
            Location::Folder(folder) => self.roots.resolve(&folder.clone().into())?,
        };
        Benchmark::open(&folder).map_err(|source| Error::Benchmark {
            name: reference.name.clone(),
            source,
        })
    }

    /// The folder for an output, made where it is missing.
    ///
    /// # Errors
    /// A place outside of the roots, or a disk that says no.
    pub(crate) fn output(&self, output: &Artefact) -> Result<PathBuf, Error> {
        match self.roots.locate(&output.uri) {
            Ok(path) if path.is_dir() => return Ok(path),
            Ok(_) => {
                return Err(Error::invalid(
                    "spec.output",
                    format!("{} is no folder", output.uri),
                ));
            }
            Err(artefact::Error::Missing { .. }) => {}
            Err(error) => return Err(no_output(error)),
        }
        // Not there yet: its nearest folder that is must lie under a root, links followed.
        let uri = output.uri.trim_end_matches('/');
        let (parent, name) = uri.rsplit_once('/').unwrap_or(("", uri));
        let is_plain =
            !name.is_empty() && !matches!(name, "." | "..") && !name.contains(['%', '\\']);
        if !is_plain {
            return Err(no_output(artefact::Error::Uri {
                uri: output.uri.clone(),
            }));
        }
        let parent = Artefact {
            uri: parent.to_owned(),
            sha256: String::new(),
            size_bytes: 0,
        };
        let path = self.output(&parent)?.join(name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(Error::io("create", &path)(error))
            }
            _ => Ok(path),
        }
    }
}

/// A place that no output can have, under the name of the field that asks for it.
fn no_output(error: artefact::Error) -> Error {
    match error.kind() {
        Kind::InvalidArgument(_) => Error::invalid("spec.output", error.to_string()),
        _ => error.into(),
    }
}

fn served(
    named: &[NamedFolder],
    builtin: &[(&str, &str)],
    assets: Option<&Path>,
) -> BTreeMap<String, PathBuf> {
    let builtin = builtin
        .iter()
        .filter_map(|(name, path)| Some(((*name).to_owned(), assets?.join(path))));
    let named = named
        .iter()
        .map(|found| (found.name.clone(), found.folder.clone()));
    builtin
        .filter(|(_, path)| path.is_dir())
        .chain(named)
        .collect()
}

fn listed<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    if names.is_empty() {
        "none".into()
    } else {
        names.join(", ")
    }
}
