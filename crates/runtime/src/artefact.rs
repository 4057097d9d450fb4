//! Artefacts: what is too large for a message, by reference, under roots that the operator named.
//!
//! A path from a caller is resolved with every link followed before it is compared with the roots,
//! so neither `..` nor a link leads out. What is written appears whole (temporary file, fsync,
//! rename) or not at all. All of this blocks on the disk: call it from `spawn_blocking` where the
//! content may be large.

mod files;

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use proto::dataset::v1::Artefact;
use url::Url;

pub use self::files::{create_new, digest, write_atomic};

use crate::{Kind, ServiceError, options::ArtefactOptions};

/// The folders artefacts may lie under.
#[derive(Debug, Clone, Default)]
pub struct Roots {
    /// Resolved, all links followed. The first takes what is new.
    roots: Vec<PathBuf>,
}

/// Why an artefact cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a `file://` URI with an absolute path.
    #[error("{uri:?} is no artefact URI: it should look like file:///absolute/path")]
    Uri {
        /// As the caller gave it.
        uri: String,
    },
    /// A URI that is longer than any path.
    #[error("the URI of an artefact has {length} bytes; at most {MAX_URI_BYTES} are taken")]
    LongUri {
        /// Its length in bytes.
        length: usize,
    },
    /// A path the operator did not open.
    #[error("{uri} does not lie under an artefact root of this service (--artefact-root)")]
    Outside {
        /// As the caller gave it.
        uri: String,
    },
    /// A name for something new that would leave the root.
    #[error("{name:?} is no name for an artefact: use relative paths without ..")]
    Name {
        /// The name.
        name: String,
    },
    /// The service has no root.
    #[error("this service has no artefact root: start it with --artefact-root DIR")]
    NoRoot,
    /// Nothing is there.
    #[error("{uri} does not exist")]
    Missing {
        /// As the caller gave it.
        uri: String,
    },
    /// The content is not what the reference says.
    #[error("{uri} is damaged or was changed: {what} is {actual}, the reference says {expected}")]
    Mismatch {
        /// As the caller gave it.
        uri: String,
        /// `its sha256` or `its size in bytes`.
        what: &'static str,
        /// What was found.
        actual: String,
        /// What was promised.
        expected: String,
    },
    /// A folder holds something that is neither a file nor a folder.
    #[error("{} is neither a file nor a folder", path.display())]
    Special {
        /// The thing.
        path: PathBuf,
    },
    /// The disk said no: read-only, full, or not ours.
    #[error("cannot {verb} {}: {source}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The longest URI: Linux takes no longer path.
const MAX_URI_BYTES: usize = 4096;

impl ServiceError for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Uri { .. } | Self::LongUri { .. } | Self::Outside { .. } => {
                Kind::invalid("uri", self.to_string())
            }
            Self::Name { .. } => Kind::invalid("name", self.to_string()),
            Self::Missing { .. } => Kind::NotFound,
            Self::Mismatch { .. } => Kind::DataLoss,
            Self::NoRoot | Self::Special { .. } | Self::Io { .. } => Kind::FailedPrecondition,
        }
    }
}

impl Roots {
    /// The roots of the options. Absent folders are made.
    ///
    /// # Errors
    /// A root that cannot be made or is not reachable.
    pub fn open(options: &ArtefactOptions) -> Result<Self, Error> {
        let resolve = |root: &PathBuf| {
            fs::create_dir_all(root).map_err(io_error("create", root))?;
            root.canonicalize().map_err(io_error("open", root))
        };
        let roots = options
            .artefact_roots
            .iter()
            .map(resolve)
            .collect::<Result<_, _>>()?;
        Ok(Self { roots })
    }

    /// Where an artefact lies, after its size and hash were checked (both only if stated).
    ///
    /// # Errors
    /// A place outside the roots, nothing there, or other content than the reference says.
    pub fn resolve(&self, artefact: &Artefact) -> Result<PathBuf, Error> {
        let uri = &artefact.uri;
        let path = self.locate(uri)?;
        if artefact.sha256.is_empty() && artefact.size_bytes == 0 {
            return Ok(path);
        }
        let mismatch = |what, actual: String, expected: String| {
            Err(Error::Mismatch {
                uri: uri.clone(),
                what,
                actual,
                expected,
            })
        };
        let (sha256, size_bytes) = digest(&path)?;
        if artefact.size_bytes != 0 && artefact.size_bytes != size_bytes {
            let expected = artefact.size_bytes.to_string();
            return mismatch("its size in bytes", size_bytes.to_string(), expected);
        }
        if !artefact.sha256.is_empty() && artefact.sha256 != sha256 {
            return mismatch("its sha256", sha256, artefact.sha256.clone());
        }
        Ok(path)
    }

    /// Where a URI points, if that exists and lies under a root. The content is not looked at.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve), without the check of the content.
    pub fn locate(&self, uri: &str) -> Result<PathBuf, Error> {
        if self.roots.is_empty() {
            return Err(Error::NoRoot);
        }
        if uri.len() > MAX_URI_BYTES {
            return Err(Error::LongUri { length: uri.len() });
        }
        let named = path_of(uri).ok_or_else(|| Error::Uri {
            uri: uri.to_owned(),
        })?;
        let found = named.canonicalize();
        match found {
            Ok(path) if self.holds(&path) => Ok(path),
            // Whether something outside the roots exists is nobody's business.
            Err(_) if self.holds(&named) => Err(Error::Missing {
                uri: uri.to_owned(),
            }),
            Ok(_) | Err(_) => Err(Error::Outside {
                uri: uri.to_owned(),
            }),
        }
    }

    /// The path for something new called `name` under the first root; its folders are made.
    ///
    /// # Errors
    /// A name that would leave the root, or a folder that cannot be made.
    pub fn place(&self, name: &str) -> Result<PathBuf, Error> {
        let root = self.roots.first().ok_or(Error::NoRoot)?;
        let bad = || Error::Name {
            name: name.to_owned(),
        };
        let plain = Path::new(name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !plain {
            return Err(bad());
        }
        let path = root.join(name);
        let folder = path.parent().ok_or_else(bad)?;
        fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        let real = folder.canonicalize().map_err(io_error("open", folder))?;
        if self.holds(&real) {
            Ok(path)
        } else {
            Err(bad())
        }
    }

    /// Writes `content` as `name` under the first root, whole or not at all.
    ///
    /// # Errors
    /// As [`place`](Self::place), or the disk's.
    pub fn publish(&self, name: &str, content: &[u8]) -> Result<Artefact, Error> {
        let path = self.place(name)?;
        write_atomic(&path, content).map_err(io_error("write", &path))?;
        self.describe(&path)
    }

    /// The reference to a file or folder that already lies under a root.
    ///
    /// # Errors
    /// A place outside the roots, or one that cannot be read.
    pub fn describe(&self, path: &Path) -> Result<Artefact, Error> {
        let real = path.canonicalize().map_err(io_error("open", path))?;
        let url = match real.is_dir() {
            true => Url::from_directory_path(&real),
            false => Url::from_file_path(&real),
        };
        let uri = url
            .map_err(|()| Error::Uri {
                uri: path.display().to_string(),
            })?
            .to_string();
        if !self.holds(&real) {
            return Err(Error::Outside { uri });
        }
        let (sha256, size_bytes) = digest(&real)?;
        Ok(Artefact {
            uri,
            sha256,
            size_bytes,
        })
    }

    fn holds(&self, path: &Path) -> bool {
        self.roots.iter().any(|root| path.starts_with(root))
    }
}

fn path_of(uri: &str) -> Option<PathBuf> {
    let url = Url::parse(uri).ok()?;
    if url.scheme() != "file" || url.query().is_some() || url.fragment().is_some() {
        return None;
    }
    let path = url.to_file_path().ok()?;
    // Plain ones are gone by now; `%2f..` only becomes one here.
    let climbs = path.components().any(|part| part == Component::ParentDir);
    (!climbs).then_some(path)
}

fn io_error<'a>(verb: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |source| Error::Io {
        verb,
        path: path.to_owned(),
        source,
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    fn roots(folder: &Path) -> Roots {
        let options = ArtefactOptions {
            artefact_roots: vec![folder.to_owned()],
        };
        Roots::open(&options).expect("a fresh folder")
    }

    #[test]
    fn what_is_published_is_found_again_and_damage_is_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        let roots = roots(folder.path());
        let artefact = roots.publish("reports/a.json", b"{}").expect("written");
        assert_eq!(artefact.size_bytes, 2);
        let path = roots.resolve(&artefact).expect("found again");
        assert_eq!(fs::read(&path).expect("read"), b"{}");

        fs::write(&path, b"[]").expect("damaged");
        let error = roots.resolve(&artefact).expect_err("other content");
        assert_eq!(error.kind(), Kind::DataLoss);
        fs::remove_file(&path).expect("removed");
        assert_eq!(
            roots.resolve(&artefact).expect_err("gone").kind(),
            Kind::NotFound
        );
    }

    #[test]
    fn a_folder_is_known_by_the_hashes_of_its_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let roots = roots(folder.path());
        roots.publish("model/b.bin", b"bb").expect("written");
        roots.publish("model/a/c.bin", b"c").expect("written");
        let artefact = roots
            .describe(&folder.path().join("model"))
            .expect("described");
        assert!(artefact.uri.ends_with("/model/"));
        assert_eq!(artefact.size_bytes, 3);
        let lines = format!(
            "{}  a/c.bin\n{}  b.bin\n",
            hex(&Sha256::digest(b"c")),
            hex(&Sha256::digest(b"bb"))
        );
        assert_eq!(artefact.sha256, hex(&Sha256::digest(lines.as_bytes())));
        roots.resolve(&artefact).expect("unchanged");
        fs::rename(
            folder.path().join("model/b.bin"),
            folder.path().join("model/d.bin"),
        )
        .expect("renamed");
        assert!(matches!(
            roots.resolve(&artefact),
            Err(Error::Mismatch { .. })
        ));
    }

    #[test]
    fn no_path_of_a_caller_leaves_the_roots() {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = folder.path().join("secret");
        fs::write(&secret, "s").expect("written");
        let inside = folder.path().join("inside");
        let roots = roots(&inside);
        std::os::unix::fs::symlink(&secret, inside.join("link")).expect("a link");
        let base = inside.canonicalize().expect("a path");
        let base = base.display();
        for uri in [
            format!("file://{base}/../secret"),
            format!("file://{base}/%2e%2e/secret"),
            format!("file://{base}/link"),
            format!("file://{}", secret.display()),
            "file:///etc/passwd".to_owned(),
            "file:///no/such/thing".to_owned(),
        ] {
            assert!(
                matches!(roots.locate(&uri), Err(Error::Outside { .. })),
                "{uri}"
            );
        }
        for uri in [
            "s3://bucket/key",
            "/etc/passwd",
            "",
            "file://host/etc/passwd",
            &format!("file://{base}%2f..%2fsecret"),
            &format!("file://{base}%2f..%2fabsent"),
        ] {
            assert!(matches!(roots.locate(uri), Err(Error::Uri { .. })), "{uri}");
        }
        let long = format!("file://{base}{}", "/d".repeat(10_000));
        assert!(matches!(roots.locate(&long), Err(Error::LongUri { .. })));
        for name in ["../secret", "/etc/passwd", "a/../../b", "", "."] {
            assert!(
                matches!(roots.place(name), Err(Error::Name { .. })),
                "{name}"
            );
        }
        assert!(matches!(
            Roots::default().locate("file:///x"),
            Err(Error::NoRoot)
        ));
    }

    #[test]
    fn of_two_that_create_one_file_one_wins_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("epoch");
        assert!(create_new(&path, b"first").expect("created"));
        assert!(!create_new(&path, b"second").expect("not created"));
        assert_eq!(fs::read(&path).expect("read"), b"first");
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
    }
}
