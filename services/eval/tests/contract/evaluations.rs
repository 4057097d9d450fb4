//! An evaluation from its request to its files.

use std::fs;

use futures::TryStreamExt as _;
use proto::{
    eval::v1::{
        CancelEvaluationJobRequest, CreateEvaluationJobRequest, EvaluationJob, EvaluationSpec,
        GetEvaluationJobRequest, ListEvaluationJobsRequest, WatchEvaluationJobRequest,
    },
    job::v1::JobState,
};

use crate::stage::Stage;

/// Creates a job and watches it to its end.
pub(crate) async fn evaluate(
    stage: &Stage,
    request_id: &str,
    spec: EvaluationSpec,
) -> EvaluationJob {
    let mut client = stage.client.clone();
    let request = CreateEvaluationJobRequest {
        request_id: request_id.into(),
        spec: Some(spec),
    };
    let created = client
        .create_evaluation_job(request)
        .await
        .expect("accepted")
        .into_inner()
        .job
        .expect("a job");
    let id = created.job.expect("bookkeeping").id;
    let watched = client
        .watch_evaluation_job(WatchEvaluationJobRequest { id })
        .await
        .expect("watched");
    let states: Vec<_> = watched
        .into_inner()
        .try_collect()
        .await
        .expect("to the end");
    states.last().expect("a state").job.clone().expect("a job")
}

fn state(job: &EvaluationJob) -> (JobState, &str) {
    let job = job.job.as_ref().expect("bookkeeping");
    (job.state(), job.error.as_str())
}

#[tokio::test]
async fn an_evaluation_leaves_answers_intervals_and_comparisons_and_repeats_itself() {
    let stage = Stage::start().await;
    let mut spec = stage.spec(stage.benchmark("bench"), "out/one");
    spec.candidates[1].replicas = vec![stage.folder("checkpoint")];
    let job = evaluate(&stage, "one", spec.clone()).await;
    assert_eq!(state(&job), (JobState::Succeeded, ""));
    let result = job.result.expect("a result");
    // 3 rows (all, color, animal) of 2 candidates; synthetic - baseline and 2 x own - shuffled.
    assert_eq!((result.abilities.len(), result.comparisons.len()), (6, 9));
    let row = result
        .abilities
        .iter()
        .find(|row| row.ability == "all" && row.candidate == "baseline")
        .expect("a row");
    assert_eq!(row.question_count, 6);
    let accuracy = row.accuracy.expect("an interval");
    assert!(
        accuracy.low <= accuracy.mean
            && accuracy.mean <= accuracy.high
            && row.shuffled_accuracy.is_some()
    );
    // The candidates are the same model, so nothing may tell them apart.
    let same = result
        .comparisons
        .iter()
        .find(|c| c.candidate == "synthetic" && c.reference == "baseline")
        .expect("a pair");
    let gain = same.gain.expect("an interval");
    assert_eq!(
        (gain.mean, gain.low, gain.high, same.p_value),
        (0.0, 0.0, 0.0, 1.0)
    );

    let lines = fs::read_to_string(stage.path("out/one/answers.jsonl")).expect("written");
    // 3 models x 6 questions x own and shuffled.
    assert_eq!(lines.lines().count(), 36);
    for line in lines.lines() {
        let answer: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let own = format!(
            "{}.png",
            [0, 1, 2, 0, 3, 3][answer["question_id"].as_str().expect("an id")[1..]
                .parse::<usize>()
                .expect("a number")]
        );
        assert_eq!(
            answer["image"] != own,
            answer["shuffled"].as_bool().expect("a flag"),
            "{line}"
        );
    }
    assert!(stage.path("out/one/results.json").exists());

    // From scratch in a service that remembers nothing: the same bytes.
    let other = Stage::start().await;
    let mut again = other.spec(other.benchmark("bench"), "out/two");
    again.candidates[1].replicas = vec![other.folder("checkpoint")];
    evaluate(&other, "two", again).await;
    for file in ["answers.jsonl", "results.json"] {
        let read =
            |stage: &Stage, folder: &str| fs::read(stage.path(folder).join(file)).expect("written");
        assert_eq!(read(&stage, "out/one"), read(&other, "out/two"), "{file}");
    }

    // The same request is the same job; another spec under its id is refused.
    let known = evaluate(&stage, "one", spec.clone()).await;
    assert_eq!(
        known.job.as_ref().map(|job| &job.id),
        job.job.as_ref().map(|job| &job.id)
    );
    let mut client = stage.client.clone();
    let changed = EvaluationSpec { seed: 6, ..spec };
    let request = CreateEvaluationJobRequest {
        request_id: "one".into(),
        spec: Some(changed),
    };
    assert_eq!(
        client
            .create_evaluation_job(request)
            .await
            .expect_err("refused")
            .code(),
        tonic::Code::AlreadyExists
    );
    let list = client
        .list_evaluation_jobs(ListEvaluationJobsRequest::default())
        .await
        .expect("listed")
        .into_inner();
    assert_eq!(list.jobs.len(), 1);
    let id = known.job.expect("bookkeeping").id;
    let got = client
        .get_evaluation_job(GetEvaluationJobRequest { id: id.clone() })
        .await
        .expect("there")
        .into_inner();
    assert_eq!(state(&got.job.expect("a job")).0, JobState::Succeeded);
    let kept = client
        .cancel_evaluation_job(CancelEvaluationJobRequest { id })
        .await
        .expect("nothing to do")
        .into_inner();
    assert_eq!(state(&kept.job.expect("a job")).0, JobState::Succeeded);
}

#[tokio::test]
async fn a_known_request_is_answered_although_its_benchmark_has_gone() {
    let stage = Stage::start().await;
    let spec = EvaluationSpec {
        question_limit_per_ability: 1,
        skip_shuffled: true,
        ..stage.spec(stage.benchmark("bench"), "out")
    };
    let job = evaluate(&stage, "one", spec.clone()).await;
    assert_eq!(state(&job), (JobState::Succeeded, ""));
    fs::remove_dir_all(stage.path("bench")).expect("removed");
    assert_eq!(evaluate(&stage, "one", spec.clone()).await, job);
    // Any other request is checked as ever.
    let changed = EvaluationSpec { seed: 6, ..spec };
    for (request_id, spec) in [("one", changed.clone()), ("two", changed)] {
        let request = CreateEvaluationJobRequest {
            request_id: request_id.into(),
            spec: Some(spec),
        };
        let status = stage.client.clone().create_evaluation_job(request).await;
        let code = status.expect_err("refused").code();
        assert_eq!(code, tonic::Code::NotFound, "{request_id}");
    }
}

#[tokio::test]
async fn the_question_limit_is_per_ability_and_shuffling_can_be_left_out() {
    let stage = Stage::start().await;
    let spec = EvaluationSpec {
        question_limit_per_ability: 2,
        skip_shuffled: true,
        ..stage.spec(stage.benchmark("bench"), "out")
    };
    let job = evaluate(&stage, "limited", spec).await;
    assert_eq!(state(&job), (JobState::Succeeded, ""));
    let result = job.result.expect("a result");
    assert_eq!(
        result
            .abilities
            .iter()
            .map(|row| row.question_count)
            .collect::<Vec<_>>(),
        [4, 4, 2, 2, 2, 2]
    );
    assert!(
        result
            .abilities
            .iter()
            .all(|row| row.shuffled_accuracy.is_none())
    );
    assert_eq!(job.progress.expect("progress").question_count, 8);
}
