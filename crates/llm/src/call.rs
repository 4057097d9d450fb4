//! Other calls of the same kind of server, such as `images/generations`: with the turns, the attempts
//! and the refusals of a question.

use serde::Serialize;

use crate::{Client, Error, rate::Outcome};

impl Client {
    /// Posts `body` to `path` under the server's address, and makes of the answer what `read` says.
    /// [`Error::Malformed`] of `read` costs an attempt, as a broken connection does.
    ///
    /// # Errors
    /// As for [`Ask::ask`](crate::Ask::ask), and those of `read`.
    pub async fn call<B: Serialize, T>(
        &self,
        path: &str,
        body: &B,
        read: impl Fn(&[u8]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.persist(|| self.attempt_call(path, body, &read)).await
    }

    async fn attempt_call<B: Serialize, T>(
        &self,
        path: &str,
        body: &B,
        read: impl Fn(&[u8]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // One token: what such a call takes is not counted in any.
        let permit = self.limiter().acquire(1).await?;
        let exchange = async {
            let answer = self.transport().post(path, body).await?;
            read(&answer.whole().await?)
        };
        match self.in_time(exchange).await {
            Ok(value) => {
                permit.finish(Outcome::Answered { tokens: 1 });
                Ok(value)
            }
            Err(error) => {
                self.failed(permit, &error);
                Err(error)
            }
        }
    }
}
