//! What tokens cost, from a file.
//!
//! ```toml
//! [models."some-model"]
//! input_per_million = 0.15         # price of a million tokens of questions
//! cached_input_per_million = 0.075 # optional: of those that the server had cached
//! output_per_million = 0.60        # of answers
//! batch_factor = 0.5               # optional: what the provider's batches cost of that
//! currency = "USD"
//! ```

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, completion::Usage, sha256::hex};

/// Largest price file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Millionths of a millionth: a price per million tokens in a currency, times this, is what one
/// token costs in picos. Whole numbers, so that sums do not depend on their order.
const PICOS_PER_MILLIONTH: f64 = 1e6;

/// What something cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// The amount, in 10⁻¹² of the currency.
    pub picos: u64,
    /// The currency, as the price file writes it.
    pub currency: String,
    /// File name of the price file.
    pub price_file: String,
    /// SHA-256 of its bytes, hexadecimal.
    pub price_file_sha256: String,
}

impl Cost {
    /// The amount in the currency.
    pub fn amount(&self) -> f64 {
        self.picos as f64 * 1e-12
    }

    /// The same with more picos.
    #[must_use]
    pub fn plus_picos(mut self, picos: u64) -> Self {
        self.picos = self.picos.saturating_add(picos);
        self
    }
}

/// The prices of one model.
#[derive(Debug, Clone)]
pub(crate) struct Price {
    input_picos: u64,
    cached_input_picos: u64,
    output_picos: u64,
    batch_factor: f64,
    /// Zero of its currency, with its source.
    free: Cost,
}

/// Whether a request goes by itself or in a batch of the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tariff {
    Single,
    Batch,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    models: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    input_per_million: f64,
    cached_input_per_million: Option<f64>,
    output_per_million: f64,
    #[serde(default = "whole_price")]
    batch_factor: f64,
    currency: String,
}

fn whole_price() -> f64 {
    1.0
}

impl Price {
    /// The prices of `model`.
    ///
    /// # Errors
    /// A file that cannot be read, is no price file, or does not name the model.
    pub(crate) fn load(path: &Path, model: &str) -> Result<Self, Error> {
        let wrong =
            |reason: String| Error::Options(format!("the price file {}: {reason}", path.display()));
        let text = read(path)?;
        let file: File = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let entry = file.models.get(model).ok_or_else(|| {
            wrong(format!(
                "it has no price for the model; add [models.\"{model}\"]"
            ))
        })?;
        entry.check().map_err(wrong)?;
        let name = path.file_name().unwrap_or(path.as_os_str());
        Ok(Self {
            input_picos: picos(entry.input_per_million),
            cached_input_picos: picos(
                entry
                    .cached_input_per_million
                    .unwrap_or(entry.input_per_million),
            ),
            output_picos: picos(entry.output_per_million),
            batch_factor: entry.batch_factor,
            free: Cost {
                picos: 0,
                currency: entry.currency.clone(),
                price_file: name.to_string_lossy().into_owned(),
                price_file_sha256: hex(&Sha256::digest(text.as_bytes())),
            },
        })
    }

    /// What `usage` costs.
    pub(crate) fn cost(&self, usage: &Usage, tariff: Tariff) -> Cost {
        let cached = usage.cached_tokens.min(usage.prompt_tokens);
        let terms = [
            (usage.prompt_tokens - cached, self.input_picos),
            (cached, self.cached_input_picos),
            (usage.completion_tokens, self.output_picos),
        ];
        let whole = terms.iter().fold(0u64, |sum, (tokens, price)| {
            sum.saturating_add(tokens.saturating_mul(*price))
        });
        let picos = match tariff {
            Tariff::Single => whole,
            Tariff::Batch => (whole as f64 * self.batch_factor).round() as u64,
        };
        self.free.clone().plus_picos(picos)
    }

    /// Nothing, in the currency of this price.
    pub(crate) fn free(&self) -> Cost {
        self.free.clone()
    }
}

impl Entry {
    fn check(&self) -> Result<(), String> {
        let prices = [
            ("input_per_million", Some(self.input_per_million)),
            ("cached_input_per_million", self.cached_input_per_million),
            ("output_per_million", Some(self.output_per_million)),
            ("batch_factor", Some(self.batch_factor)),
        ];
        for (name, price) in prices {
            // A million a million: far above any price, far below where picos overflow.
            if price.is_some_and(|price| !(0.0..=1e6).contains(&price)) {
                return Err(format!("{name} must lie between 0 and 1000000"));
            }
        }
        match self.currency.trim() {
            "" => Err("currency is empty".to_owned()),
            _ => Ok(()),
        }
    }
}

fn read(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::File {
        what: "the price file",
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_FILE_BYTES {
        let message = format!("it is larger than {MAX_FILE_BYTES} bytes");
        return Err(failed(std::io::Error::other(message)));
    }
    std::fs::read_to_string(path).map_err(failed)
}

fn picos(per_million: f64) -> u64 {
    (per_million * PICOS_PER_MILLIONTH).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_exact_and_a_file_that_misses_a_model_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prices.toml");
        let text = "[models.m]\ninput_per_million = 0.15\ncached_input_per_million = 0.075\n\
                    output_per_million = 0.6\nbatch_factor = 0.5\ncurrency = \"USD\"\n";
        std::fs::write(&path, text).unwrap();
        let price = Price::load(&path, "m").unwrap();
        let usage = Usage {
            prompt_tokens: 1_000,
            cached_tokens: 400,
            completion_tokens: 10,
            is_estimated: false,
        };
        let cost = price.cost(&usage, Tariff::Single);
        assert_eq!(cost.picos, 600 * 150_000 + 400 * 75_000 + 10 * 600_000);
        assert_eq!(price.cost(&usage, Tariff::Batch).picos, cost.picos / 2);
        assert_eq!(
            (cost.currency.as_str(), cost.price_file.as_str()),
            ("USD", "prices.toml")
        );
        assert_eq!(
            cost.price_file_sha256,
            hex(&Sha256::digest(text.as_bytes()))
        );

        let error = Price::load(&path, "other").unwrap_err().to_string();
        assert!(error.contains("[models.\"other\"]"), "{error}");
        std::fs::write(&path, text.replace("0.15", "-1")).unwrap();
        let error = Price::load(&path, "m").unwrap_err().to_string();
        assert!(error.contains("input_per_million"), "{error}");
    }
}
