//! What making benchmarks needs to be jobs that callers see.

use proto::{eval::v1 as pb, job::v1::Job};
use runtime::jobs::Snapshot;

use super::jobs::Kind;
use crate::{error::Error, making::Making, places::Places, spec::BenchmarkSpec};

impl Kind for Making {
    type Message = pb::BenchmarkJob;

    fn check(places: &Places, spec: &BenchmarkSpec) -> Result<(), Error> {
        places.abilities()?;
        for data in std::iter::once(&spec.source).chain(&spec.training_data) {
            places.roots().locate(&data.uri)?;
        }
        places.output(&spec.output).map(drop)
    }

    fn message(snapshot: &Snapshot<Self>) -> pb::BenchmarkJob {
        let job = &snapshot.job;
        pb::BenchmarkJob {
            job: Some(Job::from(snapshot)),
            spec: Some(job.spec.clone().into()),
            result: job.result.clone().map(Into::into),
        }
    }
}
