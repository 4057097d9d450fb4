//! The records on disk.
//!
//! `<folder>/<id>/job.json` says what was asked, made once. `epoch-N` says that an owner took the
//! N-th turn, made once. `state-N.json` is that owner's account, replaced as it goes; only the one
//! of the highest epoch counts. `cancelled` says that the caller wants no more. `work/` is the
//! job's own folder, for its checkpoints.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{Error, Job, Settings, State, now_ms};
use crate::artefact::{create_new, write_atomic};

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    prefix: String,
}

impl Store {
    pub(super) fn open(settings: &Settings) -> Result<Self, Error> {
        let folder = settings.folder.clone();
        let store = Self {
            folder,
            prefix: format!("{}-", settings.job_kind),
        };
        fs::create_dir_all(&store.folder).map_err(|source| store.failed(source))?;
        Ok(store)
    }

    /// All jobs of this kind. Those that have not ended get a new epoch, ours.
    pub(super) fn recover<S, P, R>(&self) -> Vec<Job<S, P, R>>
    where
        Job<S, P, R>: Serialize + DeserializeOwned,
    {
        let names = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|id| id.starts_with(&self.prefix))
            .filter_map(|id| {
                let taken = self.take_over(&id);
                taken
                    .inspect_err(|error| {
                        tracing::error!(
                            job = id,
                            error = crate::error::chain(error),
                            "skipping a record"
                        );
                    })
                    .ok()
            })
            .collect()
    }

    /// Makes the record of a new job, owned by us; `false` when there is one.
    pub(super) fn create<S, P, R>(&self, job: &Job<S, P, R>) -> Result<bool, Error>
    where
        Job<S, P, R>: Serialize,
    {
        let folder = self.folder.join(&job.id);
        let make = || {
            fs::create_dir_all(&folder)?;
            if !create_new(&folder.join("job.json"), &serde_json::to_vec_pretty(job)?)? {
                return Ok(false);
            }
            create_new(&folder.join("epoch-1"), owner().as_bytes())
        };
        make().map_err(|source| self.failed(source))
    }

    /// The job as its last owner left it.
    pub(super) fn load<T: DeserializeOwned>(&self, id: &str) -> Result<T, Error> {
        let folder = self.folder.join(id);
        let read = || {
            let mut epoch = self.epoch(id)?;
            // An owner that took its turn and had no time to write: its predecessor's account.
            loop {
                let name = match epoch {
                    0 => "job.json".to_owned(),
                    _ => format!("state-{epoch}.json"),
                };
                match fs::read(folder.join(name)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound && epoch > 0 => {
                        epoch -= 1
                    }
                    bytes => return Ok(serde_json::from_slice(&bytes?)?),
                }
            }
        };
        read().map_err(|source| self.failed(source))
    }

    /// Writes the account of the job's epoch.
    pub(super) fn save<S, P, R>(&self, job: &Job<S, P, R>) -> Result<(), Error>
    where
        Job<S, P, R>: Serialize,
    {
        let path = self
            .folder
            .join(&job.id)
            .join(format!("state-{}.json", job.epoch));
        let write = || write_atomic(&path, &serde_json::to_vec_pretty(job)?);
        write().map_err(|source| self.failed(source))
    }

    /// Whether `epoch` is still the highest. Unreadable means no: who cannot see the records must
    /// not commit.
    pub(super) fn owns(&self, id: &str, epoch: u64) -> bool {
        self.epoch(id).is_ok_and(|highest| highest == epoch)
    }

    pub(super) fn mark_cancelled(&self, id: &str) -> Result<(), Error> {
        let marked = create_new(&self.folder.join(id).join("cancelled"), b"");
        marked
            .map(|_first_time| ())
            .map_err(|source| self.failed(source))
    }

    /// The job's own folder.
    pub(super) fn work(&self, id: &str) -> Result<PathBuf, Error> {
        let folder = self.folder.join(id).join("work");
        fs::create_dir_all(&folder).map_err(|source| self.failed(source))?;
        Ok(folder)
    }

    pub(super) fn remove(&self, id: &str) {
        if let Err(error) = fs::remove_dir_all(self.folder.join(id)) {
            tracing::warn!(job = id, %error, "an old job's record stays");
        }
    }

    fn take_over<S, P, R>(&self, id: &str) -> Result<Job<S, P, R>, Error>
    where
        Job<S, P, R>: Serialize + DeserializeOwned,
    {
        let mut job: Job<S, P, R> = self.load(id)?;
        if job.state.is_final() {
            return Ok(job);
        }
        let folder = self.folder.join(id);
        let take = || {
            let mut epoch = self.epoch(id)? + 1;
            while !create_new(&folder.join(format!("epoch-{epoch}")), owner().as_bytes())? {
                epoch += 1;
            }
            Ok(epoch)
        };
        job.epoch = take().map_err(|source| self.failed(source))?;
        job.state = State::Queued;
        if folder.join("cancelled").exists() {
            job.state = State::Cancelled;
            job.ended_at_ms = Some(now_ms());
            "cancelled by its caller".clone_into(&mut job.error);
        }
        self.save(&job)?;
        Ok(job)
    }

    fn epoch(&self, id: &str) -> io::Result<u64> {
        let mut highest = 0;
        for entry in fs::read_dir(self.folder.join(id))? {
            let name = entry?.file_name();
            let epoch = name
                .to_str()
                .and_then(|name| name.strip_prefix("epoch-")?.parse().ok());
            highest = highest.max(epoch.unwrap_or(0));
        }
        Ok(highest)
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Record {
            folder: self.folder.clone(),
            source,
        }
    }
}

/// Who took a turn, for people who look into the folder.
fn owner() -> String {
    let host = fs::read_to_string(Path::new("/etc/hostname")).unwrap_or_default();
    format!("{} {}\n", host.trim(), std::process::id())
}
