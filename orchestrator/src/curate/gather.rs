//! Where candidates come from: the services, or a dataset that exists.

use std::collections::{BTreeSet, HashSet};

use anyhow::{Context as _, Result, anyhow};
use dataset::{
    identity::SampleId,
    store::{Location, Reader},
};
use proto::dataset::v1::{Sample, image::Content};

use super::{
    Candidate, Curation, Errand,
    candidate::{Plate, entries, joined, lines},
};
use crate::{
    bad_input::BadInput,
    progress::{Progress, warn},
};

/// Candidates wanted.
pub(crate) struct Request {
    /// So many with something to decide.
    pub(crate) open_count: usize,
    /// From where.
    pub(crate) source: Source,
}

/// Where candidates are taken from.
pub(crate) enum Source {
    /// Services write them.
    Services(Box<Errand>),
    /// A dataset has them.
    Dataset(Box<Reader>, Location),
}

/// Fills the journal until as many candidates as asked for wait for a decision, or the source has no
/// more.
///
/// # Errors
/// A service or the disk failed, or the dataset has nothing of this ability.
pub(crate) async fn gather(curation: &mut Curation, request: &Request) -> Result<()> {
    let wanted = request.open_count;
    if curation.open_count() >= wanted {
        return Ok(());
    }
    let progress = Progress::start("candidates", wanted as u64);
    match &request.source {
        Source::Services(errand) => errand.run(curation, wanted, &progress).await?,
        Source::Dataset(reader, place) => take(curation, reader, place, wanted).await?,
    }
    let found = curation.open_count();
    progress.finish(&format!("{found} to decide on"));
    if found < wanted {
        warn(&format!(
            "{found} of {wanted} candidates were found; there are no others"
        ));
    }
    Ok(())
}

/// Takes a dataset's samples that were not taken before: shard by shard of this ability, until there
/// are enough. A damaged shard is told, and those behind it are read all the same.
async fn take(
    curation: &mut Curation,
    reader: &Reader,
    place: &Location,
    wanted: usize,
) -> Result<()> {
    let known = curation.journal.candidates().iter();
    let known: HashSet<String> = known.map(|found| found.sample_id.clone()).collect();
    let ability = curation.ability().to_owned();
    let shards = reader.partitions().iter();
    let mut shards = shards.filter(|(partition, _)| partition.ability == ability);
    let (mut is_known, mut damage) = (false, None);
    while curation.open_count() < wanted
        && let Some((_, manifest)) = shards.next()
    {
        is_known = true;
        let samples = match reader.samples_of(manifest).await {
            Ok(samples) => samples,
            Err(error) => {
                let error = anyhow::Error::new(error).context(BadInput);
                warn(&format!(
                    "a shard of {place} is left out: {:#}",
                    error.root_cause()
                ));
                damage = damage.or(Some(error));
                continue;
            }
        };
        for sample in samples {
            if curation.open_count() >= wanted {
                break;
            }
            if !known.contains(&sample.id) {
                add(curation, &sample, place.to_string(), None)?;
            }
        }
    }
    match damage {
        Some(damage) if curation.open_count() == 0 => Err(damage),
        _ if is_known => Ok(()),
        _ => Err(without(reader, place, &ability)),
    }
}

/// The complaint of a dataset without a sample of an ability.
fn without(reader: &Reader, place: &Location, ability: &str) -> anyhow::Error {
    let partitions = reader.partitions().keys();
    let abilities: BTreeSet<&str> = partitions
        .map(|partition| partition.ability.as_str())
        .collect();
    let abilities: Vec<&str> = abilities.into_iter().collect();
    let none = anyhow!(
        "{place} has no sample of the ability `{ability}`; it has {}",
        abilities.join(", ")
    );
    none.context(BadInput)
}

/// Puts a sample into the journal, its pictures first: their files have the sample's id, which a
/// dataset of somebody's making may have as anything.
pub(super) fn add(
    curation: &mut Curation,
    sample: &Sample,
    origin: String,
    slot: Option<u64>,
) -> Result<()> {
    let id: SampleId = sample.id.parse().context(BadInput)?;
    let mut pictures = Vec::new();
    for (index, image) in sample.images.iter().enumerate() {
        let Some(Content::Data(data)) = &image.content else {
            continue;
        };
        let Some(extension) = extension(&image.media_type) else {
            continue;
        };
        let plate = Plate {
            file: format!("{id}-{index}.{extension}"),
            media_type: image.media_type.clone(),
            width_px: image.width_px,
        };
        curation.journal.add_picture(&plate, data)?;
        pictures.push(plate);
    }
    let prompts = sample.prompts.iter().map(|prompt| prompt.text.as_str());
    let prompts: Vec<&str> = prompts.collect();
    let facts = sample
        .prompts
        .iter()
        .filter_map(|prompt| prompt.facts.as_ref());
    curation.journal.add(Candidate {
        sample_id: sample.id.clone(),
        origin,
        slot,
        entries: entries(&prompts, sample.conversation.as_ref()),
        facts: facts.flat_map(lines).collect(),
        prompt: joined(&prompts),
        pictures,
    })
}

/// What a browser shows without asking what it is.
fn extension(media_type: &str) -> Option<&'static str> {
    match media_type {
        "image/png" => Some("png"),
        "image/jpeg" => Some("jpg"),
        _ => None,
    }
}
