//! Who writes the prompts.

pub(crate) mod author;
pub(crate) mod grammar;
mod set_orders;
mod sets;

use crate::{
    error::Error,
    request::{Item, Wanted},
};
use proto::dataset::v1::{ModelInfo, Prompt};
use tokio_util::sync::CancellationToken;

/// A writer of prompts. A back-end that asks a language model gets the ability's
/// cautions and examples with the same request.
#[tonic::async_trait]
pub(crate) trait PromptWriter: Send + Sync + 'static {
    /// Name, as in `Capabilities.backend`.
    fn name(&self) -> &'static str;

    /// The model behind it, where there is one.
    fn model(&self) -> Option<ModelInfo> {
        None
    }

    /// Most items worth writing at a time.
    fn max_concurrency(&self) -> usize {
        1
    }

    /// Returns once it can write.
    async fn warm_up(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Everything besides the item that decides the prompts of a request, as a text:
    /// part of the key under which they are cached.
    fn fingerprint(&self, wanted: &Wanted) -> Result<String, Error>;

    /// Prepares the prompts of a request, which computes: call it away from the threads that serve. The
    /// result answers for every item by
    /// itself, so that any subset asked again gives equal prompts. It ends with [`Error::Left`] soon after
    /// `left` is cancelled.
    fn prepare(
        &self,
        wanted: &Wanted,
        left: &CancellationToken,
    ) -> Result<Box<dyn Prepared>, Error>;
}

/// A request ready to be answered item by item.
#[tonic::async_trait]
pub(crate) trait Prepared: Send + Sync {
    /// The prompt of one item.
    async fn write(&self, item: &Item) -> Result<Prompt, Error>;
}
