//! One evaluation: every candidate sits every benchmark, with its pictures and with others'.

use std::{path::Path, sync::Arc, time::Instant};

use runtime::{artefact::write_atomic, jobs};
use serde::{Deserialize, Serialize};

use crate::{
    answering::{Answering, BATCH_SIZE, Model, blocking},
    error::Error,
    paper::Paper,
    places::Places,
    publishing::publish,
    results::Outcome,
    spec::{EvaluationSpec, ModelRef},
};

/// Runs evaluations.
#[derive(Debug)]
pub(crate) struct Evaluations {
    /// Models.
    pub(crate) answering: Arc<Answering>,
    /// Where things lie.
    pub(crate) places: Arc<Places>,
}

/// How far an evaluation is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Questions answered, shuffled ones included.
    pub(crate) done_question_count: u64,
    /// Questions in all.
    pub(crate) question_count: u64,
    /// Seconds until the end at the present speed.
    pub(crate) remaining_seconds: f64,
}

impl jobs::Work for Evaluations {
    type Spec = EvaluationSpec;
    type Progress = Progress;
    type Result = Outcome;
    type Error = Error;

    async fn run(self: Arc<Self>, task: jobs::Task<Self>) -> Result<Outcome, Error> {
        let places = Arc::clone(&self.places);
        let spec = task.spec().clone();
        let (papers, output) = blocking(move || {
            let papers = spec
                .benchmarks
                .iter()
                .map(|reference| Paper::open(&places, &spec, reference).map(Arc::new));
            Ok::<_, Error>((
                papers.collect::<Result<Vec<_>, _>>()?,
                places.output(&spec.output)?,
            ))
        })
        .await??;
        let sitting = Exam::new(&self, &task, &papers).sit().await?;
        if !task.is_owner() {
            return Err(Error::Cancelled);
        }
        let (spec, places) = (task.spec().clone(), Arc::clone(&self.places));
        blocking(move || publish(&places, &spec, &papers, sitting, &output)).await?
    }
}

/// Words to the questions of one paper by one model in one condition, in their order. The empty
/// string where the model could not be asked.
pub(crate) type Texts = Vec<String>;

/// Where a set of answers belongs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seat {
    /// Index among the candidates.
    pub(crate) candidate: usize,
    /// Index among the candidate's models.
    pub(crate) replica: usize,
    /// Index among the benchmarks.
    pub(crate) paper: usize,
    /// Whether the pictures are shuffled.
    pub(crate) is_shuffled: bool,
}

/// All answers of an evaluation under way.
struct Exam<'a> {
    answering: &'a Arc<Answering>,
    places: &'a Arc<Places>,
    task: &'a jobs::Task<Evaluations>,
    papers: &'a [Arc<Paper>],
    started_at: Instant,
    done: u64,
    resumed: u64,
}

impl<'a> Exam<'a> {
    fn new(
        work: &'a Evaluations,
        task: &'a jobs::Task<Evaluations>,
        papers: &'a [Arc<Paper>],
    ) -> Self {
        let Evaluations { answering, places } = work;
        Self {
            answering,
            places,
            task,
            papers,
            started_at: Instant::now(),
            done: 0,
            resumed: 0,
        }
    }

    async fn sit(mut self) -> Result<Vec<(Seat, Texts)>, Error> {
        self.report();
        let mut all = Vec::new();
        for (candidate, entry) in self.task.spec().candidates.iter().enumerate() {
            for (replica, reference) in entry.models.iter().enumerate() {
                let model = self.load(reference, &entry.name).await?;
                for (paper, sheet) in self.papers.iter().enumerate() {
                    for &is_shuffled in sheet.conditions() {
                        let seat = Seat {
                            candidate,
                            replica,
                            paper,
                            is_shuffled,
                        };
                        all.push((seat, self.answers(seat, &model).await?));
                    }
                }
            }
        }
        Ok(all)
    }

    async fn load(&self, reference: &ModelRef, name: &str) -> Result<Arc<Model>, Error> {
        let (places, reference) = (Arc::clone(self.places), reference.clone());
        let folder = blocking(move || places.model(&reference)).await??;
        self.answering.load(name.to_owned(), folder).await
    }

    /// The answers of one seat: what an earlier owner of the job left, or new ones.
    async fn answers(&mut self, seat: Seat, model: &Arc<Model>) -> Result<Texts, Error> {
        let paper = Arc::clone(&self.papers[seat.paper]);
        let count = paper.questions().len();
        let kept = self.task.folder().join(seat.file_name(model, &paper));
        if let Some(texts) = read_kept(&kept, count) {
            self.done += count as u64;
            self.resumed += count as u64;
            return Ok(texts);
        }
        let mut texts = Vec::with_capacity(count);
        while texts.len() < count {
            let batch = texts.len()..(texts.len() + BATCH_SIZE).min(count);
            texts.extend(self.batch(&paper, batch, seat, model).await?);
            self.report();
        }
        let json =
            serde_json::to_vec(&texts).map_err(|error| Error::Internal(error.to_string()))?;
        write_atomic(&kept, &json).map_err(Error::io("write", &kept))?;
        Ok(texts)
    }

    async fn batch(
        &mut self,
        paper: &Arc<Paper>,
        questions: std::ops::Range<usize>,
        seat: Seat,
        model: &Arc<Model>,
    ) -> Result<Texts, Error> {
        let (paper, count) = (Arc::clone(paper), questions.len() as u64);
        let asks = blocking(move || paper.asks(questions, seat.is_shuffled)).await??;
        let limit = self.task.spec().max_new_token_count;
        let cancelled = self.task.cancelled();
        let outcomes = self
            .answering
            .answer(model, asks, limit, &cancelled)
            .await?;
        self.done += count;
        let text =
            |outcome: crate::answering::Outcome| outcome.map_or_else(unasked, |answer| answer.text);
        Ok(outcomes.into_iter().map(text).collect())
    }

    fn report(&self) {
        let per_model: usize = self
            .papers
            .iter()
            .map(|paper| paper.questions().len() * paper.conditions().len())
            .sum();
        let models: usize = self
            .task
            .spec()
            .candidates
            .iter()
            .map(|candidate| candidate.models.len())
            .sum();
        let question_count = (per_model * models) as u64;
        let answered = (self.done - self.resumed).max(1) as f64;
        let left = question_count.saturating_sub(self.done) as f64;
        let remaining_seconds = self.started_at.elapsed().as_secs_f64() / answered * left;
        self.task.report(Progress {
            done_question_count: self.done,
            question_count,
            remaining_seconds,
        });
    }
}

impl Seat {
    /// Answers are kept under what decides them, so that a changed model or paper finds none.
    fn file_name(self, model: &Model, paper: &Paper) -> String {
        let condition = if self.is_shuffled { "shuffled" } else { "own" };
        format!(
            "answers-{:.16}-{:.16}-{condition}.json",
            model.sha256(),
            paper.sha256()
        )
    }
}

/// A question that the model cannot take (a prompt beyond its positions) is a wrong answer.
fn unasked(error: Arc<Error>) -> String {
    tracing::warn!(
        error = runtime::error::chain(error.as_ref()),
        "a question could not be asked"
    );
    String::new()
}

fn read_kept(path: &Path, count: usize) -> Option<Texts> {
    let texts: Texts = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    (texts.len() == count).then_some(texts)
}
