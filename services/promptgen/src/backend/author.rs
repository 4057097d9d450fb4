//! Prompts written by a language model. Keyword, style and setting of every slot come from the
//! ability's seeded order; the model writes the prompt around them and says what it shows; what
//! it says is checked, and it is told what is wrong, within bounds.

mod brief;
mod draft;
mod keywords;
mod place;

use super::{Prepared, PromptWriter, grammar::unknown_ability, set_orders::SetOrders, sets::Asked};
use crate::{
    error::Error,
    request::{Item, Wanted},
};
use dataset::ability::{Abilities, Ability, Draws, Split};
use draft::{Draft, Order};
use keywords::Keywords;
use llm::{
    LanguageModel, Message, Question, Schema,
    language_model::{Answer, Spent},
};
use place::{Place, Places};
use proto::dataset::v1::{Facts, ModelInfo, Prompt, Provenance};
use std::{collections::BTreeMap, sync::Arc};
use tokio_util::sync::CancellationToken;

/// Seeds of the sampling are below it: what every server can hold.
const SEEDS: usize = 1 << 31;

/// Writes prompts by asking a model.
pub(crate) struct Author {
    abilities: Arc<Abilities>,
    model: Arc<dyn LanguageModel>,
    keywords: Arc<Keywords>,
    schema: Arc<Schema>,
    instructions_sha256: String,
    orders: SetOrders,
}

impl Author {
    /// Asks `model`; an ability with fewer keywords than `keyword_count` gets more from it.
    pub(crate) fn new(
        abilities: Arc<Abilities>,
        model: Arc<dyn LanguageModel>,
        keyword_count: usize,
    ) -> Result<Self, Error> {
        Ok(Self {
            keywords: Arc::new(Keywords::new(Arc::clone(&model), keyword_count)?),
            abilities,
            model,
            schema: brief::prompt_schema()?,
            instructions_sha256: brief::instructions_sha256(),
            orders: SetOrders::default(),
        })
    }

    fn ability(&self, name: &str) -> Result<&Ability, Error> {
        self.abilities
            .get(name)
            .ok_or_else(|| unknown_ability(&self.abilities, name))
    }
}

#[tonic::async_trait]
impl PromptWriter for Author {
    fn name(&self) -> &'static str {
        self.model.backend()
    }

    fn model(&self) -> Option<ModelInfo> {
        let weights = self.model.weights().cloned().unwrap_or_default();
        Some(ModelInfo {
            name: self.model.name().to_owned(),
            sha256: weights.sha256,
            architecture: weights.architecture.to_owned(),
            parameter_count: weights.parameter_count,
        })
    }

    fn max_concurrency(&self) -> usize {
        self.model.max_concurrency()
    }

    async fn warm_up(&self) -> Result<(), Error> {
        Ok(self.model.warm_up().await?)
    }

    fn fingerprint(&self, wanted: &Wanted) -> Result<String, Error> {
        let Wanted {
            ability,
            seed,
            slot_count,
            split,
            style_weights,
            excluded_texts,
            syntax,
            items: _,
        } = wanted;
        let sha256 = self.ability(ability)?.sha256();
        let version = env!("CARGO_PKG_VERSION");
        let model = self.model.fingerprint();
        let instructions = &self.instructions_sha256;
        let keywords = self.keywords.wanted();
        Ok(format!(
            "{version} {model} {instructions} {keywords} {sha256} {seed} {slot_count} {split:?} {style_weights:?} {excluded_texts:?} {syntax:?}"
        ))
    }

    fn prepare(
        &self,
        wanted: &Wanted,
        left: &CancellationToken,
    ) -> Result<Box<dyn Prepared>, Error> {
        let ability = self.ability(&wanted.ability)?;
        let places = Places::new(&Asked {
            orders: &self.orders,
            ability,
            wanted,
            left,
        })?;
        Ok(Box::new(Writer {
            abilities: Arc::clone(&self.abilities),
            ability: ability.clone(),
            categories: self.abilities.names().collect::<Vec<_>>().join(", "),
            model: Arc::clone(&self.model),
            keywords: Arc::clone(&self.keywords),
            schema: Arc::clone(&self.schema),
            instructions_sha256: self.instructions_sha256.clone(),
            places,
            wanted: Wanted {
                items: Vec::new(),
                ..wanted.clone()
            },
        }))
    }
}

/// Writes the prompts of one request.
struct Writer {
    abilities: Arc<Abilities>,
    ability: Ability,
    categories: String,
    model: Arc<dyn LanguageModel>,
    keywords: Arc<Keywords>,
    schema: Arc<Schema>,
    instructions_sha256: String,
    places: Places,
    wanted: Wanted,
}

/// A prompt that passed.
struct Written {
    text: String,
    facts: Facts,
    spent: Spent,
    corrections: u32,
    sampling_seed: u64,
}

#[tonic::async_trait]
impl Prepared for Writer {
    async fn write(&self, item: &Item) -> Result<Prompt, Error> {
        let more = match self.places.is_of_sets() {
            true => None,
            false => Some(self.keywords.of(&self.ability, self.wanted.seed).await?),
        };
        let more = more.as_ref().map_or(&[][..], |more| more.as_slice());
        let place = self.places.at(item, &self.wanted, more);
        let place = place.ok_or_else(|| Error::Exhausted {
            ability: self.ability.name().to_owned(),
            prompt_count: self.places.len(),
            slot: item.slot,
        })?;
        let written = self.ask(item, &place).await?;
        Ok(Prompt {
            sample_id: item.sample_id.to_string(),
            ability: self.ability.name().to_owned(),
            keyword: place.keyword.clone(),
            text: written.text.clone(),
            negative_text: self.ability.negative_prompt().to_owned(),
            syntax: self.wanted.syntax.into(),
            parts: draft::parts(&written.text, self.wanted.syntax),
            facts: Some(written.facts.clone()),
            provenance: Some(self.provenance(item, &place, &written)),
        })
    }
}

impl Writer {
    /// Asks until a draft passes or the corrections are spent.
    async fn ask(&self, item: &Item, place: &Place) -> Result<Written, Error> {
        let id = item.sample_id.to_string();
        let mut draws = Draws::new(&["promptgen", &id, &item.attempt.to_string()]);
        let sampling_seed = draws.below(SEEDS) as u64;
        let syntax = self.wanted.syntax;
        let mut messages =
            brief::prompt_messages(&self.ability, &self.categories, place, syntax, &mut draws);
        let mut spent = Spent::default();
        let mut corrections = 0;
        loop {
            let question = Question {
                // The id is the picture's own.
                key: format!("promptgen {id} {} prompt {corrections}", item.attempt),
                messages: messages.clone(),
                schema: Arc::clone(&self.schema),
                seed: sampling_seed,
            };
            let answer = self.model.answer(&question).await?;
            spent.add(answer.spent.clone());
            let complaints = match self.check(&answer, place)? {
                Ok((text, facts)) => {
                    return Ok(Written {
                        text,
                        facts,
                        spent,
                        corrections,
                        sampling_seed,
                    });
                }
                Err(complaints) => complaints,
            };
            if corrections == self.model.max_corrections() {
                return Err(Error::Unusable {
                    corrections,
                    complaints,
                });
            }
            corrections += 1;
            messages.extend(correction(&answer.text, &complaints));
        }
    }

    /// The prompt in an answer, or what is wrong with it.
    fn check(
        &self,
        answer: &Answer,
        place: &Place,
    ) -> Result<Result<(String, Facts), String>, Error> {
        let draft: Draft = serde_json::from_value(answer.value.clone()).map_err(Error::Answer)?;
        let text = draft.text();
        let facts = draft.facts(|name| self.abilities.get(name).is_some());
        let order = Order {
            ability: &self.ability,
            place,
            syntax: self.wanted.syntax,
            excluded_texts: &self.wanted.excluded_texts,
        };
        let complaints = order.complaints(&text, &facts);
        Ok(match complaints.is_empty() {
            true => Ok((text, facts)),
            false => Err(complaints.join("; ")),
        })
    }

    fn provenance(&self, item: &Item, place: &Place, written: &Written) -> Provenance {
        let split = match self.wanted.split {
            Split::Training => "training",
            Split::Benchmark => "benchmark",
        };
        let mut parameters = written.spent.parameters();
        let own = BTreeMap::from([
            ("ability_sha256", self.ability.sha256().to_owned()),
            ("instructions_sha256", self.instructions_sha256.clone()),
            ("settings", self.model.fingerprint()),
            ("sampling_seed", written.sampling_seed.to_string()),
            ("corrections", written.corrections.to_string()),
            ("attempt", item.attempt.to_string()),
            ("slot", item.slot.to_string()),
            ("slot_count", self.wanted.slot_count.to_string()),
            ("split", split.to_owned()),
            ("ordered_style", place.style.clone()),
            ("ordered_scene", place.scene.clone()),
        ]);
        let own = own.into_iter();
        parameters.extend(own.map(|(name, value)| (name.to_owned(), value)));
        let weights = self.model.weights();
        Provenance {
            producer: format!("promptgen/{}", self.model.backend()),
            code_version: env!("CARGO_PKG_VERSION").to_owned(),
            model: written.spent.model.clone(),
            model_sha256: weights.map_or_else(String::new, |weights| weights.sha256.clone()),
            seed: self.wanted.seed,
            seeded: self.model.is_seeded(),
            parameters: parameters.into_iter().collect(),
            parent_sha256: vec![self.ability.sha256().to_owned()],
        }
    }
}

/// The model's answer and what is wrong with it, for its next try.
fn correction(answer: &str, complaints: &str) -> [Message; 2] {
    let complaint = format!(
        "That cannot be used: {complaints}. Answer again with the whole corrected JSON object."
    );
    [Message::assistant(answer), Message::user(complaint)]
}
