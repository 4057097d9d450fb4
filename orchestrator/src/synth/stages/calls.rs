//! How a stage is asked: in as many calls as it takes, never without an end.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use proto::dataset::v1::ItemFailure;
use runtime::{error::retry_after, explain};
use tonic::{Code, Status, Streaming};

use crate::bad_input::complaint;

/// What came of one item, by its id.
pub(crate) type Outcomes<T> = HashMap<String, Result<T, ItemFailure>>;

/// What one message of a result stream says of an item.
pub(in crate::synth) enum Message<T> {
    /// Nothing final.
    Pending,
    /// The item's result.
    Done(String, Result<T, ItemFailure>),
}

/// Tries in which a stage must bring at least one new item before the run gives up on it: about
/// two minutes, in which a service can be restarted.
const FRUITLESS_TRIES: u32 = 14;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The longest silence of a stage, in its answer or between two messages of it. A checkpoint of many
/// billions may take minutes for a picture on a CPU; a stage that hangs would take for ever.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// The pause before the next try: longer each time, or as long as the service asked for.
fn pause(fruitless: u32, status: Option<&Status>) -> Duration {
    let backoff = FIRST_PAUSE.saturating_mul(1 << (fruitless - 1).min(16));
    let asked = status.and_then(retry_after);
    asked.unwrap_or(backoff).min(LONGEST_PAUSE)
}

/// Collects one result per item over as many calls as it takes.
pub(super) async fn collect<I, T, M, Call, Reply>(
    stage: &str,
    items: Vec<I>,
    id: impl Fn(&I) -> &String,
    call: Call,
    read: impl Fn(M) -> Message<T>,
) -> Result<Outcomes<T>>
where
    I: Clone,
    Call: Fn(Vec<I>) -> Reply,
    Reply: Future<Output = Result<Streaming<M>, Status>>,
{
    let mut outcomes = Outcomes::new();
    let mut fruitless = 0;
    loop {
        let missing: Vec<I> = items
            .iter()
            .filter(|item| !outcomes.contains_key(id(item)))
            .cloned()
            .collect();
        if missing.is_empty() {
            return Ok(outcomes);
        }
        let before = outcomes.len();
        let is_last_try = fruitless + 1 == FRUITLESS_TRIES;
        let mut wanted: HashSet<String> = missing.iter().map(|item| id(item).clone()).collect();
        let keep = |id: String, outcome: Result<T, ItemFailure>| {
            let is_worth_another = |failure: &ItemFailure| failure.retryable && !is_last_try;
            if outcome.as_ref().is_err_and(is_worth_another) {
                return;
            }
            // An id that nobody asked for, or that came before, brings nothing.
            if wanted.remove(&id) {
                outcomes.insert(id, outcome);
            }
        };
        let status = match patient(call(missing)).await {
            Ok(stream) => drain(stream, &read, keep).await.err(),
            Err(status) => Some(status),
        };
        if let Some(status) = &status
            && !is_worth_retrying(status)
        {
            return Err(complaint(status)).context(StageFailed(stage.to_owned()));
        }
        fruitless = if outcomes.len() > before {
            0
        } else {
            fruitless + 1
        };
        if fruitless == FRUITLESS_TRIES {
            let why = status
                .as_ref()
                .map_or_else(|| "it ended its stream early".to_owned(), explain);
            return Err(anyhow!("{why}")).context(StageFailed(stage.to_owned()));
        }
        if fruitless > 0 {
            tokio::time::sleep(pause(fruitless, status.as_ref())).await;
        }
    }
}

async fn drain<T, M>(
    mut stream: Streaming<M>,
    read: impl Fn(M) -> Message<T>,
    mut keep: impl FnMut(String, Result<T, ItemFailure>),
) -> Result<(), Status> {
    while let Some(message) = patient(stream.message()).await? {
        if let Message::Done(id, outcome) = read(message) {
            keep(id, outcome);
        }
    }
    Ok(())
}

/// What a stage answers, unless it says nothing for too long.
async fn patient<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let minutes = PATIENCE.as_secs() / 60;
    let silent = || format!("it said nothing for {minutes} minutes; see its log, then run again");
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    answer.unwrap_or_else(|_| Err(Status::deadline_exceeded(silent())))
}

/// One call that is tried again while the service is away or full.
pub(in crate::synth) async fn unary<R, Reply>(stage: &str, call: impl Fn() -> Reply) -> Result<R>
where
    Reply: Future<Output = Result<tonic::Response<R>, Status>>,
{
    let mut tries = 0;
    loop {
        match patient(call()).await {
            Ok(reply) => return Ok(reply.into_inner()),
            Err(status) if is_worth_retrying(&status) && tries + 1 < FRUITLESS_TRIES => {
                tries += 1;
                tokio::time::sleep(pause(tries, Some(&status))).await;
            }
            Err(status) => {
                let unimplemented = status.code() == Code::Unimplemented;
                let error = anyhow!("{}", explain(&status)).context(StageFailed(stage.to_owned()));
                return Err(if unimplemented {
                    error.context(Unimplemented)
                } else {
                    error
                });
            }
        }
    }
}

pub(in crate::synth) fn is_worth_retrying(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::ResourceExhausted | Code::Aborted
    )
}

pub(in crate::synth) fn is_unimplemented(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Unimplemented>().is_some()
}

/// Which stage failed.
#[derive(Debug, thiserror::Error)]
#[error("{0} failed")]
struct StageFailed(String);

/// The endpoint does not offer the call.
#[derive(Debug, thiserror::Error)]
#[error("the endpoint does not offer this")]
struct Unimplemented;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stage_that_hangs_is_given_up_on_and_a_slow_one_is_not() {
        let hanging = patient(std::future::pending::<Result<(), Status>>());
        let status = hanging.await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(!is_worth_retrying(&status));
        let slow = async {
            tokio::time::sleep(PATIENCE / 2).await;
            Ok(7)
        };
        assert_eq!(patient(slow).await.unwrap(), 7);
    }
}
