//! One safetensors file, memory-mapped.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};

use super::Error;

/// Where a tensor lies.
pub(super) struct Entry {
    pub(super) shard: usize,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) range: std::ops::Range<usize>,
}

/// One mapped file.
pub(super) struct Shard {
    pub(super) path: PathBuf,
    map: Mmap,
    pub(super) metadata: Metadata,
    pub(super) data_start: usize,
}

impl Shard {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
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

    pub(super) fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.map[entry.range.clone()]
    }

    /// Gives the memory of a tensor that has been read back to the system, so that a checkpoint is not
    /// in memory twice while it is loaded. Read again, it comes from the file again.
    pub(super) fn forget(&self, entry: &Entry) {
        #[cfg(unix)]
        forget_pages(&self.map, &entry.range);
    }
}

/// Maps a file read-only; `None` when it is empty (an empty file cannot be mapped).
#[allow(
    unsafe_code,
    reason = "a mapping is undefined if another process truncates the file meanwhile; checkpoints are written \
              once and read whole at load, and reading gigabytes twice would break the memory bound"
)]
pub(super) fn map_file(path: &Path) -> Result<Option<Mmap>, Error> {
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

/// Stored numbers as `f32`; `None` for a type that is not read.
pub(super) fn widen(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
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

#[cfg(unix)]
#[allow(
    unsafe_code,
    reason = "the system may be told that pages are not needed only by an unsafe call, as it would lose what was \
              written to them; the map is private, never written to, and backed by a file"
)]
fn forget_pages(map: &Mmap, range: &std::ops::Range<usize>) {
    // SAFETY: see the reason above; the pages' contents stay what they were.
    let _it_is_a_hint = unsafe {
        map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
    };
}
