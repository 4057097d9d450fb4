use super::*;
use crate::{
    examples::{partition, plan, sample, samples},
    llava::{read, turns},
    store::{PartitionTally, Root, Writer},
};
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
