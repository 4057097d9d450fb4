//! Questions about several pictures: about one of them by its place, and about all together.

use super::{Claim, Drawn, Question, capitalised};
use crate::ability::{Ability, Draws, QuestionTemplate, Slot, Template, Value};
use proto::dataset::v1::{Facts, QuestionKind};

/// What pictures are called, in their order.
pub const ORDINALS: [&str; crate::ability::MAX_PICTURES] = ["first", "second", "third", "fourth"];

impl QuestionTemplate {
    /// Whether its wordings say by `{ordinal}` which of several pictures they are about.
    pub fn names_picture(&self) -> bool {
        let mut slots = self.ask.iter().flat_map(Template::slots);
        slots.any(|slot| slot.name == "ordinal")
    }
}

impl Ability {
    /// One question about the picture at `index` of several, by [`Ability::question`]; `{ordinal}`
    /// stands for `first`, `second` and so on.
    pub fn question_of_one(
        &self,
        template: &QuestionTemplate,
        (index, facts): (usize, &Facts),
        claim: Claim,
        draws: &mut Draws,
    ) -> Option<Question> {
        self.ask(template, facts, ORDINALS.get(index).copied(), claim, draws)
    }

    /// One question of the kind `multi_image` about all pictures of a sample, or `None` where their
    /// facts do not carry it. A placeholder without a number stands for what all of them share.
    pub fn question_of_all(
        &self,
        template: &QuestionTemplate,
        facts: &[&Facts],
        draws: &mut Draws,
    ) -> Option<Question> {
        let about = template.about.as_deref().unwrap_or(self.main_aspect());
        let all = All {
            ability: self,
            facts,
            about,
        };
        if template.kind != QuestionKind::MultiImage || !all.are_as_asked(template) {
            return None;
        }
        let ask = draws.pick(&template.ask)?;
        let answer = match draws.pick(&template.answer) {
            Some(wording) => all.sentence(wording)?,
            None => String::new(),
        };
        Some(Question {
            kind: template.kind,
            aspect: about.to_owned(),
            text: all.sentence(ask)?,
            answer,
            accepted: all.accepted(template)?,
        })
    }

    /// Whether two values of an aspect are surely seen as two.
    pub(crate) fn are_apart(&self, aspect: &str, one: &str, other: &str) -> bool {
        let is_like = |one: &str, other: &str| {
            let value = self.values(aspect).iter().find(|value| value.text == one);
            value.is_some_and(|value| value.like.iter().any(|like| like == other))
        };
        one != other && !is_like(one, other) && !is_like(other, one)
    }
}

impl Drawn<'_> {
    /// The `{ordinal}` of the picture asked about.
    pub(super) fn ordinal(&self) -> Option<String> {
        self.ordinal.map(str::to_owned)
    }
}

/// What a question about all pictures speaks of.
struct All<'a> {
    ability: &'a Ability,
    facts: &'a [&'a Facts],
    about: &'a str,
}

impl All<'_> {
    fn are_as_asked(&self, template: &QuestionTemplate) -> bool {
        let holds = |(name, values): (&String, &Vec<String>)| {
            let truths = self.truths(name);
            truths.is_some_and(|truths| truths.iter().all(|truth| values.contains(&truth.text)))
        };
        let differ = |aspect: &String| {
            self.truths(aspect)
                .is_some_and(|truths| self.are_apart(aspect, &truths))
        };
        template.when.iter().all(holds)
            && template.same.iter().all(|name| self.common(name).is_some())
            && template.different.iter().all(differ)
    }

    /// The truth about an aspect, picture by picture; `None` where one does not state it.
    fn truths(&self, aspect: &str) -> Option<Vec<Value>> {
        let truths = self
            .facts
            .iter()
            .map(|facts| self.ability.truth(aspect, facts));
        truths.collect()
    }

    fn are_apart(&self, aspect: &str, truths: &[Value]) -> bool {
        let apart = |(index, one): (usize, &Value)| {
            let mut others = truths[index + 1..].iter();
            others.all(|other| self.ability.are_apart(aspect, &one.text, &other.text))
        };
        truths.iter().enumerate().all(apart)
    }

    /// The truth that all pictures share; `None` where there is none.
    fn common(&self, aspect: &str) -> Option<Value> {
        let mut truths = self.truths(aspect)?.into_iter();
        let first = truths.next()?;
        truths
            .all(|truth| truth.text == first.text)
            .then_some(first)
    }

    fn sentence(&self, wording: &Template) -> Option<String> {
        Some(capitalised(&wording.render(|slot| self.fill(slot))?))
    }

    fn fill(&self, slot: &Slot) -> Option<String> {
        let name = match slot.name.as_str() {
            "truth" => self.about,
            name => name,
        };
        match slot.picture {
            Some(picture) => slot.of(&self.ability.truth(name, self.facts.get(picture)?)?),
            None => slot.of(&self.common(name)?),
        }
    }

    /// The answers that are named, or else those of what the pictures share.
    fn accepted(&self, template: &QuestionTemplate) -> Option<Vec<String>> {
        if template.accept.is_empty() {
            let common = self.common(self.about);
            return Some(common.map(|truth| truth.accepted()).unwrap_or_default());
        }
        let mut accepted = Vec::new();
        for accept in &template.accept {
            match self.named(accept) {
                Some(value) => accepted.extend(value.accepted()),
                None => accepted.push(accept.render(|slot| self.fill(slot))?),
            }
        }
        Some(accepted)
    }

    /// The value that a text names and nothing else, with all words that answer to it.
    fn named(&self, accept: &Template) -> Option<Value> {
        let slot = accept.slots().next()?;
        let is_all = accept.source().starts_with('{') && accept.source().ends_with('}');
        if !is_all || slot.form.is_some() || accept.slots().count() > 1 {
            return None;
        }
        match slot.picture {
            Some(picture) => self.ability.truth(&slot.name, self.facts.get(picture)?),
            None => self.common(&slot.name),
        }
    }
}
