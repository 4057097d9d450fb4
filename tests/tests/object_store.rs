//! Datasets in a bucket, through a real S3 server process.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

use std::{fs, path::Path, sync::Arc};

use dataset::{
    plan::Partition,
    store::{Commit, Error, Location, PartitionTally, Reader, Root, Writer},
};
use futures::TryStreamExt as _;
use object_store::{aws::AmazonS3Builder, prefix::PrefixStore};
use proto::dataset::v1::Sample;
use tests::{BUCKET, S3, finished, program};

const RECIPE: &str = r#"
seed = 3
[synth]
abilities = { animal = 3, color = 2 }
[synth.image]
steps = 2
[synth.gates]
min_alignment_lead = -2.0
"#;

#[test]
fn a_run_into_a_bucket_gives_the_dataset_of_a_run_into_a_folder() {
    let server = S3::start();
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("recipe.toml");
    fs::write(&recipe, RECIPE).unwrap();
    let local = folder.path().join("local").display().to_string();
    let bucket = format!("s3://{BUCKET}/runs/one");

    let in_folder = synth(&server, &recipe, &local);
    server.lose_next_reply("manifest/animal");
    let in_bucket = synth(&server, &recipe, &bucket);
    assert_eq!(in_bucket["manifest_sha256"], in_folder["manifest_sha256"]);
    assert_eq!(in_bucket["accepted"], 5);
    assert_eq!(server.lost_reply_count(), 1, "nothing was lost");

    let again = synth(&server, &recipe, &bucket);
    assert_eq!(again["made_partitions"], 0);
    assert_eq!(again["manifest_sha256"], in_folder["manifest_sha256"]);

    let mut export = program("diptych");
    export.envs(server.environment());
    let out = folder.path().join("exported");
    export
        .args(["export", &bucket, "--format", "llava", "--out"])
        .arg(&out);
    finished(export);
    let rows: Vec<serde_json::Value> =
        serde_json::from_slice(&fs::read(out.join("data.json")).unwrap()).unwrap();
    assert_eq!(rows.len(), 5);

    let mut audit = program("diptych");
    audit.envs(server.environment());
    audit.args(["audit", &bucket, "--json"]);
    let found: serde_json::Value = serde_json::from_slice(&finished(audit).stdout).unwrap();
    assert_eq!(
        (&found["kind"], &found["samples"]),
        (&"dataset".into(), &5.into())
    );
}

#[tokio::test]
async fn of_two_writers_of_one_partition_one_wins_and_the_other_notices() {
    let server = S3::start();
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("recipe.toml");
    fs::write(&recipe, RECIPE).unwrap();
    let local = folder.path().join("local");
    synth(&server, &recipe, &local.display().to_string());
    let source = Reader::open(Location::Folder(local).open().unwrap())
        .await
        .unwrap();

    for round in 0..20 {
        let writer = async || {
            Writer::open(place(&server, round), source.plan())
                .await
                .unwrap()
        };
        let (one, other) = (writer().await, writer().await);
        for partition in source.partitions().keys() {
            let samples = samples_of(&source, partition).await;
            let fewer = samples[1..].to_vec();
            let (first, second) = tokio::join!(
                one.commit(partition, samples, PartitionTally::default()),
                other.commit(partition, fewer, PartitionTally::default()),
            );
            let won = [&first, &second].map(|end| matches!(end, Ok(Commit::Created(_))));
            let lost = [&first, &second].map(|end| matches!(end, Err(Error::LostRace { .. })));
            assert_eq!(won, lost.map(|lost| !lost), "{first:?} and {second:?}");
            assert_ne!(won[0], won[1]);
        }
    }
}

#[tokio::test]
async fn a_commit_whose_reply_was_lost_is_known_for_our_own() {
    let server = S3::start();
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("recipe.toml");
    fs::write(&recipe, RECIPE).unwrap();
    let local = folder.path().join("local");
    synth(&server, &recipe, &local.display().to_string());
    let source = Reader::open(Location::Folder(local).open().unwrap())
        .await
        .unwrap();
    let writer = Writer::open(place(&server, 0), source.plan())
        .await
        .unwrap();
    for partition in source.partitions().keys() {
        let samples = samples_of(&source, partition).await;
        server.lose_next_reply("shards/");
        server.lose_next_reply("manifest/");
        let commit = writer.commit(partition, samples, PartitionTally::default());
        assert!(
            matches!(commit.await.unwrap(), Commit::AlreadyThere(_)),
            "its own manifest was not recognised"
        );
    }
    assert_eq!(server.lost_reply_count(), 4);
    let copy = Reader::open(place(&server, 0)).await.unwrap();
    let copied: Vec<Sample> = copy.samples().try_collect().await.unwrap();
    let original: Vec<Sample> = source.samples().try_collect().await.unwrap();
    assert_eq!(copied, original);
}

async fn samples_of(source: &Reader, partition: &Partition) -> Vec<Sample> {
    let manifest = &source.partitions()[partition];
    source.samples_of(manifest).await.unwrap()
}

/// A folder in the bucket.
fn place(server: &S3, number: u32) -> Root {
    let bucket = AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_access_key_id("none")
        .with_secret_access_key("none")
        .with_bucket_name(BUCKET)
        .build()
        .unwrap();
    let name = format!("place-{number}");
    let objects = PrefixStore::new(bucket, name.as_str());
    Root::new(Arc::new(objects), &name)
}

fn synth(server: &S3, recipe: &Path, out: &str) -> serde_json::Value {
    let mut command = program("diptych");
    command.envs(server.environment());
    command
        .arg("synth")
        .arg(recipe)
        .args(["--out", out, "--json"]);
    serde_json::from_slice(&finished(command).stdout).unwrap()
}
