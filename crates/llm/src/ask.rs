//! Who can be asked, and what can be asked of them.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::{
    Error,
    completion::Completion,
    message::Chat,
    schema::Schema,
    structured::{Structured, structured},
};

/// Answers questions: a [`Client`](crate::Client), or one with a journal before it.
pub trait Ask: Sync {
    /// The answer, whatever it is worth: it may be cut at the bound on tokens, or declined.
    ///
    /// # Errors
    /// What stands in the way of an answer, after all retries.
    fn ask(&self, chat: &Chat) -> impl Future<Output = Result<Completion, Error>> + Send;

    /// Requests for a corrected answer where one does not fit its schema.
    fn max_repairs(&self) -> u32;

    /// An answer to use.
    ///
    /// # Errors
    /// As for [`ask`](Self::ask), and what [`Completion::whole`] refuses.
    fn complete(&self, chat: &Chat) -> impl Future<Output = Result<Completion, Error>> + Send {
        async move { self.ask(chat).await?.whole() }
    }

    /// An answer that fits a schema, as a value. See [`structured`].
    ///
    /// # Errors
    /// As for [`complete`](Self::complete), and an answer that does not fit after all repairs.
    fn structured<T: DeserializeOwned + Send>(
        &self,
        chat: &Chat,
        schema: &Arc<Schema>,
    ) -> impl Future<Output = Result<Structured<T>, Error>> + Send
    where
        Self: Sized,
    {
        structured(self, chat, schema)
    }
}
