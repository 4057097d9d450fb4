//! Checkpoints in safetensors: single files and sharded ones, memory-mapped, widened to `f32`.
//!
//! A [`Weights`] knows which tensors were asked for, so that a loader can end with
//! [`Weights::finish`] and learn of keys that no layer wanted. Both key styles of transformers are
//! read: version 4 writes `text_model.encoder…`, version 5 writes `encoder…`; see
//! [`Weights::with_optional_prefix`].

mod error;
mod fingerprint;
mod shard;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};

pub use self::error::Error;
pub use self::fingerprint::{checkpoint_sha256, deciding_files, folder_sha256, hex};
use self::shard::{Entry, Shard, widen};

/// Something that changes weights while they are read, such as a LoRA.
pub trait Adapter: Send + Sync {
    /// Changes `values`, those of tensor `key` (without optional prefix) of `shape`, row-major.
    ///
    /// # Errors
    /// [`Error::Adapter`].
    fn adapt(&self, key: &str, shape: &[usize], values: &mut [f32]) -> Result<(), Error>;
}

/// Adapters of one part of a model, in order.
pub type Adapters = Vec<Arc<dyn Adapter>>;

/// An opened checkpoint.
pub struct Weights {
    /// The file that errors name: the single file, or the shard index.
    path: PathBuf,
    shards: Vec<Shard>,
    entries: BTreeMap<String, Entry>,
    prefix: String,
    adapters: Adapters,
    asked: Mutex<BTreeSet<String>>,
}

impl Weights {
    /// Opens one safetensors file.
    ///
    /// # Errors
    /// [`Error::Read`] and [`Error::Malformed`].
    pub fn open(file: &Path) -> Result<Self, Error> {
        Self::from_shards(file.to_path_buf(), vec![Shard::open(file)?])
    }

    /// Opens the weights in `folder`: for each of `stems` in turn `stem.safetensors`,
    /// `stem.safetensors.index.json` (sharded), `stem.fp16.safetensors`; the first that exists wins.
    ///
    /// # Errors
    /// [`Error::Absent`] when none exists, and what opening it gives.
    pub fn open_in(folder: &Path, stems: &[&str]) -> Result<Self, Error> {
        for stem in stems {
            let index = folder.join(format!("{stem}.safetensors.index.json"));
            if index.is_file() {
                return Self::open_sharded(&index);
            }
            for name in [
                format!("{stem}.safetensors"),
                format!("{stem}.fp16.safetensors"),
            ] {
                if folder.join(&name).is_file() {
                    return Self::open(&folder.join(name));
                }
            }
        }
        let expected = stems
            .iter()
            .map(|s| format!("{s}.safetensors"))
            .collect::<Vec<_>>();
        Err(Error::Absent {
            folder: folder.to_path_buf(),
            expected: expected.join(", "),
        })
    }

    /// Reads names with `prefix` before them when the file has any that start so, and without it
    /// otherwise.
    #[must_use]
    pub fn with_optional_prefix(mut self, prefix: &str) -> Self {
        if self.entries.keys().any(|key| key.starts_with(prefix)) {
            self.prefix = prefix.to_owned();
        }
        self
    }

    /// Changes every tensor by `adapters` as it is read.
    #[must_use]
    pub fn with_adapters(mut self, adapters: Adapters) -> Self {
        self.adapters = adapters;
        self
    }

    /// The file, or the shard index.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All names in the file, in order, prefix included.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// What the header of the first file says under `name`, beside the tensors.
    pub fn header(&self, name: &str) -> Option<&str> {
        let words = self.shards.first()?.metadata.metadata().as_ref()?;
        words.get(name).map(String::as_str)
    }

    /// Numbers in all tensors.
    pub fn parameter_count(&self) -> u64 {
        self.entries
            .values()
            .map(|entry| entry.shape.iter().product::<usize>() as u64)
            .sum()
    }

    /// Whether the file has a tensor `key` (behind the optional prefix).
    pub fn contains(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// The shape of `key`, if the file has it.
    pub fn shape(&self, key: &str) -> Option<&[usize]> {
        self.find(key).map(|(_, entry)| entry.shape.as_slice())
    }

    /// The values of `key` as `f32`, row-major, checked to be finite and of `shape`.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Shape`], [`Error::NumberType`], [`Error::NotFinite`].
    pub fn values(&self, key: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let (name, entry) = self.find(key).ok_or_else(|| Error::Missing {
            file: self.path.clone(),
            key: format!("{}{key}", self.prefix),
        })?;
        let shard = &self.shards[entry.shard];
        if entry.shape != shape {
            return Err(Error::Shape {
                file: shard.path.clone(),
                key: name,
                expected: shape.to_vec(),
                found: entry.shape.clone(),
            });
        }
        let mut values =
            widen(entry.dtype, shard.bytes(entry)).ok_or_else(|| Error::NumberType {
                file: shard.path.clone(),
                key: name.clone(),
                found: format!("{:?}", entry.dtype),
            })?;
        shard.forget(entry);
        for adapter in &self.adapters {
            adapter.adapt(key, shape, &mut values)?;
        }
        if !values.iter().all(|v| v.is_finite()) {
            return Err(Error::NotFinite {
                file: shard.path.clone(),
                key: name,
            });
        }
        self.mark(name);
        Ok(values)
    }

    /// The same as [`Weights::values`], as a tensor on the CPU.
    ///
    /// # Errors
    /// As [`Weights::values`].
    pub fn tensor(&self, key: &str, shape: &[usize]) -> Result<Tensor, Error> {
        let values = self.values(key, shape)?;
        Tensor::from_vec(values, shape, &Device::Cpu).map_err(|source| Error::Candle {
            key: key.to_owned(),
            source,
        })
    }

    /// Refuses a checkpoint with tensors that were never asked for, except those that `ignored` names
    /// by the end of their key (such as the `position_ids` buffers of old files).
    ///
    /// # Errors
    /// [`Error::Unexpected`].
    pub fn finish(&self, ignored: &[&str]) -> Result<(), Error> {
        let asked = self
            .asked
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let left: Vec<&str> = self
            .keys()
            .filter(|key| !asked.contains(*key) && !ignored.iter().any(|end| key.ends_with(end)))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        let more = if left.len() > 5 {
            format!(" and {} more", left.len() - 5)
        } else {
            String::new()
        };
        let keys = left
            .iter()
            .take(5)
            .map(|k| format!("`{k}`"))
            .collect::<Vec<_>>()
            .join(", ");
        Err(Error::Unexpected {
            file: self.path.clone(),
            keys: keys + &more,
        })
    }

    fn open_sharded(index: &Path) -> Result<Self, Error> {
        let bad = |reason: String| Error::Index {
            file: index.to_path_buf(),
            reason,
        };
        let text = std::fs::read(index).map_err(|source| Error::Read {
            file: index.into(),
            source,
        })?;
        let parsed: ShardIndex = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
        let folder = index.parent().unwrap_or(Path::new("."));
        let names: BTreeSet<&String> = parsed.weight_map.values().collect();
        let mut shards = Vec::new();
        for name in names {
            // A shard is a neighbour of its index, never a path to elsewhere.
            if Path::new(name).file_name() != Some(name.as_ref()) {
                return Err(bad(format!("`{name}` is not a plain file name")));
            }
            shards.push(Shard::open(&folder.join(name))?);
        }
        let weights = Self::from_shards(index.to_path_buf(), shards)?;
        match parsed
            .weight_map
            .keys()
            .find(|key| !weights.entries.contains_key(*key))
        {
            Some(key) => Err(Error::Missing {
                file: index.to_path_buf(),
                key: key.clone(),
            }),
            None => Ok(weights),
        }
    }

    fn from_shards(path: PathBuf, shards: Vec<Shard>) -> Result<Self, Error> {
        let mut entries = BTreeMap::new();
        for (index, shard) in shards.iter().enumerate() {
            for (key, info) in shard.metadata.tensors() {
                let (start, end) = info.data_offsets;
                let range = shard.data_start + start..shard.data_start + end;
                let entry = Entry {
                    shard: index,
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    range,
                };
                entries.insert(key, entry);
            }
        }
        Ok(Self {
            path,
            shards,
            entries,
            prefix: String::new(),
            adapters: Vec::new(),
            asked: Mutex::default(),
        })
    }

    fn find(&self, key: &str) -> Option<(String, &Entry)> {
        let name = format!("{}{key}", self.prefix);
        let entry = self.entries.get(&name);
        // Heads such as `text_projection` stand outside the prefix.
        entry
            .map(|e| (name, e))
            .or_else(|| self.entries.get(key).map(|e| (key.to_owned(), e)))
    }

    fn mark(&self, name: String) {
        self.asked
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(name);
    }
}

#[derive(serde::Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}
