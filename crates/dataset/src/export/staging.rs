//! Folders that are whole or absent: made under another name beside their place, and renamed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// Why a folder cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The target holds something.
    #[error("{0} is not empty: choose a new or an empty folder")]
    NotEmpty(PathBuf),
    /// A file or folder cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// File or folder.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

impl TargetError {
    /// The error of a file or folder that cannot be written.
    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Write { path, source }
    }
}

/// A folder under way; dropped before [`Staging::finish`], it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Staging {
    /// Hides what is under way from who lists the folders.
    around: TempDir,
    target: PathBuf,
}

impl Staging {
    /// Starts a folder that is to be `target`.
    pub(crate) fn start(target: &Path) -> Result<Self, TargetError> {
        refuse_full(target)?;
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(TargetError::write(parent))?;
        let around = tempfile::Builder::new()
            .prefix(".unfinished-")
            .tempdir_in(parent)
            .map_err(TargetError::write(parent))?;
        let staging = Self {
            around,
            target: target.to_owned(),
        };
        // Made here and not by `tempfile`, whose folders no one else may read.
        let folder = staging.folder();
        fs::create_dir(&folder).map_err(TargetError::write(&folder))?;
        Ok(staging)
    }

    /// Where to write.
    pub(crate) fn folder(&self) -> PathBuf {
        self.around.path().join("content")
    }

    /// Gives the folder its name. Renaming onto an empty folder replaces it; onto one that was
    /// filled in the meantime it fails.
    pub(crate) fn finish(&self) -> Result<(), TargetError> {
        fs::rename(self.folder(), &self.target).map_err(TargetError::write(&self.target))
    }

    /// As [`finish`](Self::finish), and the name lasts: for folders whose files were synced.
    pub(crate) fn finish_synced(&self) -> Result<(), TargetError> {
        self.finish()?;
        let around = self.around.path().parent().unwrap_or(Path::new("."));
        let synced = fs::File::open(around).and_then(|folder| folder.sync_all());
        synced.map_err(TargetError::write(around))
    }
}

fn refuse_full(target: &Path) -> Result<(), TargetError> {
    match fs::read_dir(target) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(TargetError::NotEmpty(target.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(TargetError::write(target)(source)),
    }
}
