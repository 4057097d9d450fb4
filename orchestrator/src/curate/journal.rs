//! The folder of a curation: candidates, their pictures, and every decision as it is made, so that a
//! closed page or a killed process costs nothing.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Candidate, Entry, candidate::Plate};
use crate::{bad_input::BadInput, files};

/// What a person decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// It enters the file.
    Keep,
    /// It does not.
    Drop,
    /// Taken back.
    Open,
}

/// One decision.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Decision {
    /// Id of the entry as it was proposed.
    pub(crate) id: String,
    /// What was decided.
    pub(crate) verdict: Verdict,
    /// The entry as edited.
    pub(crate) entry: Entry,
}

/// Candidates and decisions, in memory and on the disk.
pub(crate) struct Journal {
    folder: PathBuf,
    candidates: Vec<Candidate>,
    decisions: BTreeMap<String, Decision>,
    candidate_lines: File,
    decision_lines: File,
}

const PICTURES: &str = "pictures";
/// Says whose candidates a folder holds.
const OWNER: &str = "curation.json";

#[derive(Serialize, Deserialize)]
struct Owner {
    ability: String,
}

impl Journal {
    /// Opens an ability's folder for this process alone, and makes it where it is missing.
    ///
    /// # Errors
    /// It cannot be written, it is another ability's, another process has it, or a line is damaged.
    pub(crate) fn open(folder: &Path, ability: &str) -> Result<Self> {
        fs::create_dir_all(folder.join(PICTURES))
            .with_context(|| format!("cannot write the folder {}", folder.display()))
            .context(BadInput)?;
        // Nothing is read before it is nobody else's: what another process writes meanwhile would be
        // cut away as half a line.
        let places = ["decisions.jsonl", "candidates.jsonl"].map(|name| folder.join(name));
        let [decision_lines, candidate_lines] = [locked(&places[0])?, locked(&places[1])?];
        own(folder, ability)?;
        let decisions = lines::<Decision>(&decision_lines, &places[0])?;
        let candidates = lines(&candidate_lines, &places[1])?;
        Ok(Self {
            folder: folder.to_owned(),
            candidates,
            // The last word on an entry counts.
            decisions: decisions
                .into_iter()
                .map(|decision| (decision.id.clone(), decision))
                .collect(),
            candidate_lines,
            decision_lines,
        })
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// All candidates, in the order in which they came.
    pub(crate) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// What was decided about an entry.
    pub(crate) fn decision(&self, id: &str) -> Option<&Decision> {
        self.decisions.get(id)
    }

    /// Keeps a candidate.
    ///
    /// # Errors
    /// The disk does not take it.
    pub(crate) fn add(&mut self, candidate: Candidate) -> Result<()> {
        append(&mut self.candidate_lines, &candidate)
            .with_context(|| format!("cannot write into {}", self.folder.display()))?;
        self.candidates.push(candidate);
        Ok(())
    }

    /// Keeps a picture.
    ///
    /// # Errors
    /// The disk does not take it.
    pub(crate) fn add_picture(&self, plate: &Plate, data: &[u8]) -> Result<()> {
        files::write(&self.folder.join(PICTURES).join(&plate.file), data)
    }

    /// A picture by its file name, where a candidate has one of that name.
    pub(crate) fn picture(&self, file: &str) -> Option<(Plate, PathBuf)> {
        let plates = self.candidates.iter().flat_map(|found| &found.pictures);
        let plate = plates.into_iter().find(|plate| plate.file == file)?;
        Some((plate.clone(), self.folder.join(PICTURES).join(file)))
    }

    /// Keeps a decision, on the disk when this returns.
    ///
    /// # Errors
    /// The disk does not take it; the decision does not count then.
    pub(crate) fn decide(&mut self, decision: Decision) -> Result<()> {
        append(&mut self.decision_lines, &decision)
            .with_context(|| format!("cannot write into {}", self.folder.display()))?;
        self.decisions.insert(decision.id.clone(), decision);
        Ok(())
    }
}

/// Refuses a folder of another ability: its candidates would enter this one's file.
fn own(folder: &Path, ability: &str) -> Result<()> {
    let place = folder.join(OWNER);
    let owner = files::read_json::<Owner>(&place).context(BadInput)?;
    match owner {
        Some(owner) if owner.ability == ability => Ok(()),
        Some(Owner { ability: other }) => {
            let folder = folder.display();
            let complaint =
                anyhow!("{folder} holds candidates of the ability `{other}`; choose another --out");
            Err(complaint.context(BadInput))
        }
        None => files::write_json(
            &place,
            &Owner {
                ability: ability.to_owned(),
            },
        ),
    }
}

/// Opens a file of lines for this process alone.
fn locked(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).append(true).create(true).open(path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    if file.try_lock().is_err() {
        let taken = anyhow!("another `diptych curate` has {}", path.display());
        return Err(taken.context(BadInput));
    }
    Ok(file)
}

/// Reads a file of one JSON object per line. The line that a kill cut short is taken away: nobody was
/// told that it had been written.
fn lines<T: DeserializeOwned>(file: &File, path: &Path) -> Result<Vec<T>> {
    let mut values = Vec::new();
    let end = files::each_whole_line(file, |line| {
        let value = serde_json::from_slice(line);
        let value = value
            .with_context(|| format!("{}:{} is damaged", path.display(), values.len() + 1))
            .context(BadInput)?;
        values.push(value);
        Ok::<_, anyhow::Error>(())
    })?;
    cut(file, end).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(values)
}

fn cut(mut file: &File, size_bytes: u64) -> std::io::Result<()> {
    if file.metadata()?.len() > size_bytes {
        file.set_len(size_bytes)?;
    }
    file.seek(SeekFrom::End(0)).map(|_| ())
}

fn append<T: Serialize>(file: &mut File, value: &T) -> Result<()> {
    let before = file.metadata()?.len();
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    let written = file.write_all(&line).and_then(|()| file.sync_data());
    if written.is_err() {
        // Half a line would damage the next one.
        let _ = file.set_len(before);
    }
    Ok(written?)
}
