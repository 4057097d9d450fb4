//! Checkpoints in safetensors: single files and sharded ones, memory-mapped, widened to `f32`.
//!
//! A [`Weights`] knows which tensors were asked for, so that a loader can end with
//! [`Weights::finish`] and learn of keys that no layer wanted. Both key styles of transformers are
//! read: version 4 writes `text_model.encoder…`, version 5 writes `encoder…`; see
//! [`Weights::with_optional_prefix`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candle_core::{Device, Tensor};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};
use sha2::{Digest, Sha256};

/// What can be wrong with a checkpoint. Every variant names the file, and the tensor where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or mapped.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No file with weights stands where one was expected.
    #[error("no weights in {}: expected one of {expected}", folder.display())]
    Absent {
        /// The folder looked into.
        folder: PathBuf,
        /// File names that would have done.
        expected: String,
    },
    /// The file is not whole, or not safetensors.
    #[error("{} is truncated or not a safetensors file: {reason}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// The shard index cannot be used.
    #[error("{} is not a usable shard index: {reason}", file.display())]
    Index {
        /// The index file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that the model needs is not there.
    #[error("{} has no tensor `{key}`", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
        /// The full name of the tensor.
        key: String,
    },
    /// Tensors that the model has no place for: the configuration and the weights disagree.
    #[error("{} has tensors that its config.json has no place for: {keys}", file.display())]
    Unexpected {
        /// The file.
        file: PathBuf,
        /// The first few names.
        keys: String,
    },
    /// A tensor of another shape than the configuration says.
    #[error("{}: `{key}` has shape {found:?}, config.json asks for {expected:?}", file.display())]
    Shape {
        /// The file.
        file: PathBuf,
        /// The full name of the tensor.
        key: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A number type other than f32, f16 and bf16.
    #[error("{}: `{key}` is stored as {found}; f32, f16 and bf16 are read", file.display())]
    NumberType {
        /// The file.
        file: PathBuf,
        /// The full name of the tensor.
        key: String,
        /// The stored type.
        found: String,
    },
    /// A tensor with NaN or infinity in it.
    #[error("{}: `{key}` holds a value that is not finite", file.display())]
    NotFinite {
        /// The file.
        file: PathBuf,
        /// The full name of the tensor.
        key: String,
    },
    /// candle refused to build the tensor.
    #[error("cannot build tensor `{key}`")]
    Candle {
        /// The full name of the tensor.
        key: String,
        /// Why.
        #[source]
        source: candle_core::Error,
    },
}

/// An opened checkpoint.
pub struct Weights {
    /// The file that errors name: the single file, or the shard index.
    path: PathBuf,
    shards: Vec<Shard>,
    entries: BTreeMap<String, Entry>,
    prefix: String,
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

    /// The file, or the shard index.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All names in the file, in order, prefix included.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
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
        let values = widen(entry.dtype, shard.bytes(entry)).ok_or_else(|| Error::NumberType {
            file: shard.path.clone(),
            key: name.clone(),
            found: format!("{:?}", entry.dtype),
        })?;
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

/// The SHA-256 of a checkpoint folder, in hex: over the sorted relative paths of `files` and the
/// SHA-256 of each, so that a renamed or changed part changes it.
///
/// # Errors
/// [`Error::Read`] for a file that cannot be read.
pub fn checkpoint_sha256(folder: &Path, files: &[PathBuf]) -> Result<String, Error> {
    let mut sorted: Vec<&PathBuf> = files.iter().collect();
    sorted.sort();
    let mut whole = Sha256::new();
    for file in sorted {
        let name = file
            .strip_prefix(folder)
            .unwrap_or(file)
            .to_string_lossy()
            .replace('\\', "/");
        let digest = Sha256::digest(map_file(file)?.as_deref().unwrap_or_default());
        whole.update(format!("{}  {name}\n", hex(&digest)));
    }
    Ok(hex(&whole.finalize()))
}

/// [`checkpoint_sha256`] of the files in `folder` itself that decide a model's answers.
///
/// # Errors
/// [`Error::Read`].
pub fn folder_sha256(folder: &Path) -> Result<String, Error> {
    checkpoint_sha256(folder, &deciding_files(folder)?)
}

/// Configuration, vocabulary and weights in `folder`, not below it.
///
/// # Errors
/// [`Error::Read`].
pub fn deciding_files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = |source| Error::Read {
        file: folder.to_path_buf(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let kind = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        if path.is_file() && ["json", "safetensors", "txt"].contains(&kind) {
            files.push(path);
        }
    }
    Ok(files)
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[derive(serde::Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

struct Entry {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: std::ops::Range<usize>,
}

struct Shard {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    data_start: usize,
}

impl Shard {
    fn open(path: &Path) -> Result<Self, Error> {
        let bad = |reason: String| Error::Malformed {
            file: path.to_path_buf(),
            reason,
        };
        let map = map_file(path)?.ok_or_else(|| bad("the file is empty".into()))?;
        // `deserialize` checks that header, offsets and file length agree; `read_metadata` alone does not.
        SafeTensors::deserialize(&map).map_err(|e| bad(e.to_string()))?;
        let (header_len, metadata) =
            SafeTensors::read_metadata(&map).map_err(|e| bad(e.to_string()))?;
        Ok(Self {
            path: path.to_path_buf(),
            map,
            metadata,
            data_start: header_len + 8,
        })
    }

    fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.map[entry.range.clone()]
    }
}

/// Maps a file read-only; `None` when it is empty (an empty file cannot be mapped).
#[allow(
    unsafe_code,
    reason = "a mapping is undefined if another process truncates the file meanwhile; checkpoints are written \
              once and read whole at load, and reading gigabytes twice would break the memory bound"
)]
fn map_file(path: &Path) -> Result<Option<Mmap>, Error> {
    let read = |source| Error::Read {
        file: path.to_path_buf(),
        source,
    };
    let file = File::open(path).map_err(read)?;
    if file.metadata().map_err(read)?.len() == 0 {
        return Ok(None);
    }
    // SAFETY: see the reason above; the map is never written through.
    unsafe { Mmap::map(&file) }.map(Some).map_err(read)
}

fn widen(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let halves = bytes.as_chunks::<2>().0.iter();
    Some(match dtype {
        Dtype::F32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        Dtype::F16 => halves
            .map(|b| half::f16::from_le_bytes(*b).to_f32())
            .collect(),
        Dtype::BF16 => halves
            .map(|b| half::bf16::from_le_bytes(*b).to_f32())
            .collect(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::{TensorView, serialize_to_file};

    fn write(path: &Path, tensors: &[(&str, &[usize], Vec<f32>)]) {
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, _, v)| v.iter().flat_map(|x| x.to_le_bytes()).collect())
            .collect();
        let views = tensors.iter().zip(&bytes).map(|((name, shape, _), data)| {
            (
                *name,
                TensorView::new(Dtype::F32, shape.to_vec(), data).unwrap(),
            )
        });
        serialize_to_file(views, None, path).unwrap();
    }

    #[test]
    fn a_broken_checkpoint_is_refused_with_the_name_of_the_file_and_the_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.safetensors");
        write(
            &file,
            &[
                ("a.weight", &[2, 2], vec![1., 2., 3., 4.]),
                ("b", &[1], vec![f32::NAN]),
            ],
        );
        let weights = Weights::open_in(folder.path(), &["model"]).unwrap();

        assert_eq!(
            weights.values("a.weight", &[2, 2]).unwrap(),
            [1., 2., 3., 4.]
        );
        for (key, shape, words) in [
            (
                "a.weight",
                vec![4],
                "`a.weight` has shape [2, 2], config.json asks for [4]",
            ),
            ("c", vec![1], "no tensor `c`"),
            ("b", vec![1], "`b` holds a value that is not finite"),
        ] {
            let error = weights.values(key, &shape).unwrap_err().to_string();
            assert!(
                error.contains(words) && error.contains("model.safetensors"),
                "{error}"
            );
        }
        assert!(weights.finish(&[]).unwrap_err().to_string().contains("`b`"));
        assert!(weights.finish(&["b"]).is_ok());

        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() - 3]).unwrap();
        let error = Weights::open(&file).err().unwrap().to_string();
        assert!(error.contains("truncated"), "{error}");
    }

    #[test]
    fn a_sharded_checkpoint_reads_as_one_and_cannot_leave_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        write(
            &folder.path().join("m-1.safetensors"),
            &[("text_model.x", &[1], vec![1.])],
        );
        write(
            &folder.path().join("m-2.safetensors"),
            &[("head", &[1], vec![2.])],
        );
        let index = folder.path().join("model.safetensors.index.json");
        let map = r#"{"weight_map":{"text_model.x":"m-1.safetensors","head":"m-2.safetensors"}}"#;
        std::fs::write(&index, map).unwrap();
        let weights = Weights::open_in(folder.path(), &["model"])
            .unwrap()
            .with_optional_prefix("text_model.");
        assert_eq!(weights.values("x", &[1]).unwrap(), [1.]);
        assert_eq!(weights.values("head", &[1]).unwrap(), [2.]);
        weights.finish(&[]).unwrap();

        std::fs::write(&index, r#"{"weight_map":{"x":"../m-1.safetensors"}}"#).unwrap();
        let error = Weights::open_in(folder.path(), &["model"])
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("not a plain file name"), "{error}");
    }
}
