//! What repeats across partitions, held against a comparison of all pairs; and how a dataset goes on
//! from round to round.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

use std::{collections::HashMap, path::Path};

use dataset::{
    duplicates::{Bounds, Frozen, Marks, among, prompts_key},
    identity::{SampleKey, sha256_hex},
    image_hash::ImageHash,
    minhash::Signature,
    plan::Plan,
    store::{Dropped, Error, PartitionTally, Reader, Root, Round, Statistics, Step, Writer},
};
use futures::TryStreamExt as _;
use image::{Rgb, RgbImage};
use proto::dataset::v1::{Conversation, Image, Prompt, Role, Sample, Turn, image::Content};

const SEED: u64 = 11;

const BOUNDS: Bounds = Bounds {
    max_prompt_similarity: Some(0.8),
    max_dialogue_similarity: Some(0.9),
    max_picture_distance: Some(5),
};

/// The finalizer of SplitMix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Numbers that a seed decides.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = mix(self.0);
        self.0 % end
    }
}

/// A text of a few families; within one, texts differ in a letter or two, or in nothing.
fn text(dice: &mut Dice, families: u64) -> String {
    let family = dice.below(families);
    let words = (0..9).map(|word| format!("{:06x}", mix(family * 100 + word) & 0xff_ffff));
    let mut text = words.collect::<Vec<_>>().join(" ").into_bytes();
    for _ in 0..dice.below(4) {
        let place = dice.below(text.len() as u64) as usize;
        text[place] = b'z';
    }
    String::from_utf8(text).unwrap()
}

/// A picture of a few families; within one, some pixels are brighter.
fn picture(dice: &mut Dice, families: u64) -> Vec<u8> {
    let family = dice.below(families);
    let level = |x: u32, y: u32| (mix(family << 32 | u64::from(x * 16 + y)) % 200) as u8;
    let mut pixels = RgbImage::from_fn(17, 16, |x, y| Rgb([level(x, y); 3]));
    for _ in 0..dice.below(8) {
        let (x, y) = (dice.below(17) as u32, dice.below(16) as u32);
        pixels.put_pixel(x, y, Rgb([255; 3]));
    }
    let mut file = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

/// A sample that may repeat another in any way. Every fifth has two prompts and two pictures.
fn sample(ability: &str, slot: u64, attempt: u32) -> Sample {
    let mut dice = Dice(mix(slot) ^ mix(ability.len() as u64) ^ u64::from(attempt));
    let key = SampleKey {
        recipe_seed: SEED,
        ability,
        slot,
        attempt,
    };
    let id = key.id().to_string();
    let count = if slot.is_multiple_of(5) { 2 } else { 1 };
    let turn = |role: Role, text: String| Turn {
        role: role.into(),
        text,
        ..Turn::default()
    };
    let prompts = (0..count).map(|_| Prompt {
        sample_id: id.clone(),
        text: text(&mut dice, 60),
        ..Prompt::default()
    });
    Sample {
        ability: ability.to_owned(),
        slot,
        attempt,
        prompts: prompts.collect(),
        images: (0..count).map(|_| image(&id, &mut dice)).collect(),
        conversation: Some(Conversation {
            sample_id: id.clone(),
            turns: vec![
                turn(Role::User, "What is it?".to_owned()),
                turn(Role::Assistant, text(&mut dice, 90)),
            ],
            provenance: None,
        }),
        gates: Vec::new(),
        id,
    }
}

fn image(id: &str, dice: &mut Dice) -> Image {
    let file = picture(dice, 90);
    Image {
        sample_id: id.to_owned(),
        media_type: "image/png".to_owned(),
        sha256: sha256_hex(&file),
        content: Some(Content::Data(file.into())),
        ..Image::default()
    }
}

fn plan(counts: &[(&str, u64)]) -> Plan {
    let counts = counts.iter();
    Plan {
        recipe_sha256: sha256_hex("recipe"),
        recipe_seed: SEED,
        sample_counts: counts
            .map(|&(name, count)| (name.to_owned(), count))
            .collect(),
    }
}

async fn dataset(folder: &Path) -> Reader {
    write(
        folder,
        &plan(&[("animal", 150), ("color", 90), ("plant", 3)]),
    )
    .await
}

async fn write(folder: &Path, plan: &Plan) -> Reader {
    let root = Root::create_folder(folder).unwrap();
    let writer = Writer::open(root.clone(), plan).await.unwrap();
    for partition in plan.partitions() {
        let slots = partition.slots();
        let samples = slots.map(|slot| sample(&partition.ability, slot, 1));
        let tally = PartitionTally::default();
        writer
            .commit(&partition, samples.collect(), tally)
            .await
            .unwrap();
    }
    Reader::open(root).await.unwrap()
}

/// What a sample is compared by, measured without any of this module.
struct Measured {
    partition: (String, u64),
    prompt: String,
    signature: Signature,
    dialogue: Signature,
    pictures: Vec<ImageHash>,
}

impl Measured {
    fn of(sample: &Sample) -> Self {
        let texts = sample.prompts.iter().map(|prompt| prompt.text.as_str());
        let prompt = texts.collect::<Vec<_>>().join(" ");
        let turns = &sample.conversation.as_ref().unwrap().turns;
        let said: Vec<&str> = turns.iter().map(|turn| turn.text.as_str()).collect();
        let hash = |image: &Image| {
            let Some(Content::Data(data)) = &image.content else {
                panic!("no bytes");
            };
            ImageHash::of(&image::load_from_memory(data).unwrap().to_rgb8())
        };
        Self {
            partition: (sample.ability.clone(), sample.slot / 64),
            signature: Signature::of(&prompt).unwrap(),
            dialogue: Signature::of(&said.join(" ")).unwrap(),
            pictures: sample.images.iter().map(hash).collect(),
            prompt,
        }
    }

    fn repeats(&self, other: &Self) -> Option<&'static str> {
        let near_pictures = || {
            let mut own = self.pictures.iter();
            own.any(|own| other.pictures.iter().any(|other| own.distance(other) <= 5))
        };
        if self.partition == other.partition {
            None
        } else if self.prompt == other.prompt {
            Some("repeated_prompt")
        } else if self.signature.similarity(&other.signature) > 0.8 {
            Some("near_duplicate_prompt")
        } else if near_pictures() {
            Some("near_duplicate_image")
        } else if self.dialogue.similarity(&other.dialogue) > 0.9 {
            Some("near_duplicate_dialogue")
        } else {
            None
        }
    }
}

type Named = (String, String, String);

/// All pairs, in order.
fn by_all_pairs(samples: &[Sample]) -> Vec<Named> {
    let measured: Vec<Measured> = samples.iter().map(Measured::of).collect();
    let mut kept: Vec<usize> = Vec::new();
    let mut named = Vec::new();
    for (later, own) in measured.iter().enumerate() {
        let found = kept
            .iter()
            .find_map(|&earlier| Some((earlier, own.repeats(&measured[earlier])?)));
        match found {
            None => kept.push(later),
            Some((earlier, measure)) => {
                let id = |place: usize| samples[place].id.clone();
                named.push((id(later), id(earlier), measure.to_owned()));
            }
        }
    }
    named
}

#[tokio::test]
async fn repetitions_are_those_that_a_comparison_of_all_pairs_names() {
    let folder = tempfile::tempdir().unwrap();
    let reader = dataset(folder.path()).await;
    let samples: Vec<Sample> = reader.samples().try_collect().await.unwrap();
    let found = among(&reader, BOUNDS).await.unwrap();
    let named = found.iter();
    let named = named.map(|one| (one.id.clone(), one.repeats.clone(), one.measure.clone()));
    let named: Vec<Named> = named.collect();
    assert_eq!(named, by_all_pairs(&samples));

    let mut counts: HashMap<&str, usize> = HashMap::new();
    for (_, _, measure) in &named {
        *counts.entry(measure).or_default() += 1;
    }
    assert_eq!(
        counts.len(),
        4,
        "the samples repeat each other in {counts:?} only"
    );
    assert!(named.len() < samples.len() / 2, "{} of all", named.len());
}

#[tokio::test]
async fn pictures_are_decoded_once_and_again_only_where_that_was_lost() {
    let folder = tempfile::tempdir().unwrap();
    let reader = dataset(folder.path()).await;
    let expected = among(&reader, BOUNDS).await.unwrap();
    let marks = folder.path().join("marks");
    let kept = || std::fs::read_dir(&marks).unwrap().count();
    assert_eq!(kept(), reader.partitions().len());

    // What the gates measured is kept in the place of it, and is what the comparison goes by.
    std::fs::remove_dir_all(&marks).unwrap();
    let root = Root::folder(folder.path()).unwrap();
    let writer = Writer::open(root, reader.plan()).await.unwrap();
    for manifest in reader.partitions().values() {
        let samples = reader.samples_of(manifest).await.unwrap();
        let same = ImageHash::of(&RgbImage::new(8, 8));
        let hashed = samples.iter().map(|sample| (sample, vec![same]));
        Marks::of(hashed, BOUNDS)
            .keep(&writer, manifest)
            .await
            .unwrap();
    }
    let found = among(&reader, BOUNDS).await.unwrap();
    assert!(
        found.len() > 150,
        "all pictures but the first are {}",
        found.len()
    );

    let mut files = std::fs::read_dir(&marks).unwrap();
    let damaged = files.next().unwrap().unwrap().path();
    std::fs::write(&damaged, "damaged").unwrap();
    for file in files {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    assert_eq!(among(&reader, BOUNDS).await.unwrap(), expected);
    assert_eq!(kept(), reader.partitions().len());
    assert_ne!(std::fs::read(damaged).unwrap(), b"damaged");
}

#[tokio::test]
async fn without_bounds_only_equal_prompts_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let reader = dataset(folder.path()).await;
    let found = among(&reader, Bounds::default()).await.unwrap();
    assert!(!found.is_empty());
    assert!(found.iter().all(|one| one.measure == "repeated_prompt"));
    assert!(
        found
            .iter()
            .all(|one| one.value == 1.0 && one.id != one.repeats)
    );
}

#[tokio::test]
async fn a_new_sample_is_held_against_all_of_earlier_rounds() {
    let folder = tempfile::tempdir().unwrap();
    let reader = dataset(folder.path()).await;
    let samples: Vec<Sample> = reader.samples().try_collect().await.unwrap();
    let measured: Vec<Measured> = samples.iter().map(Measured::of).collect();
    let frozen = Frozen::read(&reader, 1, BOUNDS).await.unwrap();
    let mut dice = Dice(1);
    let fresh = Signature::of(&text(&mut dice, 60)).unwrap();
    let nearest = measured
        .iter()
        .map(|known| known.signature.similarity(&fresh));
    let nearest = nearest.fold(0.0, f64::max);
    let texts = vec![Some(fresh), None, Some(measured[77].signature.clone())];
    let found = frozen.prompt_similarities(texts).await.unwrap();
    assert_eq!(found, [nearest, 0.0, 1.0]);
    let own = measured[99].pictures[0];
    let found = frozen.nearest_picture(own).await.unwrap();
    assert_eq!(found, Some(own));
    let known = prompts_key(&samples[50].prompts);
    let unknown = prompts_key(&[Prompt::default()]);
    assert!(known.is_some() && unknown.is_none());
    let unknown = vec![known, unknown, Some([7; 16])];
    let found = frozen.have_prompts(unknown).await.unwrap();
    assert_eq!(found, [true, false, false]);
    // One text for each picture, in order: the first sample has two of each.
    let prompts = samples.iter().flat_map(|sample| &sample.prompts);
    let texts: Vec<&String> = prompts.map(|prompt| &prompt.text).take(8).collect();
    assert_eq!(frozen.texts("animal").iter().collect::<Vec<_>>(), texts);
    assert!(frozen.texts("style").is_empty());
    let none = Frozen::read(&reader, 0, BOUNDS).await.unwrap();
    assert_eq!(none.nearest_picture(own).await.unwrap(), None);
}

async fn ids(reader: &Reader) -> Vec<String> {
    let ids = reader.samples().map_ok(|sample| sample.id);
    ids.try_collect().await.unwrap()
}

/// The sample of a slot, as one that repeats the first.
fn repetition(slot: u64) -> Dropped {
    Dropped {
        id: sample("animal", slot, 1).id,
        ability: "animal".into(),
        slot,
        attempt: 1,
        partition: format!("animal-{:05}", slot / 64),
        repeats: sample("animal", 0, 1).id,
        measure: "repeated_prompt".into(),
        value: 1.0,
    }
}

#[tokio::test]
async fn a_sample_that_repeats_another_is_left_out_and_its_slot_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&[("animal", 130)]);
    let before = write(folder.path(), &plan).await;
    let root = Root::folder(folder.path()).unwrap();
    let writer = Writer::open(root.clone(), &plan).await.unwrap();
    assert_eq!(before.standing().step(&plan, false), Step::Done);
    let step = before.standing().step(&plan, true);
    assert_eq!(step, Step::Compare { round: 1 });

    let dropped = vec![repetition(129), repetition(70)];
    let round = Round::new(&plan, 1, false, dropped);
    writer.commit_round(&round).await.unwrap();
    writer.commit_round(&round).await.unwrap();
    let other = Round::new(&plan, 1, false, Vec::new());
    let refused = writer.commit_round(&other).await.unwrap_err();
    assert!(matches!(refused, Error::OtherRound { .. }), "{refused}");

    let reader = Reader::open(root.clone()).await.unwrap();
    assert_eq!(reader.sample_count(), 128);
    assert_eq!(ids(&reader).await.len(), 128);
    let gone = sample("animal", 70, 1).id;
    assert!(!ids(&reader).await.contains(&gone));
    assert!(reader.locate(&gone).await.unwrap().is_none());
    assert_ne!(reader.manifest_sha256(), before.manifest_sha256());
    let missing: Vec<_> = reader.missing().collect();
    let [again] = missing.as_slice() else {
        panic!("{missing:?}");
    };
    assert_eq!(again.to_string(), "animal-r1-00000");
    let before = reader.dropped_before(again).await.unwrap();
    assert_eq!(before, [sample("animal", 70, 1), sample("animal", 129, 1)]);
    let open: Vec<_> = again.open_slots().collect();
    assert_eq!((open[0].slot, open[0].first_attempt), (70, 2));

    let anew = sample("animal", 129, 2);
    let short = PartitionTally {
        unfilled_slot_count: 1,
        ..PartitionTally::default()
    };
    writer.commit(again, vec![anew], short).await.unwrap();
    let reader = Reader::open(root).await.unwrap();
    let step = reader.standing().step(&plan, true);
    assert_eq!(step, Step::Compare { round: 2 });
    let Statistics {
        accepted_count,
        tally,
        ..
    } = &reader.statistics()["animal"];
    assert_eq!((*accepted_count, tally.unfilled_slot_count), (129, 1));
    assert_eq!(
        tally.rejected_counts["across_partitions:repeated_prompt"],
        2
    );
}

#[tokio::test]
async fn rounds_that_find_nothing_leave_the_dataset_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&[("animal", 130)]);
    let before = write(folder.path(), &plan).await;
    let root = Root::folder(folder.path()).unwrap();
    let writer = Writer::open(root.clone(), &plan).await.unwrap();
    let round = Round::new(&plan, 1, false, Vec::new());
    writer.commit_round(&round).await.unwrap();
    let after = Reader::open(root).await.unwrap();
    assert_eq!(after.manifest_sha256(), before.manifest_sha256());
    assert_eq!(after.standing().step(&plan, true), Step::Done);

    std::fs::write(folder.path().join("rounds/1.json"), "{").unwrap();
    let damaged = Reader::open(Root::folder(folder.path()).unwrap()).await;
    let complaint = damaged.unwrap_err().to_string();
    assert!(
        complaint.contains("rounds/1.json is damaged"),
        "{complaint}"
    );
}

#[tokio::test]
async fn a_shard_that_was_cut_or_lost_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&[("animal", 65)]);
    let reader = write(folder.path(), &plan).await;
    let root = Root::folder(folder.path()).unwrap();
    let writer = Writer::open(root, &plan).await.unwrap();
    let standing = writer.standing().await.unwrap();
    writer.check_shards(&standing).await.unwrap();
    let last = &reader.partitions().values().last().unwrap().shard.sha256;
    let shard = folder.path().join(format!("shards/{last}.parquet"));
    let whole = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &whole[..100]).unwrap();
    let cut = writer
        .check_shards(&standing)
        .await
        .unwrap_err()
        .to_string();
    assert!(cut.contains("has 100 bytes") && cut.contains(last), "{cut}");
    assert!(cut.contains("manifest/animal-00001.json"), "{cut}");
    std::fs::remove_file(&shard).unwrap();
    let lost = writer
        .check_shards(&standing)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        lost.contains("is missing") && lost.contains("run again"),
        "{lost}"
    );
}
