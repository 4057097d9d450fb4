//! What a client has used and what that cost, over all its calls.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::{
    Error,
    completion::{Completion, Usage},
    price::{Cost, Price},
};

/// Sums over all answers of a client, those that were thrown away (truncated, not fitting their
/// schema) included: they were paid for too. What comes from a journal is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Model that was asked.
    pub model: String,
    /// Answers that came whole.
    pub answers: u64,
    /// Tokens of these.
    pub usage: Usage,
    /// What these cost, with the price file; `None` without one.
    pub cost: Option<Cost>,
    /// Answers whose tokens the server did not report, and that are in the sums by estimate.
    pub estimated_answers: u64,
    /// Attempts that failed.
    pub failed_attempts: u64,
    /// Of these, those that found the server overloaded.
    pub overloaded_attempts: u64,
    /// Of these, those that broke off after the server had begun to work: it may have counted
    /// tokens that are in no sum here.
    pub unmetered_attempts: u64,
}

/// Keeps the sums.
#[derive(Debug)]
pub(crate) struct Ledger(Mutex<Totals>);

impl Ledger {
    pub(crate) fn new(model: &str, price: Option<&Price>) -> Self {
        Self(Mutex::new(Totals {
            model: model.to_owned(),
            answers: 0,
            usage: Usage::default(),
            cost: price.map(Price::free),
            estimated_answers: 0,
            failed_attempts: 0,
            overloaded_attempts: 0,
            unmetered_attempts: 0,
        }))
    }

    pub(crate) fn totals(&self) -> Totals {
        self.lock().clone()
    }

    pub(crate) fn answered(&self, completion: &Completion) {
        let mut totals = self.lock();
        totals.answers += 1;
        totals.usage = totals.usage.plus(completion.usage);
        totals.estimated_answers += u64::from(completion.usage.is_estimated);
        show_tokens(&totals.model, &completion.usage);
        if let (Some(sum), Some(cost)) = (totals.cost.take(), &completion.cost) {
            let after = sum.clone().plus_picos(cost.picos);
            show_cost(&totals.model, &sum, &after);
            totals.cost = Some(after);
        }
    }

    pub(crate) fn failed(&self, error: &Error) {
        let mut totals = self.lock();
        totals.failed_attempts += 1;
        let outcome = match error {
            Error::Overloaded { .. } => {
                totals.overloaded_attempts += 1;
                "overloaded"
            }
            Error::Cut { .. }
            | Error::TimedOut { .. }
            | Error::Malformed { .. }
            | Error::TooLarge { .. } => {
                totals.unmetered_attempts += 1;
                "broken"
            }
            _ => "failed",
        };
        count_request(&totals.model, outcome);
    }

    fn lock(&self) -> MutexGuard<'_, Totals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `diptych_llm_tokens_total{model, kind}`.
fn show_tokens(model: &str, usage: &Usage) {
    count_request(model, "answered");
    let kinds = [
        ("prompt", usage.prompt_tokens),
        ("completion", usage.completion_tokens),
    ];
    for (kind, count) in kinds {
        metrics::counter!("diptych_llm_tokens_total", "model" => model.to_owned(), "kind" => kind)
            .increment(count);
    }
}

/// `diptych_llm_cost_millionths_total{model, currency}`: millionths of the currency, since counters
/// are whole numbers. What a cost leaves of a millionth is counted with the next.
fn show_cost(model: &str, before: &Cost, after: &Cost) {
    const PICOS: u64 = 1_000_000;
    let currency = after.currency.clone();
    metrics::counter!("diptych_llm_cost_millionths_total", "model" => model.to_owned(), "currency" => currency)
        .increment(after.picos / PICOS - before.picos / PICOS);
}

fn count_request(model: &str, outcome: &'static str) {
    metrics::counter!("diptych_llm_requests_total", "model" => model.to_owned(), "outcome" => outcome)
        .increment(1);
}
