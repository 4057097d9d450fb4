//! Where models, data and results lie: names that the service serves, and paths under its roots.

use std::path::{Path, PathBuf};

use proto::dataset::v1::Artefact;
use runtime::artefact::{self, Roots};
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::plan::{Location, is_absent};

/// Roots of artefacts, and the folder of what comes with the suite.
#[derive(Debug, Clone)]
pub struct Places {
    roots: Roots,
    assets: PathBuf,
}

/// The model that comes with the suite.
pub const BUILTIN_MODEL: &str = "builtin:nano-llava";
/// The data that comes with the suite: brief captions of every ability.
pub const BUILTIN_DATA: &str = "builtin:nano-base";

impl Places {
    /// Places under `roots`, and built-in ones under `assets`.
    pub fn new(roots: Roots, assets: PathBuf) -> Self {
        Self { roots, assets }
    }

    /// The roots.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The folder of a model by the name it is served under.
    ///
    /// # Errors
    /// [`Error::UnknownModel`].
    pub fn model(&self, name: &str) -> Result<PathBuf, Error> {
        let folder = self.assets.join("models/nano/nano-llava");
        if name == BUILTIN_MODEL && folder.join("config.json").is_file() {
            return Ok(folder);
        }
        let known = match folder.join("config.json").is_file() {
            true => format!("{BUILTIN_MODEL}; a checkpoint folder goes into base_checkpoint"),
            false => format!("none: {} is not there", folder.display()),
        };
        Err(Error::UnknownModel {
            name: name.to_owned(),
            known,
        })
    }

    /// A data set by the name it is served under.
    pub(crate) fn data(&self, field: &str, name: &str) -> Result<Location, Error> {
        let folder = self.assets.join("models/nano/base");
        if name != BUILTIN_DATA || !folder.join("data.json").is_file() {
            return Err(Error::field(
                field,
                format!("there is no data set {name:?}; known is {BUILTIN_DATA}"),
            ));
        }
        Ok(Location::Llava {
            json: folder.join("data.json"),
            images: folder.join("images"),
        })
    }

    /// Where an artefact lies that must exist; its hash is checked if it is stated.
    pub(crate) fn existing(&self, field: &str, artefact: &Artefact) -> Result<PathBuf, Error> {
        let failed = |source| Error::Artefact {
            field: field.to_owned(),
            source,
        };
        self.roots.resolve(artefact).map_err(failed)
    }

    /// The folder for a run's results; made if it is not there. Without one in the request, a
    /// folder of the run's own under the first root.
    pub(crate) fn output(
        &self,
        wanted: Option<&Artefact>,
        request: &str,
    ) -> Result<PathBuf, Error> {
        let failed = |source| Error::Artefact {
            field: "spec.output".into(),
            source,
        };
        let Some(wanted) = wanted.filter(|wanted| !is_absent(Some(wanted))) else {
            let digest = Sha256::digest(request.as_bytes());
            let name = format!("training/{}", &models::weights::hex(&digest)[..16]);
            let path = self.roots.place(&name).map_err(failed)?;
            return made(&path);
        };
        self.folder(&wanted.uri)
    }

    /// A folder under a root, made if it is not there: its nearest folder that is there must lie
    /// under a root with all links followed, so nothing is made elsewhere.
    fn folder(&self, uri: &str) -> Result<PathBuf, Error> {
        let failed = |source| Error::Artefact {
            field: "spec.output".into(),
            source,
        };
        let mut present = uri;
        let mut absent = Vec::new();
        let mut path = loop {
            match self.roots.locate(present) {
                Ok(path) if path.is_dir() => break path,
                Ok(path) => {
                    return Err(Error::field(
                        "spec.output",
                        format!("{} is no folder", path.display()),
                    ));
                }
                Err(artefact::Error::Missing { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
            let (parent, name) = present
                .trim_end_matches('/')
                .rsplit_once('/')
                .unwrap_or_default();
            if matches!(name, "" | "." | "..") || name.contains(['%', '\\']) {
                return Err(failed(artefact::Error::Uri {
                    uri: uri.to_owned(),
                }));
            }
            absent.push(name);
            present = parent;
        };
        for name in absent.into_iter().rev() {
            path.push(name);
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(Error::write(path)(error));
                }
                _ => {}
            }
        }
        Ok(path)
    }
}

fn made(path: &Path) -> Result<PathBuf, Error> {
    std::fs::create_dir_all(path).map_err(Error::write(path))?;
    path.canonicalize().map_err(Error::write(path))
}
