//! Who writes the conversations.

pub(crate) mod author;
pub(crate) mod grammar;

use crate::{
    error::Error,
    request::{Item, Style},
};
use proto::dataset::v1::{Conversation, ModelInfo};

/// A writer of conversations.
#[tonic::async_trait]
pub(crate) trait DialogueWriter: Send + Sync + 'static {
    /// Name, as in `Capabilities.backend`.
    fn name(&self) -> &'static str;

    /// The model behind it, where there is one.
    fn model(&self) -> Option<ModelInfo> {
        None
    }

    /// What it offers beyond every writer, as in `Capabilities.features`.
    fn features(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Most items worth writing at a time.
    fn max_concurrency(&self) -> usize {
        1
    }

    /// Returns once it can write.
    async fn warm_up(&self) -> Result<(), Error> {
        Ok(())
    }

    /// One conversation, decided by the item and the style alone.
    async fn write(&self, item: &Item, style: &Style) -> Result<Conversation, Error>;
}
