//! Conversations written by a language model, from facts and, where it looks, pictures. The plan of the
//! rounds is drawn by sample; what comes back is held against plan and facts, and what is
//! wrong is said to the model once.

mod brief;
mod draft;
mod plan;

use super::{DialogueWriter, grammar::unknown_ability};
use crate::{
    check::Checker,
    error::Error,
    request::{Item, Style},
};
use dataset::ability::{Abilities, Ability, Draws};
use draft::Draft;
use llm::{
    LanguageModel, Message, Picture, Question,
    language_model::{Answer, Spent},
};
use plan::Round;
use proto::dataset::v1::{
    Conversation, ModelInfo, Prompt, Provenance, QuestionKind, Turn, image::Content,
};
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, sync::Arc};

/// Seeds of the sampling are below it: what every server can hold.
const SEEDS: usize = 1 << 31;
/// How often what disagrees is said to the model.
const MAX_CORRECTIONS: u32 = 1;
/// Most pictures of a conversation.
const MAX_IMAGES: usize = brief::ORDINALS.len();
/// Largest picture shown to the model, in bytes: what `Image.data` may hold.
const MAX_PICTURE_BYTES: usize = 4 << 20;

/// Writes conversations by asking a model.
pub(crate) struct Author {
    pub(crate) abilities: Arc<Abilities>,
    pub(crate) checker: Arc<Checker>,
    pub(crate) model: Arc<dyn LanguageModel>,
    /// Whether the model is shown the pictures.
    pub(crate) is_looking: bool,
}

/// A conversation that passed.
struct Written {
    turns: Vec<Turn>,
    spent: Spent,
    corrections: u32,
    sampling_seed: u64,
}

#[tonic::async_trait]
impl DialogueWriter for Author {
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

    fn features(&self) -> Vec<&'static str> {
        let vision = self.is_looking.then_some("vision");
        ["multi_image"].into_iter().chain(vision).collect()
    }

    fn max_concurrency(&self) -> usize {
        self.model.max_concurrency()
    }

    async fn warm_up(&self) -> Result<(), Error> {
        Ok(self.model.warm_up().await?)
    }

    async fn write(&self, item: &Item, style: &Style) -> Result<Conversation, Error> {
        let ability = self.ability(item)?;
        let mut draws = Draws::new(&[
            "dialogue author",
            &style.seed.to_string(),
            &item.sample_id.to_string(),
        ]);
        let kinds = kinds(ability, item, style);
        let pictures = plan::Pictures {
            count: item.prompts.len(),
            shown: (ability.images_per_sample() > 1).then(|| ability.shown()),
        };
        let plan = plan::rounds(kinds, pictures, style.round_count, draws.clone());
        let plan = plan.ok_or_else(|| Error::NoQuestion {
            ability: ability.name().to_owned(),
        })?;
        let pictures = self.pictures(item)?;
        let sampling_seed = draws.below(SEEDS) as u64;
        let messages = brief::messages(ability, &item.prompts, &plan, pictures, &mut draws);
        let written = self.ask(item, &plan, messages, sampling_seed).await?;
        Ok(Conversation {
            sample_id: item.sample_id.to_string(),
            provenance: Some(self.provenance(ability, item, style, &written)),
            turns: written.turns,
        })
    }
}

impl Author {
    /// The ability of the item, whose prompts all have facts.
    fn ability(&self, item: &Item) -> Result<&Ability, Error> {
        let image_count = item.prompts.len();
        if image_count > MAX_IMAGES {
            return Err(Error::TooManyImages {
                image_count,
                limit: MAX_IMAGES,
            });
        }
        let has_facts = |prompt: &Prompt| {
            let facts = prompt.facts.as_ref();
            facts.is_some_and(|facts| !facts.subjects.is_empty())
        };
        if !item.prompts.iter().all(has_facts) {
            return Err(Error::NoFacts);
        }
        let name = item.prompts.first().map(|prompt| prompt.ability.as_str());
        let name = name.unwrap_or_default();
        self.abilities
            .get(name)
            .ok_or_else(|| unknown_ability(&self.abilities, name))
    }

    /// The pictures to show; none for a model that does not look.
    fn pictures(&self, item: &Item) -> Result<Vec<Picture>, Error> {
        if !self.is_looking {
            return Ok(Vec::new());
        }
        let (wanted, found) = (item.prompts.len(), item.images.len());
        if wanted != found {
            return Err(Error::NoPicture { wanted, found });
        }
        let picture = |image: &proto::dataset::v1::Image| match &image.content {
            Some(Content::Data(bytes)) if bytes.len() <= MAX_PICTURE_BYTES => {
                Ok(Picture::new(bytes.clone())?)
            }
            _ => Err(Error::PictureNotInline {
                limit_bytes: MAX_PICTURE_BYTES,
            }),
        };
        item.images.iter().map(picture).collect()
    }

    /// Asks until a conversation passes or the correction is spent.
    async fn ask(
        &self,
        item: &Item,
        plan: &[Round],
        mut messages: Vec<Message>,
        sampling_seed: u64,
    ) -> Result<Written, Error> {
        let schema = brief::schema(plan)?;
        let mut spent = Spent::default();
        let mut corrections = 0;
        loop {
            let question = Question {
                key: format!("dialogue {} conversation {corrections}", item.sample_id),
                messages: messages.clone(),
                schema: Arc::clone(&schema),
                seed: sampling_seed,
            };
            let answer = self.model.answer(&question).await?;
            spent.add(answer.spent.clone());
            let complaints = match self.check(&answer, item, plan)? {
                Ok(turns) => {
                    return Ok(Written {
                        turns,
                        spent,
                        corrections,
                        sampling_seed,
                    });
                }
                Err(complaints) => complaints,
            };
            if corrections == MAX_CORRECTIONS {
                return Err(Error::Disagrees(complaints));
            }
            corrections += 1;
            messages.extend(correction(&answer.text, &complaints));
        }
    }

    /// The turns in an answer, or what is wrong with them.
    fn check(
        &self,
        answer: &Answer,
        item: &Item,
        plan: &[Round],
    ) -> Result<Result<Vec<Turn>, String>, Error> {
        let draft: Draft = serde_json::from_value(answer.value.clone()).map_err(Error::Answer)?;
        let complaints = draft.complaints(plan, item.prompts.len());
        if !complaints.is_empty() {
            return Ok(Err(complaints.join("; ")));
        }
        let conversation = Conversation {
            sample_id: item.sample_id.to_string(),
            turns: draft.turns(plan),
            provenance: None,
        };
        let found = self.checker.check(&conversation, &item.prompts);
        if found.is_empty() {
            return Ok(Ok(conversation.turns));
        }
        let sentence = |found: &proto::dialogue::v1::Disagreement| {
            format!("round {}: {}", found.turn_index / 2 + 1, found.reason)
        };
        let sentences: Vec<_> = found.iter().map(sentence).collect();
        Ok(Err(sentences.join("; ")))
    }

    fn provenance(
        &self,
        ability: &Ability,
        item: &Item,
        style: &Style,
        written: &Written,
    ) -> Provenance {
        let kinds: Vec<_> = style.kinds.iter().map(|kind| kind.as_str_name()).collect();
        let mut parameters = written.spent.parameters();
        let own = BTreeMap::from([
            ("ability_sha256", ability.sha256().to_owned()),
            ("instructions_sha256", brief::instructions_sha256()),
            ("settings", self.model.fingerprint()),
            ("sampling_seed", written.sampling_seed.to_string()),
            ("corrections", written.corrections.to_string()),
            ("kinds", kinds.join(",")),
            ("round_count", style.round_count.to_string()),
            ("vision", self.is_looking.to_string()),
        ]);
        let own = own.into_iter();
        parameters.extend(own.map(|(name, value)| (name.to_owned(), value)));
        let mut parents: Vec<_> = item.prompts.iter().map(text_sha256).collect();
        if self.is_looking {
            parents.extend(item.images.iter().map(|image| image.sha256.clone()));
        }
        let weights = self.model.weights();
        Provenance {
            producer: format!("dialogue/{}", self.model.backend()),
            code_version: env!("CARGO_PKG_VERSION").to_owned(),
            model: written.spent.model.clone(),
            model_sha256: weights.map_or_else(String::new, |weights| weights.sha256.clone()),
            seed: style.seed,
            seeded: self.model.is_seeded(),
            parameters: parameters.into_iter().collect(),
            parent_sha256: parents,
        }
    }
}

/// Kinds to take turns: those asked for, or else those of the ability; with several pictures, questions
/// about all of them too.
fn kinds(ability: &Ability, item: &Item, style: &Style) -> Vec<QuestionKind> {
    let mut kinds = match style.kinds.is_empty() {
        true => ability.question_kinds().to_vec(),
        false => style.kinds.clone(),
    };
    if style.kinds.is_empty() && item.prompts.len() > 1 {
        kinds.push(QuestionKind::MultiImage);
    }
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

fn text_sha256(prompt: &Prompt) -> String {
    let digest = Sha256::digest(prompt.text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The model's answer and what is wrong with it, for its next try.
fn correction(answer: &str, complaints: &str) -> [Message; 2] {
    let complaint = format!(
        "That does not agree with the plan or the pictures: {complaints}. Answer again with the whole corrected JSON object."
    );
    [Message::assistant(answer), Message::user(complaint)]
}
