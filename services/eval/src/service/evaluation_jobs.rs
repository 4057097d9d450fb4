//! What evaluations need to be jobs that callers see.

use proto::{eval::v1 as pb, job::v1::Job};
use runtime::jobs::Snapshot;

use super::jobs::Kind;
use crate::{
    error::Error,
    evaluation::{Evaluations, Progress},
    places::Places,
    spec::EvaluationSpec,
};

impl Kind for Evaluations {
    type Message = pb::EvaluationJob;

    fn check(places: &Places, spec: &EvaluationSpec) -> Result<(), Error> {
        for candidate in &spec.candidates {
            for model in &candidate.models {
                places.find_model(model)?;
            }
        }
        for benchmark in &spec.benchmarks {
            places.benchmark(benchmark)?;
        }
        places.output(&spec.output).map(drop)
    }

    fn message(snapshot: &Snapshot<Self>) -> pb::EvaluationJob {
        let job = &snapshot.job;
        pb::EvaluationJob {
            job: Some(Job::from(snapshot)),
            spec: Some(job.spec.clone().into()),
            progress: job.progress.map(Into::into),
            result: job.result.clone().map(Into::into),
        }
    }
}

impl From<Progress> for pb::EvaluationProgress {
    fn from(progress: Progress) -> Self {
        let Progress {
            done_question_count,
            question_count,
            remaining_seconds,
        } = progress;
        Self {
            done_question_count,
            question_count,
            remaining_seconds,
        }
    }
}
