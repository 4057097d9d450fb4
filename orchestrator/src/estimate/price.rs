//! What writers cost, as the samples of the probe say it themselves: a service with a price file notes
//! the cost of every prompt and dialogue in its provenance.

use std::path::Path;

use anyhow::Result;
use dataset::store::{Reader, Root};
use futures::TryStreamExt as _;
use proto::dataset::v1::{Provenance, Sample};

/// Money per prompt and per dialogue, on average.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Price {
    /// Per prompt.
    pub prompt: f64,
    /// Per dialogue.
    pub dialogue: f64,
    /// Of which currency; empty where nothing costs anything.
    pub currency: String,
}

/// A millionth of a millionth of the currency's unit: what services count in.
const PICO: f64 = 1e-12;

/// Reads the price off a dataset; none where a writer says none, or two speak of different
/// currencies.
///
/// # Errors
/// The dataset cannot be read.
pub(super) async fn read(dataset: &Path) -> Result<Option<Price>> {
    let reader = Reader::open(Root::folder(dataset)?).await?;
    let samples: Vec<Sample> = reader.samples().try_collect().await?;
    Ok(of(&samples))
}

fn of(samples: &[Sample]) -> Option<Price> {
    let mut price = Price::default();
    let prompts = samples.iter().flat_map(|sample| &sample.prompts);
    let prompts: Vec<_> = prompts.map(|prompt| prompt.provenance.as_ref()).collect();
    let dialogues = samples
        .iter()
        .filter_map(|sample| sample.conversation.as_ref());
    let dialogues: Vec<_> = dialogues
        .map(|written| written.provenance.as_ref())
        .collect();
    price.prompt = mean(&prompts, &mut price.currency)?;
    price.dialogue = mean(&dialogues, &mut price.currency)?;
    Some(price)
}

fn mean(written: &[Option<&Provenance>], currency: &mut String) -> Option<f64> {
    let mut sum = 0.0;
    for provenance in written {
        sum += cost(provenance.as_ref()?, currency)?;
    }
    (!written.is_empty()).then(|| sum / written.len() as f64)
}

fn cost(provenance: &Provenance, currency: &mut String) -> Option<f64> {
    // What computes in the service itself is paid to nobody.
    let is_free = |backend| provenance.producer.ends_with(backend);
    if ["/grammar", "/local"].into_iter().any(is_free) {
        return Some(0.0);
    }
    let told = |name| provenance.parameters.get(name);
    let picos: f64 = told("cost_picos")?.parse().ok()?;
    let theirs = told("cost_currency")?;
    if currency.is_empty() {
        currency.clone_from(theirs);
    }
    (currency == theirs).then_some(picos * PICO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::dataset::v1::{Conversation, Prompt};

    fn sample(prompt: &[(&str, &str)], currency: &str) -> Sample {
        let written = |parameters: &[(&str, &str)]| {
            let pairs = parameters.iter();
            Some(Provenance {
                producer: "promptgen/openai".into(),
                parameters: pairs
                    .map(|(name, value)| ((*name).into(), (*value).into()))
                    .collect(),
                ..Provenance::default()
            })
        };
        Sample {
            prompts: vec![Prompt {
                provenance: written(prompt),
                ..Prompt::default()
            }],
            conversation: Some(Conversation {
                provenance: written(&[("cost_picos", "3000000000"), ("cost_currency", currency)]),
                ..Conversation::default()
            }),
            ..Sample::default()
        }
    }

    #[test]
    fn a_price_is_the_mean_of_what_was_paid_and_unknown_where_one_writer_says_none() {
        let paid = [("cost_picos", "1000000000"), ("cost_currency", "USD")];
        let price = of(&[sample(&paid, "USD"), sample(&paid, "USD")]).unwrap();
        assert_eq!(
            (price.prompt, price.dialogue, price.currency.as_str()),
            (0.001, 0.003, "USD")
        );
        assert_eq!(of(&[sample(&[], "USD")]), None);
        assert_eq!(of(&[sample(&paid, "EUR")]), None);
        assert_eq!(of(&[]), None);
    }
}
