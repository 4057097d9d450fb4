//! Questions and answers made from facts, by an ability's templates: for dialogues
//! in training and, in other wordings, for benchmarks.

mod several;

pub use several::ORDINALS;

use crate::ability::{Ability, Draws, QuestionTemplate, Slot, Template, Value};
use proto::dataset::v1::{Facts, QuestionKind};

/// Most wrong choices of a multiple-choice question.
const MAX_WRONG_CHOICES: usize = 3;

/// A question about a picture with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its kind.
    pub kind: QuestionKind,
    /// Aspect it is about, such as `color`.
    pub aspect: String,
    /// The question.
    pub text: String,
    /// The answer as a sentence; empty for evaluation questions.
    pub answer: String,
    /// Accepted short answers; `yes` or `no` for yes/no. Empty for captions.
    pub accepted: Vec<String>,
}

/// Whether a yes/no question is to be answered by yes or by no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// What the question claims is true.
    True,
    /// What the question claims is false.
    False,
}

impl Ability {
    /// One question by a template of this ability, or `None` where the facts do not
    /// carry it: the aspect is not stated, a condition does not hold, or nothing
    /// false can be offered.
    ///
    /// Wording, wrong answers and order come from `draws` alone. `claim` decides
    /// yes/no questions; other kinds ignore it.
    pub fn question(
        &self,
        template: &QuestionTemplate,
        facts: &Facts,
        claim: Claim,
        draws: &mut Draws,
    ) -> Option<Question> {
        self.ask(template, facts, None, claim, draws)
    }

    fn ask(
        &self,
        template: &QuestionTemplate,
        facts: &Facts,
        ordinal: Option<&'static str>,
        claim: Claim,
        draws: &mut Draws,
    ) -> Option<Question> {
        let aspect = template.about.as_deref().unwrap_or(self.main_aspect());
        let holds = |(name, values): (&String, &Vec<String>)| {
            self.truth(name, facts)
                .is_some_and(|truth| values.contains(&truth.text))
        };
        if !template.when.iter().all(holds) {
            return None;
        }
        let scene = Drawn::new(self, template, aspect, facts, claim, draws)?;
        let scene = Drawn { ordinal, ..scene };
        let ask = draws.pick(&template.ask)?;
        let is_no = template.kind == QuestionKind::YesNo && claim == Claim::False;
        let wordings = if is_no {
            &template.answer_no
        } else {
            &template.answer
        };
        let answer = match draws.pick(wordings) {
            Some(wording) => scene.sentence(wording)?,
            None => String::new(),
        };
        Some(Question {
            kind: template.kind,
            aspect: aspect.to_owned(),
            text: scene.sentence(ask)?,
            answer,
            accepted: scene.accepted(template, claim)?,
        })
    }

    /// Every wording of a question that offers nothing to choose from (what, who, how,
    /// follow-ups, captions), as it is asked of a picture with these facts.
    pub fn wordings(&self, template: &QuestionTemplate, facts: &Facts) -> Vec<String> {
        let aspect = template.about.as_deref().unwrap_or(self.main_aspect());
        let Some(truth) = self.truth(aspect, facts) else {
            return Vec::new();
        };
        let value = truth.clone();
        let drawn = Drawn {
            ability: self,
            facts,
            truth,
            value,
            choices: Vec::new(),
            caption: None,
            ordinal: None,
        };
        template
            .ask
            .iter()
            .filter_map(|ask| drawn.sentence(ask))
            .collect()
    }

    /// Values of an aspect that are surely false of a picture with these facts, in
    /// the order of the file.
    pub fn false_values(&self, aspect: &str, facts: &Facts) -> Vec<&Value> {
        let Some(truth) = self.truth(aspect, facts) else {
            return Vec::new();
        };
        let is_false = |value: &&Value| {
            let alike = truth.like.contains(&value.text);
            let same = truth
                .accepted()
                .iter()
                .any(|word| value.accepted().contains(word));
            !alike && !same && !self.may_be_seen(value, facts)
        };
        self.values(aspect).iter().filter(is_false).collect()
    }

    /// Whether a thing may be in the picture although the facts do not name it.
    fn may_be_seen(&self, value: &Value, facts: &Facts) -> bool {
        let seen = |(aspect, values): (&String, &Vec<String>)| {
            self.truth(aspect, facts)
                .is_some_and(|truth| values.contains(&truth.text))
        };
        value.seen_with.iter().any(seen)
    }
}

/// What a question speaks of, once the wrong answers are drawn.
struct Drawn<'a> {
    ability: &'a Ability,
    facts: &'a Facts,
    truth: Value,
    /// What a yes/no or negative question claims.
    value: Value,
    /// What an either-or or multiple-choice question offers, in order.
    choices: Vec<Value>,
    /// The caption drawn for a caption question.
    caption: Option<&'a Template>,
    /// What the picture is called among several.
    ordinal: Option<&'static str>,
}

impl<'a> Drawn<'a> {
    fn new(
        ability: &'a Ability,
        template: &QuestionTemplate,
        aspect: &str,
        facts: &'a Facts,
        claim: Claim,
        draws: &mut Draws,
    ) -> Option<Self> {
        let truth = ability.truth(aspect, facts)?;
        let mut wrong: Vec<Value> = match template.kind {
            QuestionKind::YesNo
            | QuestionKind::Negative
            | QuestionKind::EitherOr
            | QuestionKind::MultipleChoice => ability
                .false_values(aspect, facts)
                .into_iter()
                .cloned()
                .collect(),
            _ => Vec::new(),
        };
        draws.shuffle(&mut wrong);
        let value = match (template.kind, claim) {
            (QuestionKind::YesNo, Claim::False) | (QuestionKind::Negative, _) => {
                wrong.first()?.clone()
            }
            _ => truth.clone(),
        };
        let wrong_count = match template.kind {
            QuestionKind::EitherOr => 1,
            QuestionKind::MultipleChoice => MAX_WRONG_CHOICES,
            _ => 0,
        };
        if wrong_count > 0 && wrong.is_empty() {
            return None;
        }
        let mut choices: Vec<Value> = wrong
            .into_iter()
            .take(wrong_count)
            .chain([truth.clone()])
            .collect();
        draws.shuffle(&mut choices);
        let caption = draws.pick(ability.captions());
        Some(Self {
            ability,
            facts,
            truth,
            value,
            choices,
            caption,
            ordinal: None,
        })
    }

    /// A wording with everything filled in, beginning with a capital.
    fn sentence(&self, wording: &Template) -> Option<String> {
        Some(capitalised(&wording.render(|slot| self.fill(slot))?))
    }

    fn fill(&self, slot: &Slot) -> Option<String> {
        match slot.name.as_str() {
            "truth" => slot.of(&self.truth),
            "value" => slot.of(&self.value),
            "first" => slot.of(self.choices.first()?),
            "second" => slot.of(self.choices.get(1)?),
            "options" => Some(self.options()),
            "letter" => self.letter(),
            "ordinal" => self.ordinal(),
            "caption" => self.caption?.render(|slot| self.fact(slot)),
            _ => self.fact(slot),
        }
    }

    fn fact(&self, slot: &Slot) -> Option<String> {
        // A numbered placeholder speaks of several pictures, and here is one.
        if slot.picture.is_some() {
            return None;
        }
        match slot.name.as_str() {
            "abnormality" => Some(self.facts.abnormality.clone()).filter(|text| !text.is_empty()),
            aspect => slot.of(&self.ability.truth(aspect, self.facts)?),
        }
    }

    /// "A. fox, B. owl, C. cow, D. cat"
    fn options(&self) -> String {
        let lettered = self
            .choices
            .iter()
            .zip('A'..)
            .map(|(choice, letter)| format!("{letter}. {}", choice.text));
        lettered.collect::<Vec<_>>().join(", ")
    }

    fn letter(&self) -> Option<String> {
        let place = self
            .choices
            .iter()
            .position(|choice| choice.text == self.truth.text)?;
        ('A'..='Z').nth(place).map(String::from)
    }

    fn accepted(&self, template: &QuestionTemplate, claim: Claim) -> Option<Vec<String>> {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Some(match (template.kind, claim) {
            (QuestionKind::YesNo, Claim::True) => words(&["yes"]),
            (QuestionKind::YesNo, Claim::False) => words(&["no"]),
            (QuestionKind::Negative, _) => words(&["no", "not"]),
            _ if !template.accept.is_empty() => template
                .accept
                .iter()
                .map(|accept| accept.render(|slot| self.fill(slot)))
                .collect::<Option<_>>()?,
            (QuestionKind::Caption, _) => Vec::new(),
            _ => self.truth.accepted(),
        })
    }
}

/// Whether a text holds a phrase as whole words, upper and lower case alike.
pub fn mentions(text: &str, phrase: &str) -> bool {
    let (text, phrase) = (text.to_lowercase(), phrase.to_lowercase());
    let is_word = |character: Option<char>| character.is_some_and(char::is_alphanumeric);
    !phrase.is_empty()
        && text.match_indices(&phrase).any(|(start, found)| {
            let (before, after) = (&text[..start], &text[start + found.len()..]);
            !is_word(before.chars().next_back()) && !is_word(after.chars().next())
        })
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
}
