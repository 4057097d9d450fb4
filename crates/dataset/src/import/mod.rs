//! Makes a dataset of other people's files: LLaVA's JSON with its pictures, and the rows that the
//! authors of StableLLaVA released, which have no pictures.
//!
//! The file is read twice: once to count, since a dataset says first what it is to hold, and once
//! to write. One partition's pictures are in memory at a time. A sample says where it comes from in
//! its conversation's provenance: file, record, and the id and picture named there.

mod drafts;
mod picture;

use crate::{
    export::{Staging, TargetError},
    identity::{SampleKey, sha256_hex},
    json_list::Error as ReadError,
    plan::{PARTITION_SLOT_COUNT, Plan},
    store::{Error as StoreError, PartitionTally, Root, Writer, fault},
};
use drafts::Draft;
use proto::dataset::v1::{Conversation, Sample};
use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
};

/// Most abilities of one import; more are a column that is no ability.
const MAX_ABILITY_COUNT: usize = 256;

/// What is imported.
#[derive(Clone, Debug)]
pub enum Source {
    /// LLaVA JSON.
    Llava {
        /// The file.
        json: PathBuf,
        /// Folder that image paths start from.
        images: PathBuf,
    },
    /// StableLLaVA's release: a folder of JSON files, or one of them.
    StableLlava {
        /// Folder or file.
        path: PathBuf,
    },
}

/// What an import wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Samples.
    pub sample_count: u64,
    /// Pictures.
    pub image_count: u64,
    /// Samples of each ability.
    pub abilities: BTreeMap<String, u64>,
}

/// Why an import failed. The target is then as it was before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target cannot be written.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A file, or a record of it, cannot be used.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The files name too many abilities.
    #[error("the files name more than {MAX_ABILITY_COUNT} abilities, such as `{0}`")]
    TooManyAbilities(String),
    /// The files hold no record.
    #[error("{0} holds no record")]
    Empty(PathBuf),
    /// The dataset cannot be written.
    #[error("cannot write the dataset")]
    Store(#[from] StoreError),
}

/// Makes a dataset in the folder `target`, and tells `watch` the samples done and the number of all.
///
/// # Errors
/// The target is not empty or cannot be written, or a file, record or picture cannot be used.
pub async fn import(
    source: &Source,
    target: &Path,
    watch: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Imported, Error> {
    let staging = Staging::start(target)?;
    let plan = plan(source)?;
    let total = plan.sample_counts.values().sum();
    let root = Root::create_folder(&staging.folder())?;
    let mut filling = Filling {
        writer: Writer::open(root, &plan).await?,
        open: BTreeMap::new(),
        imported: Imported {
            abilities: plan.sample_counts,
            ..Imported::default()
        },
    };
    for draft in drafts::read(source)? {
        if let Some(ability) = filling.add(draft?) {
            filling.commit(&ability).await?;
            watch(filling.imported.sample_count, total);
        }
    }
    for ability in filling.open.keys().cloned().collect::<Vec<_>>() {
        filling.commit(&ability).await?;
        watch(filling.imported.sample_count, total);
    }
    staging.finish_synced()?;
    Ok(filling.imported)
}

/// The first reading: how many samples of each ability, under the hash of the files.
fn plan(source: &Source) -> Result<Plan, Error> {
    let mut sample_counts: BTreeMap<String, u64> = BTreeMap::new();
    for draft in drafts::read(source)? {
        let ability = draft?.ability;
        if sample_counts.len() == MAX_ABILITY_COUNT && !sample_counts.contains_key(&ability) {
            return Err(Error::TooManyAbilities(ability));
        }
        *sample_counts.entry(ability).or_default() += 1;
    }
    if sample_counts.is_empty() {
        return Err(Error::Empty(source.path().to_owned()));
    }
    let mut identity = format!("diptych import 1\n{}\n", source.format());
    for file in drafts::files(source)? {
        identity.push_str(&file_sha256(&file)?);
        identity.push('\n');
    }
    let recipe_sha256 = sha256_hex(identity);
    // 48 bits: a number that every reader of JSON keeps as it is.
    let recipe_seed = u64::from_str_radix(&recipe_sha256[..12], 16).unwrap_or_default();
    Ok(Plan {
        recipe_sha256,
        recipe_seed,
        sample_counts,
    })
}

fn file_sha256(path: &Path) -> Result<String, ReadError> {
    let failed = |source| ReadError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = crate::identity::Hasher::default();
    io::copy(&mut file, &mut hasher).map_err(failed)?;
    Ok(hasher.finish())
}

impl Source {
    /// The file or folder.
    fn path(&self) -> &Path {
        match self {
            Self::Llava { json, .. } => json,
            Self::StableLlava { path } => path,
        }
    }

    fn format(&self) -> &'static str {
        match self {
            Self::Llava { .. } => "llava",
            Self::StableLlava { .. } => "stablellava",
        }
    }
}

/// The partitions that are being filled, one per ability: records of abilities may be mixed.
struct Filling {
    writer: Writer,
    open: BTreeMap<String, (u64, Vec<Draft>)>,
    imported: Imported,
}

impl Filling {
    /// Takes a draft, and names its ability where that is to be committed before the next.
    fn add(&mut self, draft: Draft) -> Option<String> {
        let ability = draft.ability.clone();
        let (_, drafts) = self.open.entry(ability.clone()).or_default();
        drafts.push(draft);
        (drafts.len() as u64 == PARTITION_SLOT_COUNT).then_some(ability)
    }

    async fn commit(&mut self, ability: &str) -> Result<(), Error> {
        let Some((first_slot, drafts)) = self.open.get_mut(ability) else {
            return Ok(());
        };
        let (first, drafts) = (*first_slot, std::mem::take(drafts));
        *first_slot += drafts.len() as u64;
        let index = first / PARTITION_SLOT_COUNT;
        let partition =
            self.writer.plan().partitions().find(|partition| {
                partition.ability == ability && u64::from(partition.index) == index
            });
        let Some(partition) = partition.filter(|_| !drafts.is_empty()) else {
            return Ok(());
        };
        let seed = self.writer.plan().recipe_seed;
        let samples: Vec<Sample> = drafts
            .into_iter()
            .zip(first..)
            .map(|(draft, slot)| sample(draft, seed, slot))
            .collect::<Result<_, _>>()?;
        self.imported.sample_count += samples.len() as u64;
        let images = samples.iter().map(|sample| sample.images.len() as u64);
        self.imported.image_count += images.sum::<u64>();
        let tally = PartitionTally {
            attempt_count: samples.len() as u64,
            ..PartitionTally::default()
        };
        self.writer.commit(&partition, samples, tally).await?;
        Ok(())
    }
}

/// A draft with its pictures, in its slot.
fn sample(draft: Draft, recipe_seed: u64, slot: u64) -> Result<Sample, ReadError> {
    let key = SampleKey {
        recipe_seed,
        ability: &draft.ability,
        slot,
        attempt: 0,
    };
    let id = key.id().to_string();
    let mut images = Vec::with_capacity(draft.pictures.len());
    for picture in &draft.pictures {
        let image = picture::read(picture, &id);
        images.push(image.map_err(|reason| draft.refuse(reason))?);
    }
    let mut prompts = draft.prompts.clone();
    prompts
        .iter_mut()
        .for_each(|prompt| id.clone_into(&mut prompt.sample_id));
    let sample = Sample {
        id: id.clone(),
        ability: draft.ability.clone(),
        slot,
        attempt: 0,
        prompts,
        images,
        conversation: Some(Conversation {
            sample_id: id,
            turns: draft.turns.clone(),
            provenance: Some(draft.origin()),
        }),
        gates: Vec::new(),
    };
    match fault(&sample) {
        Some(reason) => Err(draft.refuse(reason.to_owned())),
        None => Ok(sample),
    }
}

#[cfg(test)]
mod tests;
