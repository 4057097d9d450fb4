//! An answer as it comes.

use crate::{
    Client, Error,
    answer::Events,
    completion::Completion,
    message::Chat,
    price::Tariff,
    rate::{Outcome, Permit},
};

/// An answer on its way. Read it with [`next`](Self::next) and end with [`finish`](Self::finish);
/// dropping it ends the request.
#[derive(Debug)]
pub struct AnswerStream {
    client: Client,
    chat: Chat,
    events: Events,
    permit: Option<Permit>,
}

impl AnswerStream {
    pub(crate) fn new(client: Client, chat: &Chat, events: Events, permit: Permit) -> Self {
        Self {
            client,
            chat: chat.clone(),
            events,
            permit: Some(permit),
        }
    }

    /// What comes next of the text; `None` at its end. Cancelling the wait loses nothing. A key that the
    /// server quotes in one piece is blotted out; one that it spreads over several is so in
    /// [`finish`](Self::finish) alone.
    ///
    /// # Errors
    /// A connection that breaks, silence beyond the idle time-out, an answer that is too large.
    /// Nothing comes after an error.
    pub async fn next(&mut self) -> Result<Option<String>, Error> {
        if self.permit.is_none() {
            return Ok(None);
        }
        let client = &self.client;
        let next = self.events.next().await;
        let next = next.map(|text| text.map(|text| client.hide(&text)));
        let next = next.map_err(|error| error.hiding(|text| client.hide(text)));
        if let Err(error) = &next
            && let Some(permit) = self.permit.take()
        {
            self.client.failed(permit, error);
        }
        next
    }

    /// The whole answer, with what it took. Reads what has not been read.
    ///
    /// # Errors
    /// Those of [`next`](Self::next), and those of [`Completion::whole`].
    pub async fn finish(mut self) -> Result<Completion, Error> {
        while self.next().await?.is_some() {}
        let Some(permit) = self.permit.take().filter(|_| self.events.is_done()) else {
            let received_bytes = self.events.into_answer().text.len();
            let reason = "it was ended by an earlier error".to_owned();
            return Err(Error::Cut {
                received_bytes,
                reason,
            });
        };
        let answer = self.events.into_answer();
        let completion = self.client.settle(&self.chat, answer, Tariff::Single);
        let tokens = completion.usage.total_tokens();
        permit.finish(Outcome::Answered { tokens });
        completion.whole()
    }
}
