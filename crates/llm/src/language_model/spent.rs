//! What answers took, for the provenance of what was made of them.

use std::collections::BTreeMap;

use crate::{Cost, Usage};

/// What answers took.
#[derive(Clone, Debug, Default)]
pub struct Spent {
    pub(super) answers: u32,
    pub(super) repairs: u32,
    pub(super) usage: Usage,
    pub(super) cost: Option<Cost>,
    /// Model that gave the last one, as it or its server names itself.
    pub model: String,
    pub(super) request_sha256: String,
}

impl Spent {
    /// Adds what a later answer took.
    pub fn add(&mut self, later: Self) {
        self.answers += later.answers;
        self.repairs += later.repairs;
        self.usage = self.usage.plus(later.usage);
        self.cost = match (self.cost.take(), later.cost) {
            (Some(before), Some(more)) => Some(before.plus_picos(more.picos)),
            (before, more) => before.or(more),
        };
        self.model = later.model;
        self.request_sha256 = later.request_sha256;
    }

    /// The same as parameters of a provenance.
    pub fn parameters(&self) -> BTreeMap<String, String> {
        let mut parameters = BTreeMap::from([
            ("request_sha256", self.request_sha256.clone()),
            ("prompt_tokens", self.usage.prompt_tokens.to_string()),
            (
                "completion_tokens",
                self.usage.completion_tokens.to_string(),
            ),
            ("tokens_are_estimated", self.usage.is_estimated.to_string()),
            ("answers", self.answers.to_string()),
            ("schema_repairs", self.repairs.to_string()),
        ]);
        if let Some(cost) = &self.cost {
            parameters.insert("cost_picos", cost.picos.to_string());
            parameters.insert("cost_currency", cost.currency.clone());
            parameters.insert("price_file", cost.price_file.clone());
            parameters.insert("price_file_sha256", cost.price_file_sha256.clone());
        }
        let owned = |(name, value): (&str, String)| (name.to_owned(), value);
        parameters.into_iter().map(owned).collect()
    }
}
