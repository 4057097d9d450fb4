//! Files that appear whole or not at all, and their hashes.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use sha2::{Digest as _, Sha256};

use super::{Error, hex, io_error};

/// Writes a file so that a reader, and a machine that loses power, sees the old content or the new.
///
/// # Errors
/// The disk's; the old content then stands.
pub fn write_atomic(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary(path, content)?;
    fs::rename(&temporary, path).inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    sync_folder(path)
}

/// Writes a file if none is there, whole or not at all; `false` when one was there already.
///
/// # Errors
/// The disk's; nothing is left behind then.
pub fn create_new(path: &Path, content: &[u8]) -> io::Result<bool> {
    let temporary = temporary(path, content)?;
    // A hard link is created only where there is no name yet, and it names a complete file.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    match linked {
        Ok(()) => sync_folder(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// SHA-256 and size of a file, or of a folder: the digest of its `sha256  path` lines sorted by
/// path, and the sum of its sizes.
///
/// # Errors
/// Something unreadable, or neither file nor folder (a link, a socket).
pub fn digest(path: &Path) -> Result<(String, u64), Error> {
    if !path.is_dir() {
        return digest_file(path);
    }
    let mut files = Vec::new();
    list(path, String::new(), &mut files)?;
    files.sort();
    let mut lines = String::new();
    let mut size_bytes = 0;
    for name in files {
        let (sha256, size) = digest_file(&path.join(&name))?;
        lines.push_str(&format!("{sha256}  {name}\n"));
        size_bytes += size;
    }
    Ok((hex(&Sha256::digest(lines.as_bytes())), size_bytes))
}

fn list(folder: &Path, prefix: String, files: &mut Vec<String>) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(io_error("list", folder))? {
        let entry = entry.map_err(io_error("list", folder))?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().map_err(io_error("open", &entry.path()))?;
        if kind.is_dir() {
            list(&entry.path(), format!("{name}/"), files)?;
        } else if kind.is_file() {
            files.push(name);
        } else {
            return Err(Error::Special { path: entry.path() });
        }
    }
    Ok(())
}

fn digest_file(path: &Path) -> Result<(String, u64), Error> {
    let mut file = File::open(path).map_err(io_error("read", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size_bytes = 0;
    loop {
        let read = file.read(&mut buffer).map_err(io_error("read", path))?;
        if read == 0 {
            return Ok((hex(&hasher.finalize()), size_bytes));
        }
        hasher.update(&buffer[..read]);
        size_bytes += read as u64;
    }
}

/// A complete, synced file beside `path`, under a name no other call uses.
fn temporary(path: &Path, content: &[u8]) -> io::Result<PathBuf> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    // Two containers on one disk may have the same process id.
    static PROCESS: LazyLock<u64> = LazyLock::new(rand::random);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}-{serial}.tmp", *PROCESS));
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()
    };
    match write() {
        Ok(()) => Ok(temporary),
        // Somebody else's: theirs to finish.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        Err(error) => {
            let _may_not_exist = fs::remove_file(&temporary);
            Err(error)
        }
    }
}

/// A new name is durable once its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}
