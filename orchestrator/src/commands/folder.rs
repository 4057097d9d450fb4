//! Where a command writes: refused at once where it cannot be, since the work before it may be hours.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use super::BadInput;
use crate::journals;

/// Makes a folder that the command writes to.
///
/// # Errors
/// A file is there, or the folder cannot be made or written, as bad input.
pub(super) fn make_folder(folder: &Path) -> Result<()> {
    let is_free = || -> Result<()> {
        ensure!(
            !folder.is_file(),
            "{} is a file, and a folder is wanted",
            folder.display()
        );
        fs::create_dir_all(folder)?;
        // It leaves no trace, and tells a folder that may only be read.
        tempfile::tempfile_in(folder)?;
        Ok(())
    };
    let made = is_free();
    made.with_context(|| format!("cannot write the folder {}", folder.display()))
        .context(BadInput)
}

/// A folder that was made for a result. Where nothing came into it, it goes again, with the folders above
/// that were made for it: what is refused leaves no trace.
pub(super) struct NewFolder {
    /// Where this process keeps its journals, if it does.
    journals: Option<PathBuf>,
    /// Those that were not there before, the innermost first.
    made: Vec<PathBuf>,
}

impl NewFolder {
    /// Makes the folder, where it is not there. `journals` is where in it this process keeps its own.
    ///
    /// # Errors
    /// As [`make_folder`].
    pub(super) fn make(folder: &Path, journals: Option<PathBuf>) -> Result<Self> {
        let above = folder.ancestors();
        let absent = above.take_while(|above| !above.as_os_str().is_empty() && !above.exists());
        let made = absent.map(Path::to_owned).collect();
        make_folder(folder)?;
        Ok(Self { journals, made })
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if self.made.is_empty() {
            return;
        }
        if let Some(journals) = &self.journals {
            journals::remove_empty(journals);
        }
        // Only empty folders can be removed so.
        for folder in &self.made {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Refuses a place where no file can be written, before anything is made for it. The folders above it are
/// made when it is written.
///
/// # Errors
/// A folder is there, a file is in the way, or nothing may be written there, as bad input.
pub(super) fn check_target(file: &Path) -> Result<()> {
    let is_free = || -> Result<()> {
        ensure!(
            !file.is_dir(),
            "{} is a folder, and a file is wanted",
            file.display()
        );
        let mut folders = file.ancestors().skip(1);
        let in_the_way = folders.find(|folder| folder.is_file());
        ensure!(
            in_the_way.is_none(),
            "cannot write {}: {} is a file",
            file.display(),
            in_the_way.unwrap_or(file).display()
        );
        let here = Path::new(".");
        let mut folders = file.ancestors().skip(1).map(|folder| match folder {
            bare if bare.as_os_str().is_empty() => here,
            folder => folder,
        });
        let nearest = folders.find(|folder| folder.is_dir()).unwrap_or(here);
        tempfile::tempfile_in(nearest)
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(())
    };
    is_free().context(BadInput)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_into_which_nothing_came_goes_again_and_one_with_a_file_stays() {
        let here = tempfile::tempdir().unwrap();
        let (above, out) = (here.path().join("runs"), here.path().join("runs/tiny"));
        for share_count in [1, 3] {
            let own = journals::folder(&out, 0, share_count);
            let made = NewFolder::make(&out, Some(own.clone())).unwrap();
            fs::create_dir_all(&own).unwrap();
            fs::write(own.join("dialogue.jsonl"), "").unwrap();
            drop(made);
            assert!(!above.exists() && here.path().exists());
        }
        let made = NewFolder::make(&out, None).unwrap();
        fs::write(out.join("dataset.json"), "{}").unwrap();
        drop(made);
        assert!(out.join("dataset.json").exists());
        // A folder that was there before is the caller's, empty or not.
        drop(NewFolder::make(&above, None).unwrap());
        assert!(above.exists());
    }
}
