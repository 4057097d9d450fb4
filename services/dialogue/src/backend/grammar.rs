//! Conversations from the ability's templates alone: seeded by the sample, true to
//! the facts. `several` writes about samples with several pictures.

mod several;

use super::DialogueWriter;
use crate::{
    check::Checker,
    error::Error,
    request::{Item, Style},
};
use dataset::{
    ability::{Abilities, Ability, Draws, QuestionTemplate},
    question::{Claim, Question},
};
use proto::dataset::v1::{Conversation, Facts, Prompt, Provenance, QuestionKind, Role, Turn};
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeSet, sync::Arc};

/// How much likelier a question is when it is about what the ability is about, and
/// again when its aspect has not been asked about in this conversation.
const PREFERENCE: usize = 3;

/// Writes by templates.
pub(crate) struct Grammar {
    abilities: Arc<Abilities>,
    checker: Arc<Checker>,
}

impl Grammar {
    pub(crate) fn new(abilities: Arc<Abilities>, checker: Arc<Checker>) -> Self {
        Self { abilities, checker }
    }
}

#[tonic::async_trait]
impl DialogueWriter for Grammar {
    fn name(&self) -> &'static str {
        "grammar"
    }

    fn features(&self) -> Vec<&'static str> {
        vec!["multi_image"]
    }

    async fn write(&self, item: &Item, style: &Style) -> Result<Conversation, Error> {
        let ability = self.ability(item)?;
        let facts = facts(item)?;
        let rounds = match facts.as_slice() {
            [facts] => Rounds::new(ability, facts, item, style).collect()?,
            _ => several::Rounds::new(ability, facts, item, style).collect()?,
        };
        let conversation = Conversation {
            sample_id: item.sample_id.to_string(),
            turns: turns(rounds),
            provenance: Some(provenance(ability, &item.prompts, style)),
        };
        // The templates of an ability are its author's; what they say is held against the facts too.
        match self.checker.check(&conversation, &item.prompts).first() {
            None => Ok(conversation),
            Some(found) => Err(Error::Disagrees(format!(
                "turn {}: {}",
                found.turn_index, found.reason
            ))),
        }
    }
}

impl Grammar {
    /// The ability of the item, which has as many pictures as the ability's samples.
    fn ability(&self, item: &Item) -> Result<&Ability, Error> {
        let name = item.prompts.first().map(|prompt| prompt.ability.as_str());
        let name = name.unwrap_or_default();
        let ability = self.abilities.get(name);
        let ability = ability.ok_or_else(|| unknown_ability(&self.abilities, name))?;
        match (ability.images_per_sample(), item.prompts.len()) {
            (wanted, found) if wanted == found => Ok(ability),
            (wanted, image_count) => Err(Error::SeveralImages {
                ability: ability.name().to_owned(),
                wanted,
                image_count,
            }),
        }
    }
}

/// The facts of each picture.
fn facts(item: &Item) -> Result<Vec<&Facts>, Error> {
    let facts = item.prompts.iter().map(|prompt| {
        let facts = prompt.facts.as_ref();
        facts.filter(|facts| !facts.subjects.is_empty())
    });
    facts.collect::<Option<_>>().ok_or(Error::NoFacts)
}

/// The error for a name that no ability has.
pub(crate) fn unknown_ability(abilities: &Abilities, name: &str) -> Error {
    let known = abilities.names().collect::<Vec<_>>().join(", ");
    Error::UnknownAbility {
        name: name.to_owned(),
        known,
    }
}

/// One round with the pictures that it shows.
struct Round {
    question: Question,
    shown: Vec<u32>,
}

/// The rounds of one conversation as they are drawn.
struct Rounds<'a> {
    ability: &'a Ability,
    facts: &'a Facts,
    /// Kinds in the order in which rounds take them, over and over.
    kinds: Vec<QuestionKind>,
    wanted: usize,
    draws: Draws,
    asked: Vec<Question>,
}

impl<'a> Rounds<'a> {
    fn new(ability: &'a Ability, facts: &'a Facts, item: &Item, style: &Style) -> Self {
        let mut draws = Draws::new(&[
            "dialogue",
            &style.seed.to_string(),
            &item.sample_id.to_string(),
        ]);
        let allowed = |kind: &&QuestionKind| style.kinds.is_empty() || style.kinds.contains(kind);
        let mut kinds: Vec<_> = ability
            .question_kinds()
            .iter()
            .filter(allowed)
            .copied()
            .collect();
        draws.shuffle(&mut kinds);
        Self {
            ability,
            facts,
            kinds,
            wanted: style.round_count,
            draws,
            asked: Vec::new(),
        }
    }

    fn collect(mut self) -> Result<Vec<Round>, Error> {
        let ability = || self.ability.name().to_owned();
        if self
            .kinds
            .iter()
            .all(|&kind| kind == QuestionKind::FollowUp)
        {
            return Err(Error::NoQuestion { ability: ability() });
        }
        while self.asked.len() < self.wanted {
            let Some(question) = self.next() else {
                let (found, wanted) = (self.asked.len(), self.wanted);
                return Err(Error::TooFewQuestions {
                    ability: ability(),
                    found,
                    wanted,
                });
            };
            self.asked.push(question);
        }
        // The first turn shows the picture.
        let rounds = self.asked.into_iter().enumerate();
        Ok(rounds
            .map(|(number, question)| Round {
                question,
                shown: (number == 0).then_some(0).into_iter().collect(),
            })
            .collect())
    }

    /// The next round: of the next kind in turn that still has something to ask.
    fn next(&mut self) -> Option<Question> {
        for _ in 0..self.kinds.len() {
            let kind = *self.kinds.first()?;
            self.kinds.rotate_left(1);
            if let Some(question) = self.of_kind(kind) {
                return Some(question);
            }
        }
        None
    }

    fn of_kind(&mut self, kind: QuestionKind) -> Option<Question> {
        let ability = self.ability;
        let mut lots = Vec::new();
        for template in ability
            .questions()
            .iter()
            .filter(|template| template.kind == kind)
        {
            lots.extend(std::iter::repeat_n(template, self.weight(template)));
        }
        self.draws.shuffle(&mut lots);
        let claim = if self.draws.coin() {
            Claim::True
        } else {
            Claim::False
        };
        lots.into_iter().find_map(|template| {
            let question = ability.question(template, self.facts, claim, &mut self.draws)?;
            let is_new = self.asked.iter().all(|asked| asked.text != question.text);
            is_new.then_some(question)
        })
    }

    fn weight(&self, template: &QuestionTemplate) -> usize {
        let aspect = template
            .about
            .as_deref()
            .unwrap_or(self.ability.main_aspect());
        let is_asked = self.asked.iter().any(|asked| asked.aspect == aspect);
        let is_main = aspect == self.ability.main_aspect();
        match template.kind {
            // Nothing to follow, or nothing left to learn.
            QuestionKind::FollowUp if self.asked.is_empty() || is_asked => 0,
            _ => (if is_main { PREFERENCE } else { 1 }) * (if is_asked { 1 } else { PREFERENCE }),
        }
    }
}

fn turns(rounds: Vec<Round>) -> Vec<Turn> {
    let mut turns = Vec::with_capacity(2 * rounds.len());
    for Round { question, shown } in rounds {
        let Question {
            kind,
            text,
            answer,
            accepted,
            ..
        } = question;
        turns.push(Turn {
            role: Role::User.into(),
            text,
            image_index: shown,
            kind: kind.into(),
            answer_keywords: Vec::new(),
        });
        turns.push(Turn {
            role: Role::Assistant.into(),
            text: answer,
            image_index: Vec::new(),
            kind: kind.into(),
            answer_keywords: accepted,
        });
    }
    turns
}

fn provenance(ability: &Ability, prompts: &[Prompt], style: &Style) -> Provenance {
    let kinds: BTreeSet<_> = style.kinds.iter().map(|kind| kind.as_str_name()).collect();
    let kinds = kinds.into_iter().collect::<Vec<_>>().join(",");
    let parameters = [
        ("ability_sha256", ability.sha256().to_owned()),
        ("kinds", kinds),
        ("round_count", style.round_count.to_string()),
    ];
    let digest = |prompt: &Prompt| {
        let digest = Sha256::digest(prompt.text.as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    Provenance {
        producer: "dialogue/grammar".to_owned(),
        code_version: env!("CARGO_PKG_VERSION").to_owned(),
        seed: style.seed,
        seeded: true,
        parameters: parameters
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        parent_sha256: prompts.iter().map(digest).collect(),
        ..Provenance::default()
    }
}
