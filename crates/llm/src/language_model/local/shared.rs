//! Models in memory, each once: services of one process that name the same model share its weights.

use std::{
    collections::HashMap,
    fs::{self, Metadata},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::SystemTime,
};

use models::language_model::{self as model, Constraint, LanguageModel, model_sha256};

use super::super::Weights;
use crate::Error;

/// Most schemas that are kept compiled; those of dialogues differ by their number of rounds.
const MAX_CONSTRAINTS: usize = 64;

/// A loaded model, whoever asks it and with which settings.
pub(super) struct Shared {
    pub(super) model: LanguageModel,
    pub(super) weights: Weights,
    /// Compiled schemas, by their text.
    constraints: Mutex<HashMap<String, Constraint>>,
}

/// What is loaded, while somebody holds it. Entries that nobody holds are dropped with the next load.
static LOADED: Mutex<Vec<(Name, Slot)>> = Mutex::new(Vec::new());

/// A place for one model, locked while it is loaded: who comes second waits and gets the same.
type Slot = Arc<Mutex<Weak<Shared>>>;

/// A path, and its files as they stand: what is written anew is another model.
#[derive(PartialEq)]
struct Name {
    path: PathBuf,
    files: Vec<(PathBuf, u64, Option<SystemTime>)>,
}

/// The model at a path: the one that is in memory, or else loaded.
///
/// # Errors
/// A model that is damaged, of another kind, or without a chat template.
pub(super) fn shared(path: &Path) -> Result<Arc<Shared>, Error> {
    let name = Name::of(path).map_err(|source| Error::File {
        what: "the language model",
        path: path.to_owned(),
        source,
    })?;
    let slot = slot(name);
    let mut held = locked(&slot);
    if let Some(shared) = held.upgrade() {
        return Ok(shared);
    }
    let shared = Arc::new(Shared::load(path)?);
    *held = Arc::downgrade(&shared);
    Ok(shared)
}

fn slot(name: Name) -> Slot {
    let mut loaded = locked(&LOADED);
    // A slot that is being loaded is held by who loads it.
    loaded.retain(|(_, slot)| Arc::strong_count(slot) > 1 || locked(slot).strong_count() > 0);
    if let Some((_, slot)) = loaded.iter().find(|(known, _)| *known == name) {
        return Arc::clone(slot);
    }
    let slot = Slot::default();
    loaded.push((name, Arc::clone(&slot)));
    slot
}

impl Name {
    fn of(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let of_file = |path: PathBuf, file: &Metadata| (path, file.len(), file.modified().ok());
        let mut files = Vec::new();
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                // A link stands for its file.
                let file = entry?.path();
                let found = fs::metadata(&file)?;
                files.push(of_file(file, &found));
            }
        } else {
            files.push(of_file(path.clone(), &fs::metadata(&path)?));
        }
        files.sort();
        Ok(Self { path, files })
    }
}

impl Shared {
    fn load(path: &Path) -> Result<Self, Error> {
        let unusable = |source| Error::Model {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let model = LanguageModel::load(path).map_err(unusable)?;
        if !model.has_chat_template() {
            return Err(Error::Options(format!(
                "the model that --language-model names, {}, has no chat template; take one that was trained to converse (-Instruct, -Chat)",
                path.display()
            )));
        }
        let config = model.config();
        let weights = Weights {
            sha256: model_sha256(path).map_err(unusable)?,
            architecture: config.family.architecture(),
            parameter_count: config.parameter_count(),
        };
        Ok(Self {
            model,
            weights,
            constraints: Mutex::default(),
        })
    }

    /// A schema compiled for this model, by its text.
    pub(super) fn constraint(&self, text: String) -> Result<Constraint, model::Error> {
        if let Some(known) = locked(&self.constraints).get(&text) {
            return Ok(known.clone());
        }
        let constraint = self.model.constraint(&text)?;
        let mut constraints = locked(&self.constraints);
        if constraints.len() >= MAX_CONSTRAINTS {
            constraints.clear();
        }
        constraints.insert(text, constraint.clone());
        Ok(constraint)
    }
}

/// What lies behind these locks is whole at every moment.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> PathBuf {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        crates.join("models/tests/fixtures/language_models/llama")
    }

    #[test]
    fn a_model_that_two_services_name_is_in_memory_once_and_gone_with_the_last() {
        let folder = tempfile::tempdir().expect("a folder");
        for entry in fs::read_dir(fixture()).expect("the fixture") {
            let entry = entry.expect("a file");
            let copy = folder.path().join(entry.file_name());
            fs::copy(entry.path(), copy).expect("a copy");
        }
        let roundabout = folder
            .path()
            .join("../")
            .join(folder.path().file_name().expect("a name"));
        // Both at a time, as services of one process start.
        let (one, other) = std::thread::scope(|scope| {
            let one = scope.spawn(|| shared(folder.path()).expect("a model"));
            let other = scope.spawn(|| shared(&roundabout).expect("a model"));
            (one.join().expect("one"), other.join().expect("other"))
        });
        assert!(Arc::ptr_eq(&one, &other));

        let config = folder.path().join("config.json");
        let text = fs::read_to_string(&config).expect("a configuration");
        fs::write(&config, format!("{text} ")).expect("a configuration");
        let changed = shared(folder.path()).expect("a model");
        assert!(!Arc::ptr_eq(&one, &changed), "another model by now");

        let last = Arc::downgrade(&one);
        drop((one, other));
        assert!(last.upgrade().is_none(), "somebody still holds it");
    }
}
