//! The calls about jobs, the same for every kind of them.

use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use runtime::{
    artefact,
    jobs::{Jobs, Settings, Snapshot, Work},
};
use tokio_util::sync::CancellationToken;

use crate::{answering::blocking, error::Error, places::Places};

/// A kind of job.
pub(super) trait Kind: Work<Spec: PartialEq> {
    /// A job as its callers see it.
    type Message;

    /// Looks whether what the spec names is there; reads the disk.
    fn check(places: &Places, spec: &Self::Spec) -> Result<(), Error>;

    /// Says how a job stands.
    fn message(snapshot: &Snapshot<Self>) -> Self::Message;
}

/// Takes and answers calls about the jobs of one kind.
#[derive(Debug)]
pub(super) struct Desk<K: Kind> {
    /// None without an artefact root to keep them under.
    jobs: Option<Jobs<K>>,
    places: Arc<Places>,
}

impl<K: Kind> Desk<K> {
    /// Takes up the jobs that an earlier process left.
    pub(super) fn open(
        work: K,
        settings: Option<Settings>,
        places: Arc<Places>,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let open = |settings| Jobs::open(work, settings, stop);
        let jobs = settings.map(open).transpose()?;
        Ok(Self { jobs, places })
    }

    /// Cancelled when the running job has saved itself, after the stop.
    pub(super) fn ended(&self) -> Option<CancellationToken> {
        self.jobs.as_ref().map(Jobs::ended)
    }

    /// The job of `request_id`. One that is known is given as it stands, even where a folder that
    /// its spec names has gone since.
    pub(super) async fn create<P>(
        &self,
        request_id: &str,
        spec: Option<P>,
    ) -> Result<K::Message, Error>
    where
        K::Spec: TryFrom<P, Error = Error>,
    {
        let spec = spec.ok_or_else(|| Error::invalid("spec", "must be given"))?;
        let spec = K::Spec::try_from(spec)?;
        let jobs = self.jobs()?;
        if let Some(known) = jobs.find(request_id).filter(|known| known.job.spec == spec) {
            return Ok(K::message(&known));
        }
        let places = Arc::clone(&self.places);
        let spec = blocking(move || K::check(&places, &spec).map(|()| spec)).await??;
        Ok(K::message(&jobs.create(request_id, spec).await?))
    }

    pub(super) fn get(&self, id: &str) -> Result<K::Message, Error> {
        Ok(K::message(&self.jobs()?.get(id)?))
    }

    /// A page of jobs, and the token of the next page.
    pub(super) fn list(
        &self,
        page_size: u32,
        page_token: &str,
    ) -> Result<(Vec<K::Message>, String), Error> {
        let page = self.jobs()?.list(page_size, page_token)?;
        let jobs = page.jobs.iter().map(K::message).collect();
        Ok((jobs, page.next_page_token))
    }

    pub(super) async fn cancel(&self, id: &str) -> Result<K::Message, Error> {
        Ok(K::message(&self.jobs()?.cancel(id).await?))
    }

    /// The job as it changes, to its end or until the service drains.
    pub(super) fn watch(
        &self,
        id: &str,
        draining: CancellationToken,
    ) -> Result<impl Stream<Item = K::Message> + Send + use<K>, Error> {
        let changes = self.jobs()?.watch(id)?;
        let messages = changes.map(|snapshot| K::message(&snapshot));
        Ok(messages.take_until(draining.cancelled_owned()))
    }

    fn jobs(&self) -> Result<&Jobs<K>, Error> {
        self.jobs
            .as_ref()
            .ok_or_else(|| artefact::Error::NoRoot.into())
    }
}
