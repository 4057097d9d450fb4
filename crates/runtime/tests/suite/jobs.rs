use std::{path::Path, sync::Arc};

use futures::StreamExt as _;
use runtime::{
    Kind, ServiceError,
    jobs::{Error, Jobs, Settings, State, Task, Work},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::stage::soon;

#[tokio::test]
async fn a_request_id_makes_one_job_and_its_watchers_see_it_to_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let (training, mut begun) = Training::new();
    let go = training.go.clone();
    let jobs = open(training, folder.path(), &CancellationToken::new());

    let job = jobs.create("run-1", steps(2)).await.expect("created").job;
    let again = jobs
        .create("run-1", steps(2))
        .await
        .expect("the same job")
        .job;
    assert_eq!(job.id, again.id);
    let other = jobs
        .create("run-1", steps(3))
        .await
        .expect_err("another spec");
    assert_eq!(other.kind(), Kind::AlreadyExists);
    for id in ["", &"x".repeat(129)] {
        assert!(matches!(
            jobs.create(id, steps(1)).await,
            Err(Error::RequestId)
        ));
    }

    let mut watch = Box::pin(jobs.watch(&job.id).expect("it exists"));
    soon(begun.recv()).await.expect("it began");
    let mut states = Vec::new();
    go.notify_one();
    while let Some(snapshot) = soon(watch.next()).await {
        states.push(snapshot.job.state);
    }
    assert_eq!(states.last(), Some(&State::Succeeded));
    let job = jobs.get(&job.id).expect("it exists").job;
    assert_eq!(
        (job.progress, job.result, job.epoch),
        (Some(2), Some(20), 1)
    );
    assert!(job.created_at_ms <= job.started_at_ms.expect("started"));
    assert!(job.started_at_ms <= job.ended_at_ms);
    assert!(matches!(jobs.get("training-0"), Err(Error::NotFound(_))));
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_jobs_are_cancelled_waiting_or_running() {
    let folder = tempfile::tempdir().expect("a folder");
    let (training, mut begun) = Training::new();
    let jobs = open(training, folder.path(), &CancellationToken::new());
    let running = jobs.create("running", steps(1)).await.expect("created").job;
    soon(begun.recv()).await.expect("it began");
    let mut waiting = Vec::new();
    for place in 0..2 {
        let snapshot = jobs
            .create(&format!("waiting-{place}"), steps(1))
            .await
            .expect("created");
        assert_eq!(snapshot.queue_position, place);
        waiting.push(snapshot.job.id.clone());
    }
    let full = jobs
        .create("one-too-many", steps(1))
        .await
        .expect_err("full");
    assert!(matches!(
        full.kind(),
        Kind::ResourceExhausted {
            retry_after: Some(_)
        }
    ));

    let cancelled = jobs.cancel(&waiting[0]).await.expect("cancelled").job;
    assert_eq!(cancelled.state, State::Cancelled);
    assert_eq!(jobs.get(&waiting[1]).expect("it exists").queue_position, 0);
    jobs.cancel(&running.id).await.expect("asked");
    let mut watch = Box::pin(jobs.watch(&running.id).expect("it exists"));
    let mut last = None;
    while let Some(snapshot) = soon(watch.next()).await {
        last = Some(snapshot.job.state);
    }
    assert_eq!(last, Some(State::Cancelled));
    assert_eq!(
        soon(begun.recv()).await.expect("the next began").0,
        waiting[1]
    );
}

#[tokio::test]
async fn a_process_that_stops_leaves_its_job_to_the_next_and_cannot_commit_any_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let stop = CancellationToken::new();
    let (training, mut begun) = Training::new();
    let jobs = open(training, folder.path(), &stop);
    let id = jobs
        .create("run", steps(3))
        .await
        .expect("created")
        .job
        .id
        .clone();
    let (_, first) = soon(begun.recv()).await.expect("it began");
    std::fs::write(first.folder().join("checkpoint"), "step 2").expect("written");
    assert!(first.is_owner());

    let (training, mut begun_again) = Training::new();
    let go = training.go.clone();
    let second = open(training, folder.path(), &CancellationToken::new());
    let (_, task) = soon(begun_again.recv()).await.expect("taken over");
    assert_eq!(
        (task.epoch(), task.is_owner(), first.is_owner()),
        (2, true, false)
    );
    let kept = std::fs::read_to_string(task.folder().join("checkpoint")).expect("read");
    assert_eq!(kept, "step 2");

    // The first owner ends late, with its own outcome; only the second's counts.
    stop.cancel();
    soon(first.cancelled().cancelled()).await;
    go.notify_one();
    let mut watch = Box::pin(second.watch(&id).expect("it exists"));
    while soon(watch.next()).await.is_some() {}
    let (training, _begun) = Training::new();
    let third = open(training, folder.path(), &CancellationToken::new());
    let job = third.get(&id).expect("it exists").job;
    assert_eq!(
        (job.state, job.epoch, job.result),
        (State::Succeeded, 2, Some(30))
    );
}

#[tokio::test]
async fn a_waiting_job_that_another_process_took_over_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (training, mut begun) = Training::new();
    let go = training.go.clone();
    let first = open(training, folder.path(), &CancellationToken::new());
    let running = first.create("a", steps(1)).await.expect("created").job;
    first.create("b", steps(1)).await.expect("created");
    assert_eq!(soon(begun.recv()).await.expect("it began").0, running.id);

    let (training, mut begun_again) = Training::new();
    let _second = open(training, folder.path(), &CancellationToken::new());
    soon(begun_again.recv()).await.expect("taken over");

    // The first process is through with `a`, passes `b` over, and runs what is its own.
    go.notify_one();
    let own = first.create("c", steps(1)).await.expect("created").job;
    assert_eq!(soon(begun.recv()).await.expect("the next began").0, own.id);
}

#[tokio::test]
async fn the_jobs_are_at_their_end_when_the_running_one_has_returned() {
    let folder = tempfile::tempdir().expect("a folder");
    let stop = CancellationToken::new();
    let (training, mut begun) = Training::new();
    let jobs = open(training, folder.path(), &stop);
    jobs.create("run", steps(1)).await.expect("created");
    let (_, task) = soon(begun.recv()).await.expect("it began");
    assert!(!jobs.ended().is_cancelled());
    stop.cancel();
    soon(jobs.ended().cancelled()).await;
    assert!(task.is_cancelled());
}

#[tokio::test]
async fn a_failed_or_panicking_job_says_so_and_the_next_one_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let (training, _begun) = Training::new();
    let go = training.go.clone();
    let jobs = open(training, folder.path(), &CancellationToken::new());
    for (spec, error) in [(FAILING, "the data is bad"), (PANICKING, "internal error")] {
        let id = jobs
            .create(&format!("run-{spec}"), steps(spec))
            .await
            .expect("created")
            .job
            .id
            .clone();
        go.notify_one();
        let mut watch = Box::pin(jobs.watch(&id).expect("it exists"));
        let mut last = None;
        while let Some(snapshot) = soon(watch.next()).await {
            last = Some(snapshot.job);
        }
        let last = last.expect("an end");
        assert_eq!(last.state, State::Failed);
        assert!(last.error.contains(error), "{}", last.error);
    }
}

#[tokio::test]
async fn jobs_are_listed_newest_first_in_pages_that_meet() {
    let folder = tempfile::tempdir().expect("a folder");
    let (training, _begun) = Training::new();
    let go = training.go.clone();
    let jobs = open(training, folder.path(), &CancellationToken::new());
    let mut made = Vec::new();
    for index in 0..5 {
        let id = jobs
            .create(&format!("run-{index}"), steps(1))
            .await
            .expect("created")
            .job
            .id
            .clone();
        go.notify_one();
        let mut watch = Box::pin(jobs.watch(&id).expect("it exists"));
        while soon(watch.next()).await.is_some() {}
        made.push(id);
    }
    let mut listed = Vec::new();
    let mut token = String::new();
    loop {
        let page = jobs.list(2, &token).expect("a page");
        assert!(page.jobs.len() <= 2);
        listed.extend(page.jobs.iter().map(|snapshot| snapshot.job.id.clone()));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    made.sort();
    let mut sorted = listed.clone();
    sorted.sort();
    assert_eq!(sorted, made, "each once");
    let created = |id: &String| jobs.get(id).expect("it exists").job.created_at_ms;
    assert!(
        listed
            .windows(2)
            .all(|pair| created(&pair[0]) >= created(&pair[1]))
    );
    assert!(matches!(jobs.list(101, ""), Err(Error::PageSize)));
    assert!(matches!(jobs.list(2, "made up"), Err(Error::PageToken)));
}

fn open(training: Training, folder: &Path, stop: &CancellationToken) -> Jobs<Training> {
    let settings = Settings {
        service_name: "trainer".to_owned(),
        job_kind: "training",
        folder: folder.join("jobs"),
        queue_capacity: 2,
        kept_jobs: 100,
    };
    Jobs::open(training, settings, stop.clone()).expect("a fresh folder")
}

fn steps(count: u32) -> Spec {
    Spec { step_count: count }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Spec {
    step_count: u32,
}

#[derive(Debug, thiserror::Error)]
#[error("the data is bad")]
struct Failure;

impl ServiceError for Failure {
    fn kind(&self) -> Kind {
        Kind::FailedPrecondition
    }
}

const FAILING: u32 = 100;
const PANICKING: u32 = 101;

/// Waits for the test to say go, reports its steps, and ends with ten times their number.
#[derive(Debug)]
struct Training {
    begun: mpsc::UnboundedSender<(String, Task<Training>)>,
    go: Arc<Notify>,
}

type Begun = mpsc::UnboundedReceiver<(String, Task<Training>)>;

impl Training {
    fn new() -> (Self, Begun) {
        let (begun, seen) = mpsc::unbounded_channel();
        (
            Self {
                begun,
                go: Arc::default(),
            },
            seen,
        )
    }
}

impl Work for Training {
    type Spec = Spec;
    type Progress = u32;
    type Result = u32;
    type Error = Failure;

    async fn run(self: Arc<Self>, task: Task<Self>) -> Result<u32, Failure> {
        let _the_test_may_not_care = self.begun.send((task.id().to_owned(), task.clone()));
        tokio::select! {
            () = self.go.notified() => {}
            () = task.cancelled().cancelled_owned() => return Err(Failure),
        }
        match task.spec().step_count {
            FAILING => return Err(Failure),
            PANICKING => panic!("as asked"),
            count => (1..=count).for_each(|step| task.report(step)),
        }
        Ok(task.spec().step_count * 10)
    }
}
