//! A server that bears so many requests at a time and refuses the rest, and fails every so often in
//! every other way. It counts what it delivers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{Asked, End, Reply, Server, answer, completion, refusal};

/// What the server did, and what it bears now.
#[derive(Default)]
pub struct Counts {
    pub bears: AtomicUsize,
    pub refused: AtomicU64,
    pub broken: AtomicU64,
    /// Answers that went out whole, and their tokens.
    pub answers: AtomicU64,
    pub prompt_tokens: AtomicU64,
    pub completion_tokens: AtomicU64,
}

impl Counts {
    pub fn get(&self, which: impl Fn(&Self) -> &AtomicU64) -> u64 {
        which(self).load(Ordering::SeqCst)
    }
}

/// Every so-manieth request fails, by prime numbers, so that the kinds mix.
const FAILS_EVERY: usize = 17;
const CUTS_EVERY: usize = 23;
const HALVES_EVERY: usize = 29;
const MISSHAPES_EVERY: usize = 31;

/// Starts the server. The answer to a question repeats the question.
pub async fn start(bears: usize, latency: Duration) -> (Server, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    counts.bears.store(bears, Ordering::SeqCst);
    let kept = Arc::clone(&counts);
    let server = Server::with_latency(latency, move |asked| kept.reply(asked)).await;
    (server, counts)
}

impl Counts {
    fn reply(&self, asked: &Asked) -> Reply {
        let number = asked.number + 1;
        if asked.in_flight > self.bears.load(Ordering::SeqCst) {
            let refused = self.refused.fetch_add(1, Ordering::SeqCst);
            // Every other refusal says when to come back.
            let headers = match refused % 2 {
                0 => vec![("retry-after-ms", "10".to_owned())],
                _ => Vec::new(),
            };
            return Reply::Whole(429, headers, "too many".to_owned());
        }
        let text = asked.text(0);
        let prompt_tokens = text.len() as u64;
        let completion_tokens = 1 + prompt_tokens % 7;
        let whole = completion(&text, "stop", prompt_tokens, completion_tokens).to_string();
        let half = whole[..whole.len() / 2].to_owned();
        let broken = match number {
            _ if number.is_multiple_of(FAILS_EVERY) => Some(refusal(500, "oops")),
            _ if number.is_multiple_of(CUTS_EVERY) => {
                Some(Reply::Pieces("application/json", vec![half], End::Cut))
            }
            _ if number.is_multiple_of(HALVES_EVERY) => Some(Reply::Whole(200, Vec::new(), half)),
            _ if number.is_multiple_of(MISSHAPES_EVERY) => {
                Some(Reply::Whole(200, Vec::new(), "{\"choices\": 1}".to_owned()))
            }
            _ => None,
        };
        if let Some(broken) = broken {
            self.broken.fetch_add(1, Ordering::SeqCst);
            return broken;
        }
        self.answers.fetch_add(1, Ordering::SeqCst);
        self.prompt_tokens
            .fetch_add(prompt_tokens, Ordering::SeqCst);
        self.completion_tokens
            .fetch_add(completion_tokens, Ordering::SeqCst);
        answer(&text, prompt_tokens, completion_tokens)
    }
}
