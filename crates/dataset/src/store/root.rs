//! Where a dataset lies.

use super::Error;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    Error as StorageError, ObjectStore, ObjectStoreExt, PutMode, local::LocalFileSystem, path::Path,
};
use std::{collections::HashMap, fs, path::Path as FilePath, sync::Arc};

/// The storage that holds one dataset, and its name in messages.
#[derive(Clone, Debug)]
pub struct Root {
    objects: Arc<dyn ObjectStore>,
    name: Arc<str>,
}

impl Root {
    /// A local folder, which must exist.
    ///
    /// # Errors
    /// The folder is missing or cannot be opened.
    pub fn folder(folder: &FilePath) -> Result<Self, Error> {
        let name = folder.display().to_string();
        let opened = fs::read_dir(folder);
        opened.map_err(|source| Error::Folder {
            folder: name.clone(),
            source,
        })?;
        let objects =
            LocalFileSystem::new_with_prefix(folder).map_err(|source| Error::Storage {
                verb: "open",
                object: name.clone(),
                source,
            })?;
        Ok(Self::new(Arc::new(objects.with_fsync(true)), &name))
    }

    /// A local folder, made where it is missing.
    ///
    /// # Errors
    /// The folder cannot be made or opened.
    pub fn create_folder(folder: &FilePath) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(|source| Error::Folder {
            folder: folder.display().to_string(),
            source,
        })?;
        Self::folder(folder)
    }

    /// Any object store; `name` stands for it in messages.
    pub fn new(objects: Arc<dyn ObjectStore>, name: &str) -> Self {
        Self {
            objects,
            name: name.trim_end_matches('/').into(),
        }
    }

    /// The dataset's name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An object's name in messages.
    pub(super) fn name_of(&self, path: &Path) -> String {
        format!("{}/{path}", self.name)
    }

    /// Creates an object. False: the name is taken, and nothing was changed.
    pub(super) async fn create(&self, path: &Path, content: Bytes) -> Result<bool, Error> {
        match self
            .objects
            .put_opts(path, content.into(), PutMode::Create.into())
            .await
        {
            Ok(_) => Ok(true),
            Err(StorageError::AlreadyExists { .. } | StorageError::Precondition { .. }) => {
                Ok(false)
            }
            Err(source) => Err(self.error("write", path, source)),
        }
    }

    /// Writes an object, over the one of that name if there is one.
    pub(super) async fn write(&self, path: &Path, content: Bytes) -> Result<(), Error> {
        let written = self.objects.put(path, content.into()).await;
        written
            .map(|_| ())
            .map_err(|source| self.error("write", path, source))
    }

    /// Whether there is any object under a folder.
    pub(super) async fn has_any(&self, folder: &Path) -> Result<bool, Error> {
        let mut found = self.objects.list(Some(folder));
        let first = found.try_next().await;
        first
            .map(|object| object.is_some())
            .map_err(|source| self.error("list", folder, source))
    }

    /// An object's content, or none where there is no such object.
    pub(super) async fn read(&self, path: &Path) -> Result<Option<Bytes>, Error> {
        let found = match self.objects.get(path).await {
            Ok(found) => found,
            Err(StorageError::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(self.error("read", path, source)),
        };
        found
            .bytes()
            .await
            .map(Some)
            .map_err(|source| self.error("read", path, source))
    }

    /// Sizes in bytes of the objects under a folder, by path.
    pub(super) async fn sizes(&self, folder: &Path) -> Result<HashMap<Path, u64>, Error> {
        let found = self.objects.list(Some(folder));
        let sizes = found.map_ok(|object| (object.location, object.size));
        sizes
            .try_collect()
            .await
            .map_err(|source| self.error("list", folder, source))
    }

    /// Paths of the objects under a folder, sorted.
    pub(super) async fn list(&self, folder: &Path) -> Result<Vec<Path>, Error> {
        let found = self
            .objects
            .list(Some(folder))
            .map_ok(|object| object.location);
        let mut paths: Vec<Path> = found
            .try_collect()
            .await
            .map_err(|source| self.error("list", folder, source))?;
        paths.sort();
        Ok(paths)
    }

    fn error(&self, verb: &'static str, path: &Path, source: StorageError) -> Error {
        Error::Storage {
            verb,
            object: self.name_of(path),
            source,
        }
    }
}
