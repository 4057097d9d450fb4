//! The trainer over a real socket, on the tiny checkpoint of `models`' tests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;

use harness::{Bench, RECORDS, ended, fixture, folder_uri, spec, stage};
use models::generate::Stop;
use models::llava::Llava;
use proto::dataset::v1::Artefact;
use proto::job::v1::JobState;
use proto::trainer::v1::{
    CancelTrainingJobRequest, CreateTrainingJobRequest, DataSource, GetTrainingJobRequest,
    ListTrainingJobsRequest, LoraSettings, StageKind, TrainingSpec, WatchTrainingJobRequest,
    data_source, training_spec,
};
use runtime::explain;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_two_stages_shows_every_step_and_leaves_a_model_that_answers() {
    let mut bench = Bench::start(4).await;
    let output = bench.root().join("runs/one");
    let wanted = spec(&bench, &output, 6);
    let job = bench.create("one", &wanted).await.unwrap();
    let seen = bench.watch(&job).await;
    let last = seen.last().unwrap();
    assert_eq!(ended(last), (JobState::Succeeded, String::new()));
    let steps: Vec<u32> = seen
        .iter()
        .filter_map(|job| Some(job.progress.as_ref()?.done_step_count))
        .collect();
    assert!(steps.is_sorted() && steps.last() == Some(&12));
    let progress = last.progress.clone().unwrap();
    assert_eq!((progress.step_count, progress.stage.as_str()), (12, "tune"));
    assert!(progress.tokens_per_second > 0.0 && progress.gradient_norm > 0.0);
    assert_eq!(last.spec.as_ref(), Some(&wanted));

    let result = last.result.clone().unwrap();
    assert_eq!(result.skipped_sample_count, 1); // the record with an empty answer, in stage 2
    let metrics = std::fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    let metrics: Vec<trainer::Metric> = metrics
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        metrics.iter().map(|m| m.step).collect::<Vec<_>>(),
        (1..=12).collect::<Vec<_>>()
    );
    assert_eq!(metrics[11].loss, result.final_loss);
    assert!(
        metrics[11].loss < metrics[6].loss,
        "the loss of stage 2 falls"
    );
    assert!(std::fs::read_dir(&output).unwrap().any(|f| {
        f.unwrap()
            .file_name()
            .to_string_lossy()
            .contains("tfevents")
    }));
    assert_eq!(
        std::fs::read_dir(output.join("checkpoints"))
            .unwrap()
            .count(),
        2
    );

    let model = Llava::load(&output.join("model")).unwrap();
    let answer = model
        .answer(&[image::RgbImage::new(32, 32)], "What is this?", 4, &|| {
            true
        })
        .unwrap();
    assert!(answer.tokens.len() == 4 || answer.stop == Stop::EndOfAnswer);
    assert!(
        std::fs::read_to_string(output.join("model/README.md"))
            .unwrap()
            .contains("sha256:")
    );

    // Asked for again: the same job. Another specification under the same id: refused.
    assert_eq!(bench.create("one", &wanted).await.unwrap(), job);
    let error = bench
        .create(
            "one",
            &TrainingSpec {
                seed: 9,
                ..wanted.clone()
            },
        )
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists);

    // The same specification elsewhere: the same bits.
    let again = bench.root().join("runs/two");
    let second = bench.create("two", &spec(&bench, &again, 6)).await.unwrap();
    assert_eq!(
        ended(bench.watch(&second).await.last().unwrap()).0,
        JobState::Succeeded
    );
    for file in ["model/model.safetensors", "metrics.jsonl"] {
        assert!(
            std::fs::read(output.join(file)).unwrap() == std::fs::read(again.join(file)).unwrap(),
            "{file}"
        );
    }

    // A page of one job, then the other.
    let page = ListTrainingJobsRequest {
        page_size: 1,
        page_token: String::new(),
    };
    let page = bench
        .client
        .list_training_jobs(page)
        .await
        .unwrap()
        .into_inner();
    let rest = ListTrainingJobsRequest {
        page_size: 1,
        page_token: page.next_page_token,
    };
    let rest = bench
        .client
        .list_training_jobs(rest)
        .await
        .unwrap()
        .into_inner();
    let mut ids = [&page.jobs[0], &rest.jobs[0]].map(|found| found.job.clone().unwrap().id);
    ids.sort();
    let mut expected = [job, second];
    expected.sort();
    assert_eq!((ids, rest.next_page_token.as_str()), (expected, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_request_is_answered_although_its_model_has_gone() {
    let mut bench = Bench::start(4).await;
    let wanted = spec(&bench, &bench.root().join("runs/one"), 1);
    let job = bench.create("one", &wanted).await.unwrap();
    assert_eq!(
        ended(bench.watch(&job).await.last().unwrap()).0,
        JobState::Succeeded
    );
    std::fs::remove_dir_all(bench.root().join("model")).unwrap();
    assert_eq!(bench.create("one", &wanted).await.unwrap(), job);
    // Any other request is checked as ever.
    let error = bench.create("two", &wanted).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_run_is_given_again_only_for_the_data_and_the_base_it_was_made_of() {
    let mut bench = Bench::start(4).await;
    let wanted = spec(&bench, &bench.root().join("runs/one"), 1);
    for name in ["one", "again"] {
        let job = bench.create(name, &wanted).await.unwrap();
        let last = bench.watch(&job).await.pop().unwrap();
        assert_eq!(ended(&last), (JobState::Succeeded, String::new()));
    }
    bench.data("data", &RECORDS.replace("A red bus.", "A blue bus."));
    let job = bench.create("other data", &wanted).await.unwrap();
    let (state, error) = ended(bench.watch(&job).await.last().unwrap());
    assert_eq!(state, JobState::Failed);
    assert!(
        error.contains("other data") && error.contains("base sha256:"),
        "{error}"
    );

    bench.data("data", RECORDS);
    let config = bench.root().join("model/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text + "\n").unwrap();
    let job = bench.create("other base", &wanted).await.unwrap();
    let (state, error) = ended(bench.watch(&job).await.last().unwrap());
    assert!(
        state == JobState::Failed && error.contains("another base"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_specification_is_refused_by_the_name_of_its_field() {
    let mut bench = Bench::start(4).await;
    let output = bench.root().join("runs/refused");
    let good = spec(&bench, &output, 2);
    let change = |change: &dyn Fn(&mut TrainingSpec)| {
        let mut spec = good.clone();
        change(&mut spec);
        spec
    };
    let folder =
        |folder: &std::path::Path| Some(training_spec::Base::BaseCheckpoint(folder_uri(folder)));
    let truncated = bench.broken_model("truncated", "model.safetensors", |bytes| {
        bytes.truncate(bytes.len() / 2)
    });
    let tokenizer = bench.broken_model("tokenizer", "tokenizer.json", |bytes| {
        *bytes = String::from_utf8(bytes.clone())
            .unwrap()
            .replace("<image>", "<picture>")
            .into_bytes();
    });
    let elsewhere = tempfile::tempdir().unwrap();
    for (code, words, spec) in [
        (
            Code::InvalidArgument,
            "spec.stages[0].step_count",
            change(&|s| s.stages[0].step_count = 0),
        ),
        (
            Code::InvalidArgument,
            "spec.stages[1].batch_size",
            change(&|s| s.stages[1].batch_size = 0),
        ),
        (
            Code::InvalidArgument,
            "spec.stages[1].accumulation_count",
            change(&|s| s.stages[1].accumulation_count = 3),
        ),
        (
            Code::InvalidArgument,
            "spec.stages[0].kind",
            change(&|s| s.stages[0].kind = 0),
        ),
        (
            Code::InvalidArgument,
            "spec.stages",
            change(&|s| s.stages.clear()),
        ),
        (
            Code::InvalidArgument,
            "spec.stages[0].data",
            change(&|s| s.stages[0].data.clear()),
        ),
        (
            Code::InvalidArgument,
            "learning_rate",
            change(&|s| s.stages[0].optimizer.as_mut().unwrap().learning_rate = f64::NAN),
        ),
        (
            Code::Unimplemented,
            "low-rank",
            change(&|s| s.stages[1].lora = Some(LoraSettings::default())),
        ),
        (
            Code::NotFound,
            "\"gpt-5\"",
            change(&|s| s.base = Some(training_spec::Base::BaseModel("gpt-5".into()))),
        ),
        (
            Code::InvalidArgument,
            "truncated",
            change(&|s| s.base = folder(&truncated)),
        ),
        (
            Code::InvalidArgument,
            "<image>",
            change(&|s| s.base = folder(&tokenizer)),
        ),
        (
            Code::InvalidArgument,
            "root",
            change(&|s| s.output = Some(folder_uri(elsewhere.path()))),
        ),
        (
            Code::InvalidArgument,
            "at most 4096",
            change(&|s| {
                let far = bench.root().join("d/".repeat(10_000));
                s.output = Some(folder_uri(&far));
            }),
        ),
        (
            Code::InvalidArgument,
            "loss_reduction",
            change(&|s| s.stages[1].loss_reduction = 77),
        ),
        (
            Code::InvalidArgument,
            "schedule",
            change(&|s| s.stages[1].optimizer.as_mut().unwrap().schedule = 77),
        ),
        (
            Code::NotFound,
            "data[0].llava_json",
            change(&|s| {
                s.stages[0].data[0] = harness::source(&output.join("absent.json"));
            }),
        ),
    ] {
        let error = bench.create("refused", &spec).await.unwrap_err();
        assert_eq!(error.code(), code, "{error:?}");
        let said = explain(&error);
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!output.exists(), "a refused request leaves no folder");
    let absent = GetTrainingJobRequest {
        id: "training-0".into(),
    };
    assert_eq!(
        bench
            .client
            .get_training_job(absent)
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_cannot_be_used_fails_the_job_with_the_file_and_the_place() {
    let mut bench = Bench::start(8).await;
    let cases = [
        (
            "comma",
            RECORDS.replacen("}, {\"id\"", "} {\"id\"", 1),
            "not separated by commas",
        ),
        (
            "key",
            RECORDS.replacen("\"conversations\"", "\"conversation\"", 1),
            "record 0",
        ),
        (
            "image",
            RECORDS.replacen("picture1.png", "picture9.png", 1),
            "picture9.png",
        ),
        (
            "outside",
            RECORDS.replacen("picture1.png", "../secret.png", 1),
            "../secret.png",
        ),
        (
            "turns",
            RECORDS.replacen("\"gpt\"", "\"human\"", 1),
            "do not take turns",
        ),
        (
            "marks",
            RECORDS.replacen("<image>\\nIs there", "<image><image>\\nIs there", 1),
            "2 `<image>` marks",
        ),
    ];
    for (name, text, words) in cases {
        let json = bench.data(name, &text);
        let mut spec = spec(&bench, &bench.root().join("runs").join(name), 2);
        spec.stages.remove(0);
        spec.stages[0].data[0] = harness::source(&json);
        let job = bench.create(name, &spec).await.unwrap();
        let (state, error) = ended(bench.watch(&job).await.last().unwrap());
        assert_eq!(state, JobState::Failed, "{name}");
        assert!(
            error.contains(words) && error.contains(&format!("{name}.json")),
            "{name}: {error}"
        );
    }

    // A caption with a picture that nothing marks.
    let records = RECORDS.replacen("<image>\\nIs there", "<image><image>\\nIs there", 1);
    let json = bench.data("caption", &records);
    let mut caption = spec(&bench, &bench.root().join("runs/caption"), 2);
    caption.stages = vec![stage("align", StageKind::Alignment, &json, 2)];
    let job = bench.create("caption", &caption).await.unwrap();
    let (state, error) = ended(bench.watch(&job).await.last().unwrap());
    assert!(
        state == JobState::Failed && error.contains("sample \"a\": 2 `<image>` marks for 1"),
        "{error}"
    );

    // A picture that is there and is none.
    let json = bench.data("noise", &RECORDS.replace("picture1.png", "noise.png"));
    std::fs::write(bench.root().join("data/noise.png"), b"\x89PNG noise").unwrap();
    let mut spec = spec(&bench, &bench.root().join("runs/noise"), 2);
    spec.stages = vec![stage("tune", StageKind::Instruction, &json, 2)];
    let job = bench.create("noise", &spec).await.unwrap();
    let (state, error) = ended(bench.watch(&job).await.last().unwrap());
    assert!(
        state == JobState::Failed && error.contains("noise.png"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixture_of_our_store_and_llava_json_is_trained_on_and_named_in_the_card() {
    let mut bench = Bench::start(4).await;
    let output = bench.root().join("runs/mixture");
    let mut wanted = spec(&bench, &output, 4);
    wanted.stages.remove(0);
    let stored = DataSource {
        name: "synthetic".into(),
        location: Some(data_source::Location::Dataset(folder_uri(
            &bench.dataset(70).await,
        ))),
        weight: 0.5,
        ..DataSource::default()
    };
    wanted.stages[0].data[0].weight = 0.5;
    wanted.stages[0].data.push(stored);
    let job = bench.create("mixture", &wanted).await.unwrap();
    let (state, error) = ended(bench.watch(&job).await.last().unwrap());
    assert_eq!((state, error.as_str()), (JobState::Succeeded, ""));
    let card = std::fs::read_to_string(output.join("model/README.md")).unwrap();
    assert!(card.contains("data: base sha256:") && card.contains("data: synthetic sha256:"));

    wanted.stages[0].data[1].weight = 0.0;
    let error = bench.create("half", &wanted).await.unwrap_err();
    assert!(
        explain(&error).contains("every source has a weight or none"),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_refused_at_once_and_a_cancelled_job_ends_after_its_step() {
    let mut bench = Bench::start(1).await;
    let long =
        |name: &str, bench: &Bench| spec(bench, &bench.root().join("runs").join(name), 1_000_000);
    let first = bench.create("first", &long("first", &bench)).await.unwrap();
    let mut running = bench.client.clone();
    let mut stream = running
        .watch_training_job(WatchTrainingJobRequest { id: first.clone() })
        .await
        .unwrap()
        .into_inner();
    while stream
        .message()
        .await
        .unwrap()
        .unwrap()
        .job
        .unwrap()
        .progress
        .is_none()
    {}
    let second = bench
        .create("second", &long("second", &bench))
        .await
        .unwrap();
    let error = bench
        .create("third", &long("third", &bench))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(runtime::error::retry_after(&error).is_some());

    for id in [&second, &first] {
        bench
            .client
            .cancel_training_job(CancelTrainingJobRequest { id: id.clone() })
            .await
            .unwrap();
        assert_eq!(
            ended(bench.watch(id).await.last().unwrap()).0,
            JobState::Cancelled
        );
    }
    // Another specification may not take over the folder of the first.
    let mut other = long("first", &bench);
    other.seed += 1;
    let id = bench.create("fourth", &other).await.unwrap();
    let (state, error) = ended(bench.watch(&id).await.last().unwrap());
    assert!(
        state == JobState::Failed && error.contains("belongs to another run"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_was_stopped_saves_its_last_step_and_the_next_goes_on_from_it() {
    let mut bench = Bench::start(4).await;
    let output = bench.root().join("runs/stopped");
    let wanted = spec(&bench, &output, 1_000_000);
    assert_eq!(wanted.checkpoint_every_steps, 0);
    let id = bench.create("stopped", &wanted).await.unwrap();
    bench.steps_until(&id, 3).await;
    let record = bench.root().join("jobs").join(&id).join("state-1.json");
    let (mut saved, mut told) = (0, None);
    bench = bench
        .stop_and_start_again(|| {
            let metrics = std::fs::read_to_string(output.join("metrics.jsonl")).unwrap();
            saved = metrics.lines().count() as u32;
            let checkpoint = output.join(format!("checkpoints/step-{saved:08}/state.json"));
            assert!(
                saved >= 3 && checkpoint.is_file(),
                "{}",
                checkpoint.display()
            );
            let record: serde_json::Value =
                serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
            told = record["progress"]["metric"]["step"].as_u64();
        })
        .await;
    let steps = bench.steps_until(&id, saved + 1).await;
    // The progress on disk may be a second old; no step before the checkpoint is made again.
    let is_new = |step: &&u32| told != Some(u64::from(**step));
    let made: Vec<_> = steps.iter().filter(is_new).collect();
    assert!(made.iter().all(|step| **step > saved), "{saved}: {steps:?}");
    let request = CancelTrainingJobRequest { id: id.clone() };
    bench.client.cancel_training_job(request).await.unwrap();
    let last = bench.watch(&id).await.pop().unwrap();
    assert_eq!(ended(&last).0, JobState::Cancelled);
    assert_eq!(last.job.unwrap().epoch, 2);
    let metrics = std::fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    for (line, step) in metrics.lines().zip(1..) {
        let metric: trainer::Metric = serde_json::from_str(line).unwrap();
        assert_eq!(metric.step, step);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_was_killed_goes_on_and_ends_with_the_same_bits() {
    let mut bench = Bench::start(4).await;
    let whole = bench.root().join("runs/whole");
    let mut wanted = spec(&bench, &whole, 40);
    wanted.checkpoint_every_steps = 7;
    let job = bench.create("whole", &wanted).await.unwrap();
    assert_eq!(
        ended(bench.watch(&job).await.last().unwrap()).0,
        JobState::Succeeded
    );

    let killed = bench.root().join("runs/killed");
    wanted.output = Some(Artefact {
        uri: folder_uri(&killed).uri,
        ..Artefact::default()
    });
    let mut process = harness::Process::start(bench.second_root()).await;
    let request = CreateTrainingJobRequest {
        request_id: "killed".into(),
        spec: Some(wanted),
    };
    let created = process
        .client
        .create_training_job(request)
        .await
        .unwrap()
        .into_inner();
    let id = created.job.unwrap().job.unwrap().id;
    for after in [15, 33, 60] {
        let mut stream = process.watch(&id).await;
        while stream
            .message()
            .await
            .unwrap()
            .unwrap()
            .job
            .unwrap()
            .progress
            .is_none_or(|p| p.done_step_count < after)
        {}
        process = process.kill_and_start_again().await;
    }
    let mut stream = process.watch(&id).await;
    let mut last = None;
    while let Some(change) = stream.message().await.unwrap() {
        last = change.job;
    }
    let last = last.unwrap();
    assert_eq!(ended(&last), (JobState::Succeeded, String::new()));
    assert!(last.job.unwrap().epoch > 1);
    for file in ["model/model.safetensors", "metrics.jsonl"] {
        assert!(
            std::fs::read(whole.join(file)).unwrap() == std::fs::read(killed.join(file)).unwrap(),
            "{file}"
        );
    }
    process.kill().await;
    assert!(fixture().is_dir());
}
