use super::*;
use crate::{
    examples::{partition, plan, sample, samples},
    llava::{read, turns},
    store::{PartitionTally, Root, Writer},
};
use proto::dataset::v1::image::Content;
use std::fs;

/// A dataset of two partitions.
async fn dataset(folder: &Path) -> Reader {
    let plan = plan(&[("animal", 70)]);
    let root = Root::create_folder(folder).unwrap();
    let writer = Writer::open(root.clone(), &plan).await.unwrap();
    for number in 0..2 {
        let partition = partition(&plan, "animal", number);
        let samples = samples("animal", partition.slots());
        let tally = PartitionTally::default();
        writer.commit(&partition, samples, tally).await.unwrap();
    }
    Reader::open(root).await.unwrap()
}

async fn write(dataset: &Reader, target: &Path, format: Format) -> Result<Exported, Error> {
    let settings = Settings {
        format,
        max_file_bytes: 20_000,
    };
    export(dataset, target, &settings, &mut |_| ()).await
}

#[tokio::test]
async fn a_llava_export_is_read_back_picture_by_picture_and_never_overwrites() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(&folder.path().join("dataset")).await;
    let target = folder.path().join("llava");
    let exported = write(&dataset, &target, Format::Llava).await.unwrap();
    assert_eq!((exported.sample_count, exported.image_count), (70, 70));

    let records = read(&target.join("data.json")).unwrap();
    let records: Vec<_> = records.map(Result::unwrap).collect();
    assert_eq!(records.len(), 70);
    for (slot, record) in records.iter().enumerate() {
        let sample = sample("animal", slot as u64);
        assert_eq!((&record.id, &record.ability), (&sample.id, &sample.ability));
        assert_eq!(record.turns, turns(&sample));
        let image = fs::read(target.join("images").join(&record.images[0])).unwrap();
        assert_eq!(crate::identity::sha256_hex(image), sample.images[0].sha256);
    }
    assert_eq!(records[0].turns[0].value, "<image>\nWhat is in picture 0?");

    let again = write(&dataset, &target, Format::Llava).await.unwrap_err();
    let named = format!("{} is not empty", target.display());
    assert!(again.to_string().contains(&named), "{again}");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    write(&dataset, &empty, Format::Llava).await.unwrap();
    let json = |folder: &Path| fs::read(folder.join("data.json")).unwrap();
    assert_eq!(json(&empty), json(&target));
    // Nothing is left beside the targets.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[tokio::test]
async fn an_export_of_a_damaged_dataset_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(&folder.path().join("dataset")).await;
    let shard = fs::read_dir(folder.path().join("dataset/shards")).unwrap();
    fs::write(shard.last().unwrap().unwrap().path(), "not Parquet").unwrap();
    for format in [Format::Llava, Format::WebDataset, Format::HuggingFace] {
        let target = folder.path().join("target");
        let error = write(&dataset, &target, format).await.unwrap_err();
        assert!(matches!(error, Error::Read(_)), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[tokio::test]
async fn equal_datasets_give_equal_tar_files_of_bounded_size() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(&folder.path().join("dataset")).await;
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    let exported = write(&dataset, &one, Format::WebDataset).await.unwrap();
    write(&dataset, &other, Format::WebDataset).await.unwrap();
    assert!(exported.file_count > 5, "{exported:?}");
    for number in 0..exported.file_count {
        let name = format!("train-{number:06}.tar");
        let bytes = fs::read(one.join(&name)).unwrap();
        assert!(bytes.len() < 30_000, "{name} has {} bytes", bytes.len());
        assert_eq!(bytes, fs::read(other.join(&name)).unwrap());
    }
}

/// A sample that shows its second picture in its second round.
fn sample_of_two(slot: u64) -> Sample {
    let mut sample = sample("difference", slot);
    let mut second = sample.images[0].clone();
    let data = format!("second {slot}");
    second.sha256 = crate::identity::sha256_hex(&data);
    second.content = Some(Content::Data(data.into()));
    sample.images.push(second);
    sample.prompts.push(sample.prompts[0].clone());
    let turns = &mut sample.conversation.as_mut().unwrap().turns;
    let mut round = turns.clone();
    round[0].text = "And in this one?".into();
    round[0].image_index = vec![1];
    turns.append(&mut round);
    sample
}

#[tokio::test]
async fn every_format_holds_all_pictures_of_a_sample_where_they_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&[("difference", 2)]);
    let root = Root::create_folder(&folder.path().join("dataset")).unwrap();
    let writer = Writer::open(root.clone(), &plan).await.unwrap();
    let samples: Vec<Sample> = (0..2).map(sample_of_two).collect();
    let partition = partition(&plan, "difference", 0);
    let tally = PartitionTally::default();
    writer
        .commit(&partition, samples.clone(), tally)
        .await
        .unwrap();
    let dataset = Reader::open(root).await.unwrap();
    let target = |name: &str| folder.path().join(name);
    for (format, name) in [
        (Format::Llava, "llava"),
        (Format::ShareGpt, "sharegpt"),
        (Format::Messages, "messages"),
        (Format::WebDataset, "webdataset"),
        (Format::HuggingFace, "hf"),
    ] {
        let exported = write(&dataset, &target(name), format).await.unwrap();
        assert_eq!((exported.sample_count, exported.image_count), (2, 4));
    }
    let ids: Vec<&String> = samples.iter().map(|sample| &sample.id).collect();
    let names = |id: &String| [0, 1].map(|index| format!("{id}-{index}.png"));

    let records = read(&target("llava").join("data.json")).unwrap();
    for (record, sample) in records.map(Result::unwrap).zip(&samples) {
        let paths = record.images.iter().map(|path| path.display().to_string());
        assert!(paths.eq(names(&sample.id)));
        let tokens = record.turns.iter();
        let tokens: Vec<_> = tokens
            .map(|turn| turn.value.matches("<image>").count())
            .collect();
        assert_eq!(tokens, [1, 0, 1, 0]);
        let turns = crate::llava::unmarked(&record.turns, 2).unwrap();
        assert_eq!(turns[2].image_index, [1]);
    }
    for (name, shown) in [
        ("sharegpt", "\"images\":[\"images/"),
        ("messages", "\"url\":\"images/"),
    ] {
        let lines = fs::read_to_string(target(name).join("data.jsonl")).unwrap();
        for (line, id) in lines.lines().zip(&ids) {
            assert!(line.contains(shown), "{line}");
            let places = names(id).map(|name| line.find(&name).unwrap());
            assert!(places[0] < places[1], "{line}");
        }
    }
    let tar = fs::File::open(target("webdataset").join("train-000000.tar")).unwrap();
    let mut tar = tar::Archive::new(tar);
    let members = tar.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        entry.path().unwrap().display().to_string()
    });
    let members: Vec<String> = members.collect();
    let expected = ids
        .iter()
        .flat_map(|id| ["0.png", "1.png", "json"].map(|end| format!("{id}.{end}")));
    assert_eq!(members, expected.collect::<Vec<_>>());
    let rows = fs::read(target("hf").join("data/train-00000-of-00001.parquet")).unwrap();
    assert_eq!(crate::shard::decode(rows.into()).unwrap(), samples);
}
