use super::*;
use crate::{
    examples::{partition, plan, sample, samples},
    plan::Plan,
};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error as StorageError, GetOptions, GetResult, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result as StorageResult, local::LocalFileSystem, path::Path,
};
use std::{
    fs,
    path::Path as FilePath,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

fn tally() -> PartitionTally {
    let mut tally = PartitionTally {
        attempt_count: 100,
        ..PartitionTally::default()
    };
    tally.reject("alignment");
    tally
}

async fn write(folder: &FilePath, plan: &Plan) -> Reader {
    let root = Root::create_folder(folder).unwrap();
    let writer = Writer::open(root.clone(), plan).await.unwrap();
    let missing: Vec<_> = Reader::open(root.clone())
        .await
        .unwrap()
        .missing()
        .collect();
    for partition in missing {
        let samples = samples(&partition.ability, partition.slots());
        writer.commit(&partition, samples, tally()).await.unwrap();
    }
    Reader::open(root).await.unwrap()
}

async fn ids(reader: &Reader) -> Vec<String> {
    reader
        .samples()
        .map_ok(|sample| sample.id)
        .try_collect()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_dataset_holds_every_sample_once_and_equal_work_gives_equal_files() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&[("animal", 130), ("color", 3), ("style", 0)]);
    let one = write(&folder.path().join("one"), &plan).await;
    let other = write(&folder.path().join("deep/other"), &plan).await;

    let found: Vec<_> = one.samples().map(Result::unwrap).collect().await;
    let expected: Vec<_> = [samples("animal", 0..130), samples("color", 0..3)].concat();
    assert_eq!(found, expected);
    assert_eq!(one.missing().count(), 0);
    assert_eq!(one.manifest_sha256(), other.manifest_sha256());
    assert_eq!(one.partitions(), other.partitions());
    let animal = &one.statistics()["animal"];
    assert_eq!((animal.planned_count, animal.accepted_count), (130, 130));
    assert_eq!(animal.tally.attempt_count, 300);
    assert_eq!(animal.tally.rejected_counts["alignment"], 3);
    assert_eq!(one.statistics()["style"], Statistics::default());
}

#[tokio::test]
async fn examples_of_rejected_samples_lie_apart_from_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&[("animal", 2)]);
    let root = Root::create_folder(folder.path()).unwrap();
    let writer = Writer::open(root.clone(), &plan).await.unwrap();
    let partition = plan.partitions().next().unwrap();
    let accepted = samples("animal", 0..2);
    let mut rejected = accepted[0].clone();
    rejected.conversation = None;
    let commit = writer.commit_with_rejected(
        &partition,
        accepted.clone(),
        vec![rejected.clone()],
        tally(),
    );
    commit.await.unwrap();

    let reader = Reader::open(root).await.unwrap();
    let found: Vec<_> = reader.samples().map(Result::unwrap).collect().await;
    assert_eq!(found, accepted);
    let manifest = &reader.partitions()[&partition];
    let kept = reader.rejected_of(manifest).await.unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].images, rejected.images);
    assert_eq!(kept[0].gates, rejected.gates);
    assert!(
        kept[0]
            .conversation
            .as_ref()
            .is_none_or(|found| found.turns.is_empty())
    );
}

/// A storage that dies at its n-th write, before it or after it is done: what a
/// kill leaves behind, at every point where there is something to leave.
#[derive(Debug)]
struct Dying {
    inner: LocalFileSystem,
    writes_left: AtomicUsize,
    is_done_first: bool,
}

impl std::fmt::Display for Dying {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a dying storage")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Dying {
    async fn put_opts(
        &self,
        path: &Path,
        content: PutPayload,
        options: PutOptions,
    ) -> StorageResult<PutResult> {
        if self.writes_left.fetch_sub(1, Ordering::Relaxed) > 0 {
            return self.inner.put_opts(path, content, options).await;
        }
        if self.is_done_first {
            self.inner.put_opts(path, content, options).await?;
        }
        Err(StorageError::Generic {
            store: "test",
            source: "killed".into(),
        })
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> StorageResult<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> StorageResult<GetResult> {
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, StorageResult<Path>>,
    ) -> BoxStream<'static, StorageResult<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, folder: Option<&Path>) -> BoxStream<'static, StorageResult<ObjectMeta>> {
        self.inner.list(folder)
    }

    async fn list_with_delimiter(&self, folder: Option<&Path>) -> StorageResult<ListResult> {
        self.inner.list_with_delimiter(folder).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StorageResult<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_kill_at_any_write_leaves_a_dataset_that_ends_as_if_undisturbed() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&[("animal", 65)]);
    let undisturbed = write(&folder.path().join("undisturbed"), &plan).await;
    // Five writes: dataset.json, then shard and manifest of two partitions.
    for (writes_left, is_done_first) in (0..5).flat_map(|n| [(n, false), (n, true)]) {
        let folder = folder.path().join(format!("{writes_left}-{is_done_first}"));
        fs::create_dir(&folder).unwrap();
        let inner = LocalFileSystem::new_with_prefix(&folder).unwrap();
        let writes_left = AtomicUsize::new(writes_left);
        let root = Root::new(
            Arc::new(Dying {
                inner,
                writes_left,
                is_done_first,
            }),
            "dying",
        );
        let killed = async {
            let writer = Writer::open(root, &plan).await?;
            for partition in plan.partitions() {
                let samples = samples("animal", partition.slots());
                writer.commit(&partition, samples, tally()).await?;
            }
            Ok::<_, Error>(())
        };
        assert!(matches!(
            killed.await,
            Err(Error::Storage { verb: "write", .. })
        ));

        let resumed = write(&folder, &plan).await;
        assert_eq!(ids(&resumed).await, ids(&undisturbed).await);
        assert_eq!(resumed.manifest_sha256(), undisturbed.manifest_sha256());
        assert_eq!(fs::read_dir(folder.join("shards")).unwrap().count(), 2);
    }
}

#[tokio::test]
async fn of_two_writers_with_other_samples_one_wins_and_the_other_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&[("animal", 64)]);
    let partition = &partition(&plan, "animal", 0);
    let root = Root::folder(folder.path()).unwrap();
    let writer = Writer::open(root.clone(), &plan).await.unwrap();
    let (ours, theirs) = (samples("animal", 0..64), samples("animal", 0..63));
    let (first, second) = tokio::join!(
        writer.commit(partition, ours.clone(), tally()),
        writer.commit(partition, theirs.clone(), tally()),
    );
    let first_won = first.is_ok();
    let (won, lost) = if first_won {
        (first, second)
    } else {
        (second, first)
    };
    let Ok(Commit::Created(won)) = won else {
        panic!("one must win")
    };
    let Err(Error::LostRace {
        object,
        ours: lost,
        theirs: seen,
    }) = lost
    else {
        panic!("one must lose")
    };
    assert_eq!(seen, won.shard.sha256);
    assert_ne!(lost, won.shard.sha256);
    assert!(object.ends_with("manifest/animal-00000.json"), "{object}");

    // The reply of the winner may have been lost: the same samples are no race.
    let again = if first_won { ours } else { theirs };
    let again = writer.commit(partition, again, tally()).await.unwrap();
    assert_eq!(again, Commit::AlreadyThere(won));
    assert_eq!(writer.committed().await.unwrap().len(), 1);
}

#[tokio::test]
async fn samples_that_do_not_belong_are_refused_before_anything_is_written() {
    type Spoil = fn(&mut Vec<proto::dataset::v1::Sample>);
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&[("animal", 64)]);
    let partition = &partition(&plan, "animal", 0);
    let writer = Writer::open(Root::folder(folder.path()).unwrap(), &plan)
        .await
        .unwrap();
    let faults: [(Spoil, &str); 7] = [
        (|samples| samples.swap(0, 1), "order"),
        (|samples| samples[1] = samples[0].clone(), "order"),
        (
            |samples| samples[0] = sample("animal", 64),
            "another partition",
        ),
        (
            |samples| samples[0].id = "0".repeat(32),
            "id is not the hash",
        ),
        (|samples| samples[0].images[0].content = None, "no bytes"),
        (
            |samples| samples[0].images[0].sha256.clear(),
            "hash is not that of its bytes",
        ),
        (
            |samples| samples[0].conversation.as_mut().unwrap().turns.truncate(1),
            "an answer",
        ),
    ];
    for (spoil, complaint) in faults {
        let mut samples = samples("animal", 0..3);
        spoil(&mut samples);
        let error = writer
            .commit(partition, samples, tally())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(complaint), "{error}");
    }
    assert!(!folder.path().join("shards").exists());
}

#[tokio::test]
async fn damage_is_named_and_the_sound_shards_are_still_read() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&[("animal", 70), ("color", 1)]);
    let reader = write(folder.path(), &plan).await;
    let shard = |index: u32| {
        let entry = &reader.partitions()[&partition(&plan, "animal", index)].shard;
        folder
            .path()
            .join(format!("shards/{}.parquet", entry.sha256))
    };
    let mut bytes = fs::read(shard(0)).unwrap();
    bytes.truncate(1000);
    fs::write(shard(0), bytes).unwrap();
    fs::remove_file(shard(1)).unwrap();
    let found: Vec<_> = reader.samples().collect().await;
    let errors: Vec<_> = found
        .iter()
        .filter_map(|sample| sample.as_ref().err())
        .map(Error::to_string)
        .collect();
    assert!(
        errors[0].contains("is damaged: its content is not what its name says"),
        "{errors:?}"
    );
    assert!(
        errors[1].contains("is damaged: it is missing"),
        "{errors:?}"
    );
    assert!(errors.iter().all(|error| error.contains(".parquet")));
    assert_eq!(found.iter().filter(|sample| sample.is_ok()).count(), 1);

    // Another file under a manifest that was edited to fit.
    let garbage = "not Parquet";
    let sha256 = crate::identity::sha256_hex(garbage);
    fs::write(
        folder.path().join(format!("shards/{sha256}.parquet")),
        garbage,
    )
    .unwrap();
    let manifest = folder.path().join("manifest/color-00000.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let old = &reader.partitions()[&partition(&plan, "color", 0)]
        .shard
        .sha256;
    fs::write(&manifest, text.replace(old, &sha256)).unwrap();
    let reader = Reader::open(Root::folder(folder.path()).unwrap())
        .await
        .unwrap();
    let last = reader
        .samples()
        .collect::<Vec<_>>()
        .await
        .pop()
        .unwrap()
        .unwrap_err();
    assert!(
        last.to_string().contains("cannot be used as a shard"),
        "{last}"
    );

    fs::write(&manifest, text.replace(old, "../../etc/passwd")).unwrap();
    let error = Reader::open(Root::folder(folder.path()).unwrap())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("color-00000.json is damaged: its shard hash"),
        "{error}"
    );
    fs::write(&manifest, &text[..text.len() / 2]).unwrap();
    let error = Reader::open(Root::folder(folder.path()).unwrap())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("color-00000.json is damaged: EOF"),
        "{error}"
    );
}

#[tokio::test]
async fn a_wrong_place_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let plan_of = |seed| Plan {
        recipe_seed: seed,
        ..plan(&[("animal", 1)])
    };
    let root = || Root::folder(folder.path()).unwrap();
    let error = Reader::open(root()).await.unwrap_err().to_string();
    assert!(error.contains("is not a dataset"), "{error}");
    Writer::open(root(), &plan_of(1)).await.unwrap();
    Writer::open(root(), &plan_of(1)).await.unwrap();
    let error = Writer::open(root(), &plan_of(2))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("holds the dataset of another recipe"),
        "{error}"
    );

    let header = folder.path().join("dataset.json");
    let text = fs::read_to_string(&header).unwrap();
    fs::write(
        &header,
        text.replace("\"layout_version\": 1", "\"layout_version\": 9"),
    )
    .unwrap();
    let error = Reader::open(root()).await.unwrap_err().to_string();
    assert!(
        error.contains("layout version 9; this program reads version 1"),
        "{error}"
    );

    assert!(matches!(
        Root::folder(&folder.path().join("none")),
        Err(Error::Folder { .. })
    ));
    assert!(matches!(
        Root::create_folder(&header),
        Err(Error::Folder { .. })
    ));
    // The one folder in which not even root may make a file.
    let error = Writer::open(Root::folder("/proc/self".as_ref()).unwrap(), &plan_of(1)).await;
    assert!(
        error
            .unwrap_err()
            .to_string()
            .starts_with("cannot write /proc/self/dataset.json")
    );
}

#[tokio::test]
async fn a_shuffled_reading_gives_every_sample_once_in_an_order_that_the_seed_decides() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&[("animal", 130), ("color", 70)]);
    let reader = write(folder.path(), &plan).await;
    let order = async |seed, length: usize| -> Vec<String> {
        let length = std::num::NonZeroUsize::new(length).unwrap();
        let samples = reader.shuffled(seed, length).map_ok(|sample| sample.id);
        samples.try_collect().await.unwrap()
    };
    let plain = ids(&reader).await;
    let shuffled = order(7, 50).await;
    assert_eq!(shuffled, order(7, 50).await);
    assert_ne!(shuffled, order(8, 50).await);
    assert_ne!(shuffled, plain);
    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    for length in [1, 50, 1000] {
        assert_eq!(sorted(order(7, length).await), sorted(plain.clone()));
    }
}

#[tokio::test]
async fn a_sample_is_found_by_its_id_with_all_that_it_was_made_from() {
    let folder = tempfile::tempdir().unwrap();
    let reader = write(folder.path(), &plan(&[("animal", 70), ("color", 3)])).await;
    let wanted = sample("animal", 66);
    let found = reader.locate(&wanted.id).await.unwrap().unwrap();
    assert_eq!(
        (found.partition.to_string().as_str(), found.row),
        ("animal-00001", 2)
    );
    assert_eq!(found.sample, wanted);
    let view = serde_json::to_value(found.view()).unwrap();
    let prompt = &view["sample"]["prompts"][0];
    assert_eq!(prompt["text"], "((fox)), beach, cartoon");
    assert_eq!(prompt["provenance"]["seed"], u64::MAX);
    assert_eq!(view["sample"]["attempt"], 1);
    assert!(reader.locate("no such id").await.unwrap().is_none());
}
