//! Language models as services ask them, wherever they are; and the client of remote ones: chat
//! completions of any OpenAI-compatible server (vLLM, Ollama, llama.cpp, `transformers serve`, hosted
//! ones), text and pictures.
//!
//! * [`language_model`]: the seam that services ask through, a [`Remote`] model behind it or a [`Local`]
//!   one, of the crate `models`; `status` says what each failure is to the caller of a service.
//! * [`Client`], [`Ask`]: ask, and get a whole answer, a value that fits a schema, or a stream.
//! * [`message`], [`completion`]: what goes in and what comes out.
//! * `rate`, `retry`: how much is asked, and when again. Nothing waits without a bound.
//! * [`schema`], [`structured`](mod@structured): JSON, validated and repaired.
//! * [`price`], [`accounting`]: tokens and costs.
//! * [`journal`]: answers kept before they are used.
//! * [`batch`]: the provider's own batches.
//!
//! ```no_run
//! # async fn example(options: llm::Options) -> Result<(), llm::Error> {
//! use llm::{Ask as _, Chat, Client, Journal, Message};
//!
//! let client = Client::new(&options)?;
//! let journal = Journal::open("answers.jsonl").await?;
//! let chat = Chat::new(vec![Message::user("Describe a red fox.")]).with_seed(7);
//! let answer = client.journaled(&journal, "sample 12, attempt 0").complete(&chat).await?;
//! println!("{}: {} tokens", answer.text, answer.usage.total_tokens());
//! # Ok(())
//! # }
//! ```

pub mod accounting;
mod answer;
mod ask;
pub mod batch;
mod call;
mod client;
pub mod completion;
mod dialect;
mod error;
pub mod journal;
pub mod language_model;
mod lines;
mod local_options;
pub mod message;
pub mod options;
mod place;
pub mod price;
mod rate;
mod retry;
pub mod schema;
mod secret;
mod sha256;
mod status;
mod stream;
pub mod structured;
mod transport;
mod wire;

pub use accounting::Totals;
pub use ask::Ask;
pub use client::Client;
pub use completion::{Completion, FinishReason, Usage};
pub use error::Error;
pub use journal::Journal;
pub use language_model::{LanguageModel, Local, Question, Remote};
pub use local_options::LocalOptions;
pub use message::{Chat, Content, Format, Message, Picture, Role};
pub use options::Options;
pub use price::Cost;
pub use schema::Schema;
pub use secret::Secret;
pub use stream::AnswerStream;
pub use structured::{Structured, structured};
