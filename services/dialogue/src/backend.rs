//! Who writes the conversations.

pub(crate) mod grammar;

use crate::{
    error::Error,
    request::{Item, Style},
};
use proto::dataset::v1::Conversation;

/// A writer of conversations.
#[tonic::async_trait]
pub(crate) trait DialogueWriter: Send + Sync + 'static {
    /// Name, as in `Capabilities.backend`.
    fn name(&self) -> &'static str;

    /// One conversation, decided by the item and the style alone.
    async fn write(&self, item: &Item, style: &Style) -> Result<Conversation, Error>;
}
