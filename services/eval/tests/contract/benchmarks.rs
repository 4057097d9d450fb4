//! A benchmark made from held-out samples.

use std::{collections::BTreeMap, fs};

use dataset::{
    identity::{SampleKey, sha256_hex},
    plan::Plan,
    store::{PartitionTally, Root, Writer},
};
use futures::TryStreamExt as _;
use proto::{
    dataset::v1::{
        Conversation, Facts, Image, Prompt, Role, Sample, Subject, Turn, image::Content,
    },
    eval::v1::{BenchmarkJob, BenchmarkSpec, CreateBenchmarkJobRequest, WatchBenchmarkJobRequest},
    job::v1::JobState,
};

use crate::stage::{Stage, png};

const ANIMALS: [&str; 8] = [
    "dog", "cat", "fox", "bear", "panda", "tiger", "lion", "frog",
];

/// Samples of `animal` whose pictures are numbered from `first_picture` on.
async fn write_dataset(stage: &Stage, name: &str, recipe_seed: u64, first_picture: u8, count: u64) {
    let plan = Plan {
        recipe_sha256: sha256_hex(name),
        recipe_seed,
        sample_counts: BTreeMap::from([("animal".to_owned(), count)]),
    };
    let root = Root::create_folder(&stage.path(name)).expect("made");
    let writer = Writer::open(root, &plan).await.expect("opened");
    let samples = (0..count)
        .map(|slot| sample(recipe_seed, slot, first_picture + slot as u8))
        .collect();
    let partition = plan.partitions().next().expect("one");
    writer
        .commit(&partition, samples, PartitionTally::default())
        .await
        .expect("committed");
}

fn sample(recipe_seed: u64, slot: u64, picture: u8) -> Sample {
    let id = SampleKey {
        recipe_seed,
        ability: "animal",
        slot,
        attempt: 0,
    }
    .id()
    .to_string();
    let animal = ANIMALS[usize::from(picture) % ANIMALS.len()];
    let data = png(picture);
    let turn = |role: Role, text: &str| Turn {
        role: role.into(),
        text: text.into(),
        ..Turn::default()
    };
    let facts = Facts {
        subjects: vec![Subject {
            name: animal.into(),
            category: "animal".into(),
            ..Subject::default()
        }],
        scene: "beach".into(),
        style: "cartoon".into(),
        ..Facts::default()
    };
    Sample {
        id: id.clone(),
        ability: "animal".into(),
        slot,
        prompts: vec![Prompt {
            sample_id: id.clone(),
            ability: "animal".into(),
            keyword: animal.into(),
            text: format!("(({animal})), beach, cartoon, {picture}"),
            facts: Some(facts),
            ..Prompt::default()
        }],
        images: vec![Image {
            sample_id: id.clone(),
            sha256: sha256_hex(&data),
            content: Some(Content::Data(data.into())),
            media_type: "image/png".into(),
            width_px: 32,
            height_px: 32,
            ..Image::default()
        }],
        conversation: Some(Conversation {
            sample_id: id,
            turns: vec![
                turn(Role::User, "What is it?"),
                turn(Role::Assistant, "An animal."),
            ],
            provenance: None,
        }),
        ..Sample::default()
    }
}

async fn make(stage: &Stage, request_id: &str, spec: BenchmarkSpec) -> BenchmarkJob {
    let mut client = stage.client.clone();
    let request = CreateBenchmarkJobRequest {
        request_id: request_id.into(),
        spec: Some(spec),
    };
    let created = client
        .create_benchmark_job(request)
        .await
        .expect("accepted")
        .into_inner()
        .job
        .expect("a job");
    let id = created.job.expect("bookkeeping").id;
    let watched = client
        .watch_benchmark_job(WatchBenchmarkJobRequest { id })
        .await
        .expect("watched");
    let states: Vec<_> = watched
        .into_inner()
        .try_collect()
        .await
        .expect("to the end");
    states.last().expect("a state").job.clone().expect("a job")
}

#[tokio::test]
async fn a_benchmark_is_balanced_repeats_itself_and_shares_nothing_with_training() {
    let stage = Stage::start().await;
    write_dataset(&stage, "held-out", 1, 0, 8).await;
    // Pictures 6 and 7 were trained on as well.
    write_dataset(&stage, "training", 2, 6, 4).await;
    let spec = |output: &str| BenchmarkSpec {
        source: Some(stage.folder("held-out")),
        training_data: vec![stage.folder("training")],
        questions_per_ability: 12,
        seed: 3,
        output: Some(stage.folder(output)),
    };
    let job = make(&stage, "one", spec("bench/one")).await;
    let bookkeeping = job.job.expect("bookkeeping");
    assert_eq!(
        (bookkeeping.state(), bookkeeping.error.as_str()),
        (JobState::Succeeded, "")
    );
    let result = job.result.expect("a result");
    assert_eq!(
        (result.question_count, result.overlapping_sample_count),
        (12, 2)
    );

    let text = fs::read_to_string(stage.path("bench/one/questions.jsonl")).expect("written");
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let answered = |answer: &str| {
        lines
            .iter()
            .filter(|line| line["answers"] == serde_json::json!([answer]))
            .count()
    };
    assert_eq!((answered("yes"), answered("no")), (3, 3), "{text}");
    for line in &lines {
        let image = line["image"].as_str().expect("a path");
        let bytes = fs::read(stage.path("bench/one").join(image)).expect("there");
        assert!(
            bytes != png(6) && bytes != png(7),
            "a picture of the training data: {line}"
        );
    }
    let evaluated = crate::evaluations::evaluate(
        &stage,
        "made",
        stage.spec(
            proto::eval::v1::BenchmarkRef {
                name: "made".into(),
                location: Some(proto::eval::v1::benchmark_ref::Location::Folder(
                    result.benchmark.clone().expect("a folder"),
                )),
            },
            "out",
        ),
    )
    .await;
    assert!(evaluated.result.is_some(), "{evaluated:?}");

    let again = make(&stage, "two", spec("bench/two"))
        .await
        .result
        .expect("a result");
    let sha256 = |result: &proto::eval::v1::BenchmarkResult| {
        result.benchmark.as_ref().expect("a folder").sha256.clone()
    };
    assert_eq!(sha256(&result), sha256(&again));

    let nothing = BenchmarkSpec {
        source: Some(stage.folder("bench/one")),
        ..spec("bench/three")
    };
    let failed = make(&stage, "three", nothing)
        .await
        .job
        .expect("bookkeeping");
    assert_eq!(failed.state(), JobState::Failed);
    assert!(failed.error.contains("dataset"), "{}", failed.error);

    // A known request is answered although the pictures it was made from have gone.
    fs::remove_dir_all(stage.path("held-out")).expect("removed");
    let known = make(&stage, "two", spec("bench/two")).await;
    assert_eq!(known.result, Some(again));
}

#[tokio::test]
async fn a_killed_job_s_temporary_files_are_removed_and_no_other_file() {
    let stage = Stage::start().await;
    write_dataset(&stage, "held-out", 1, 0, 8).await;
    let spec = |output: &str| BenchmarkSpec {
        source: Some(stage.folder("held-out")),
        training_data: Vec::new(),
        questions_per_ability: 12,
        seed: 3,
        output: Some(stage.folder(output)),
    };
    let whole = make(&stage, "whole", spec("whole")).await;
    let whole = whole.result.expect("a result").benchmark.expect("a folder");
    let entry = fs::read_dir(stage.path("whole/images")).expect("listed");
    let entry = entry.flatten().next().expect("a picture");
    let image = format!("images/{}", entry.file_name().to_string_lossy());
    let leave = |output: &str, name: &str| {
        fs::create_dir_all(stage.path(output).join("images")).expect("made");
        fs::write(stage.path(output).join(name), b"half").expect("written");
    };

    // A kill while pictures, or the questions, were written.
    leave("resumed", &format!("{image}.81-0.tmp"));
    leave("resumed", "questions.jsonl.81-12.tmp");
    let resumed = make(&stage, "resumed", spec("resumed")).await;
    let bookkeeping = resumed.job.expect("bookkeeping");
    assert_eq!(bookkeeping.error, "");
    let resumed = resumed.result.expect("a result").benchmark;
    assert_eq!(resumed.expect("a folder").sha256, whole.sha256);

    let strangers = [
        "images/moon.png".to_owned(),
        "images/moon.png.81-0.tmp".to_owned(),
        format!("{image}.tmp"),
        format!("{image}.a-b.tmp"),
    ];
    for (index, stranger) in strangers.iter().enumerate() {
        let output = format!("other-{index}");
        leave(&output, stranger);
        leave(&output, &format!("{image}.81-0.tmp"));
        let failed = make(&stage, &output, spec(&output)).await.job;
        let error = failed.expect("bookkeeping").error;
        assert!(
            error.contains(&format!("{stranger}, which is not of this benchmark")),
            "{error}"
        );
        let left = fs::read_dir(stage.path(&output).join("images")).expect("listed");
        assert_eq!(left.count(), 2, "a refused folder stays as it was");
    }
}
