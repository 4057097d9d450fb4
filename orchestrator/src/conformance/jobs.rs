//! Rules of long work, which trainer and eval have alike: create, get, list, cancel, watch.

use std::path::PathBuf;

use proto::{
    dataset::v1::Artefact,
    job::v1::{Job, JobState},
};
use runtime::artefact::digest;
use tempfile::TempDir;
use tonic::Status;
use url::Url;

use super::{
    Case,
    ledger::{Ledger, Miss, Refusal, Rule, Seen, holds, is_sha256},
    manners,
};

/// One job as a call gave it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Slip {
    pub(super) job: Job,
    /// What it left, once it succeeded.
    pub(super) result: Option<Artefact>,
}

/// The calls about one kind of job.
pub(super) trait Desk {
    /// What to do.
    type Spec: Clone;
    /// Such as `training`, for the names of rules.
    const KIND: &'static str;

    async fn create(&self, request_id: &str, spec: Option<Self::Spec>) -> Result<Slip, Status>;
    async fn get(&self, id: &str) -> Result<Slip, Status>;
    async fn list(&self, page_size: u32, page_token: String)
    -> Result<(Vec<Slip>, String), Status>;
    async fn cancel(&self, id: &str) -> Result<Slip, Status>;
    async fn watch(&self, id: &str) -> Result<Vec<Slip>, Status>;
}

/// Specifications to try a desk with.
#[derive(Debug, Clone)]
pub(super) struct Trials<S> {
    /// Ends well, soon.
    pub(super) short: S,
    /// Another one.
    pub(super) other: S,
    /// Would last, if it were not cancelled.
    pub(super) long: S,
    /// Names a model that nobody serves.
    pub(super) unknown_model: S,
    /// Writes to a place that the operator did not name.
    pub(super) outside: S,
}

/// Why there is nothing to try a desk with.
pub(super) const NO_FOLDER: &str =
    "needs files: pass --folder with a folder that the service may read and write";

/// A folder for the files of one run of the rules; it goes when this is dropped.
pub(super) fn scratch(case: &Case) -> Result<TempDir, Miss> {
    let unfit = |why: String| Miss::not_judged(why);
    let Some(folder) = &case.folder else {
        return Err(unfit(NO_FOLDER.to_owned()));
    };
    let absolute = std::path::absolute(folder);
    let made = absolute.and_then(|folder| {
        tempfile::Builder::new()
            .prefix("conformance-")
            .tempdir_in(folder)
    });
    made.map_err(|error| unfit(format!("cannot write to {}: {error}", folder.display())))
}

/// A request id that nobody has used: the folder's own name, which is made anew each time.
pub(super) fn name(scratch: &Result<TempDir, Miss>) -> String {
    let path = scratch
        .as_ref()
        .ok()
        .and_then(|folder| folder.path().file_name());
    path.map_or("conformance".into(), |name| name.to_string_lossy())
        .into_owned()
}

/// Judges the calls about jobs; with `trials`, the jobs too. `name` is the first request id.
pub(super) async fn judge<D: Desk>(
    ledger: &mut Ledger,
    desk: &D,
    name: &str,
    trials: Result<Trials<D::Spec>, Miss>,
) {
    let rule = |what: &str| format!("{}_{what}", D::KIND);
    let absent = "no-such-job";
    ledger
        .refused(
            Refusal::not_found(rule("get_unknown"), "Getting a job that does not exist"),
            desk.get(absent),
        )
        .await;
    ledger
        .refused(
            Refusal::not_found(
                rule("cancel_unknown"),
                "Cancelling a job that does not exist",
            ),
            desk.cancel(absent),
        )
        .await;
    ledger
        .refused(
            Refusal::not_found(rule("watch_unknown"), "Watching a job that does not exist"),
            desk.watch(absent),
        )
        .await;
    ledger
        .refused(
            Refusal::invalid(
                rule("without_spec"),
                "Creating a job without a spec",
                "spec",
            ),
            desk.create(name, None),
        )
        .await;
    let run = Run { desk, name };
    run.jobs(ledger, trials).await;
    manners::paging(ledger, D::KIND, async |page_size, page_token| {
        let (slips, next) = desk.list(page_size, page_token).await?;
        Ok((slips.into_iter().map(|slip| slip.job.id).collect(), next))
    })
    .await;
}

struct Run<'a, D> {
    desk: &'a D,
    name: &'a str,
}

impl<D: Desk> Run<'_, D> {
    async fn jobs(&self, ledger: &mut Ledger, trials: Result<Trials<D::Spec>, Miss>) {
        let rule = Rule::must(
            &format!("{}_created", D::KIND),
            "Creating a job returns at once with its id, the request's id and its state.",
            "queue the work, and answer with Job.id, request_id and state",
        );
        let trials = match trials {
            Ok(trials) => trials,
            Err(why) => return ledger.note(rule, Err(why)),
        };
        let created = self
            .desk
            .create(self.name, Some(trials.short.clone()))
            .await;
        let created = created.map_err(|status| self.refused(status));
        if let Err(why @ Miss::NotJudged(_)) = created {
            return ledger.note(rule, Err(why));
        }
        ledger.note(rule, created.clone().and_then(|slip| self.accepted(&slip)));
        self.refusals(ledger, &trials).await;
        if let Ok(created) = created {
            self.followed(ledger, &created, &trials).await;
        }
        let rule = Rule::must(
            &format!("{}_cancelled", D::KIND),
            "A job that is cancelled ends as CANCELLED, and its watch ends with it.",
            "look for the end between steps, and record CANCELLED",
        );
        ledger.judge(rule, self.cancelled(&trials)).await;
    }

    /// Why a job was not taken. Where its folder is not one that the service may use, no rule about
    /// jobs can be looked at.
    fn refused(&self, status: Status) -> Miss {
        let is_of_folder = status.message().contains("root");
        match Miss::from(status) {
            Miss::Broken(sentence) if is_of_folder => Miss::not_judged(format!(
                "needs a --folder under a root of the service (its --artefact-root); it says: {sentence}"
            )),
            miss => miss,
        }
    }

    fn accepted(&self, slip: &Slip) -> Seen {
        let Job { id, request_id, .. } = &slip.job;
        let state = slip.job.state();
        let seen = format!(
            "id {id:?}, request_id {request_id:?}, {}",
            state.as_str_name()
        );
        let whole = !id.is_empty() && request_id == self.name && state != JobState::Unspecified;
        holds(whole, seen.clone()).map(|()| seen)
    }

    async fn refusals(&self, ledger: &mut Ledger, trials: &Trials<D::Spec>) {
        let rule = |what: &str| format!("{}_{what}", D::KIND);
        let short = || Some(trials.short.clone());
        let fresh = format!("{}-refused", self.name);
        ledger
            .refused(
                Refusal::invalid(
                    rule("without_request_id"),
                    "Creating a job without a request_id",
                    "request_id",
                ),
                self.desk.create("", short()),
            )
            .await;
        let long = "x".repeat(129);
        ledger
            .refused(
                Refusal::invalid(
                    rule("long_request_id"),
                    "A request_id over 128 characters",
                    "request_id",
                ),
                self.desk.create(&long, short()),
            )
            .await;
        ledger
            .refused(
                Refusal::not_found(rule("unknown_model"), "A model that is not served"),
                self.desk.create(&fresh, Some(trials.unknown_model.clone())),
            )
            .await;
        ledger
            .refused(
                Refusal::invalid(
                    rule("outside_the_roots"),
                    "An output outside of the roots that the operator named",
                    "spec.output",
                ),
                self.desk.create(&fresh, Some(trials.outside.clone())),
            )
            .await;
        ledger
            .refused(
                Refusal::conflict(
                    rule("id_of_another_spec"),
                    "A request_id that was used with another spec",
                ),
                self.desk.create(self.name, Some(trials.other.clone())),
            )
            .await;
    }

    async fn followed(&self, ledger: &mut Ledger, created: &Slip, trials: &Trials<D::Spec>) {
        let rule = |what: &str, sentence: &str, remedy: &str| {
            Rule::must(&format!("{}_{what}", D::KIND), sentence, remedy)
        };
        let again = async {
            let again = self
                .desk
                .create(self.name, Some(trials.short.clone()))
                .await?;
            holds(
                again.job.id == created.job.id,
                format!("{} and {}", created.job.id, again.job.id),
            )?;
            Ok("the same job".to_owned())
        };
        let sentence = "Creating twice with one request_id and spec gives one job.";
        ledger
            .judge(
                rule(
                    "created_once",
                    sentence,
                    "look the request_id up before you make a job",
                ),
                again,
            )
            .await;
        let sentence = "A watch gives the job as it stands and as it changes, and ends when the job has ended.";
        ledger
            .judge(
                rule(
                    "watched",
                    sentence,
                    "send the present state first, each change, the end last, and close the stream",
                ),
                self.watched(created),
            )
            .await;
        let sentence = "What a job left is there, of the size and hash that its result states.";
        ledger
            .judge(
                rule(
                    "result",
                    sentence,
                    "hash and measure the artefact when it is finished; of a folder, its manifest",
                ),
                self.result(created),
            )
            .await;
        let sentence = "An ended job stays as it ended, in Get, in List and when it is cancelled.";
        ledger
            .judge(
                rule(
                    "end_is_final",
                    sentence,
                    "keep the record, and let Cancel pass over ended jobs",
                ),
                self.ended(created),
            )
            .await;
    }

    async fn watched(&self, created: &Slip) -> Seen {
        let slips = self.desk.watch(&created.job.id).await?;
        let states: Vec<&str> = slips
            .iter()
            .map(|slip| slip.job.state().as_str_name())
            .collect();
        let last = slips
            .last()
            .ok_or_else(|| Miss::broken("it ended without a word"))?;
        let (end, error) = (last.job.state(), &last.job.error);
        holds(
            end == JobState::Succeeded,
            format!(
                "{} after {} messages: {error}",
                end.as_str_name(),
                slips.len()
            ),
        )?;
        holds(last.result.is_some(), "it succeeded without a result")?;
        Ok(format!(
            "{} messages, first {}, last {}",
            states.len(),
            states[0],
            end.as_str_name()
        ))
    }

    async fn result(&self, created: &Slip) -> Seen {
        let left = self.desk.get(&created.job.id).await?.result;
        let left = left.ok_or_else(|| Miss::not_judged("the job has no result"))?;
        let stated = is_sha256(&left.sha256) && left.size_bytes > 0;
        holds(
            stated,
            format!(
                "{}: {} bytes, hash {:?}",
                left.uri, left.size_bytes, left.sha256
            ),
        )?;
        let elsewhere = || Miss::not_judged(format!("{} is not on this machine", left.uri));
        let path = Url::parse(&left.uri)
            .ok()
            .and_then(|url| url.to_file_path().ok());
        let path: PathBuf = path.filter(|path| path.exists()).ok_or_else(elsewhere)?;
        let found = tokio::task::spawn_blocking(move || digest(&path)).await;
        let found = found.map_err(|error| Miss::not_judged(error.to_string()))?;
        let (sha256, size) = found.map_err(|error| Miss::broken(error.to_string()))?;
        let same = sha256 == left.sha256 && size == left.size_bytes;
        holds(
            same,
            format!(
                "stated {} bytes of {}, there are {size} of {sha256}",
                left.size_bytes, left.sha256
            ),
        )?;
        Ok(format!("{size} bytes, hash {}…", &sha256[..16]))
    }

    async fn ended(&self, created: &Slip) -> Seen {
        let id = &created.job.id;
        let before = self.desk.get(id).await?;
        let is_final = matches!(
            before.job.state(),
            JobState::Succeeded | JobState::Failed | JobState::Cancelled
        );
        if !is_final {
            return Err(Miss::not_judged(format!(
                "it is still {}",
                before.job.state().as_str_name()
            )));
        }
        let (listed, _) = self.desk.list(100, String::new()).await?;
        let listed = listed.into_iter().find(|slip| slip.job.id == *id);
        holds(
            listed.as_ref() == Some(&before),
            "List does not give it as Get does",
        )?;
        let cancelled = self.desk.cancel(id).await?;
        holds(
            cancelled == before,
            format!("cancelling made it {}", cancelled.job.state().as_str_name()),
        )?;
        Ok(format!("{} throughout", before.job.state().as_str_name()))
    }

    async fn cancelled(&self, trials: &Trials<D::Spec>) -> Seen {
        let name = format!("{}-long", self.name);
        let created = self.desk.create(&name, Some(trials.long.clone())).await?;
        self.desk.cancel(&created.job.id).await?;
        let slips = self.desk.watch(&created.job.id).await?;
        let end = slips
            .last()
            .map(|slip| slip.job.state())
            .unwrap_or_default();
        match end {
            JobState::Cancelled => Ok("CANCELLED".to_owned()),
            JobState::Succeeded => Err(Miss::not_judged(
                "it had succeeded before it could be cancelled",
            )),
            other => Err(Miss::broken(other.as_str_name())),
        }
    }
}

/// Reads an answer's job, of whichever kind.
macro_rules! desk {
    ($desk:ty, $kind:literal, $spec:ident, $job:ident, $read:expr, [
        $create:ident $Create:ident, $get:ident $Get:ident, $list:ident $List:ident,
        $cancel:ident $Cancel:ident, $watch:ident $Watch:ident
    ]) => {
        impl super::jobs::Desk for $desk {
            type Spec = pb::$spec;
            const KIND: &'static str = $kind;

            async fn create(
                &self,
                request_id: &str,
                spec: Option<pb::$spec>,
            ) -> Result<super::jobs::Slip, tonic::Status> {
                let request_id = request_id.to_owned();
                let reply = self
                    .0
                    .clone()
                    .$create(pb::$Create { request_id, spec })
                    .await?;
                Ok($read(reply.into_inner().job.unwrap_or_default()))
            }

            async fn get(&self, id: &str) -> Result<super::jobs::Slip, tonic::Status> {
                let reply = self.0.clone().$get(pb::$Get { id: id.to_owned() }).await?;
                Ok($read(reply.into_inner().job.unwrap_or_default()))
            }

            async fn list(
                &self,
                page_size: u32,
                page_token: String,
            ) -> Result<(Vec<super::jobs::Slip>, String), tonic::Status> {
                let request = pb::$List {
                    page_size,
                    page_token,
                };
                let page = self.0.clone().$list(request).await?.into_inner();
                Ok((
                    page.jobs.into_iter().map($read).collect(),
                    page.next_page_token,
                ))
            }

            async fn cancel(&self, id: &str) -> Result<super::jobs::Slip, tonic::Status> {
                let reply = self
                    .0
                    .clone()
                    .$cancel(pb::$Cancel { id: id.to_owned() })
                    .await?;
                Ok($read(reply.into_inner().job.unwrap_or_default()))
            }

            async fn watch(&self, id: &str) -> Result<Vec<super::jobs::Slip>, tonic::Status> {
                let request = pb::$Watch { id: id.to_owned() };
                let messages = super::ledger::collect(self.0.clone().$watch(request).await).await?;
                let jobs = messages.into_iter().filter_map(|message| message.job);
                Ok(jobs.map($read).collect())
            }
        }
    };
}
pub(super) use desk;
