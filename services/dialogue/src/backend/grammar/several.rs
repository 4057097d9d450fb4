//! Conversations about several pictures: shown together and then spoken of by their places, or one in
//! each turn and together once all were seen.

use super::{PREFERENCE, Round};
use crate::{
    error::Error,
    request::{Item, Style},
};
use dataset::{
    ability::{Ability, Draws, QuestionTemplate, Shown, Template},
    question::{Claim, Question},
};
use proto::dataset::v1::{Facts, QuestionKind};

/// The rounds of one conversation as they are drawn.
pub(super) struct Rounds<'a> {
    ability: &'a Ability,
    facts: Vec<&'a Facts>,
    /// Kinds in the order in which rounds take them, over and over.
    kinds: Vec<QuestionKind>,
    wanted: usize,
    draws: Draws,
    asked: Vec<Asked>,
}

/// A question with the picture that it is about; none for all together.
struct Asked {
    question: Question,
    picture: Option<usize>,
}

impl<'a> Rounds<'a> {
    /// `facts` are of the ability's pictures, and there are rounds enough to show them.
    pub(super) fn new(
        ability: &'a Ability,
        facts: Vec<&'a Facts>,
        item: &Item,
        style: &Style,
    ) -> Self {
        let id = item.sample_id.to_string();
        let mut draws = Draws::new(&["dialogue several", &style.seed.to_string(), &id]);
        // A follow-up is about the picture before, which is no longer the one that is shown.
        let allowed = |kind: &&QuestionKind| {
            **kind != QuestionKind::FollowUp
                && (style.kinds.is_empty() || style.kinds.contains(kind))
        };
        let kinds = ability.question_kinds().iter().filter(allowed);
        let mut kinds: Vec<_> = kinds.copied().collect();
        draws.shuffle(&mut kinds);
        Self {
            kinds: in_turn(kinds),
            ability,
            facts,
            wanted: style.round_count,
            draws,
            asked: Vec::new(),
        }
    }

    pub(super) fn collect(mut self) -> Result<Vec<Round>, Error> {
        let ability = self.ability.name().to_owned();
        if self.kinds.is_empty() {
            return Err(Error::NoQuestion { ability });
        }
        while self.asked.len() < self.wanted {
            let Some(asked) = self.next() else {
                let (found, wanted) = (self.asked.len(), self.wanted);
                return Err(Error::TooFewQuestions {
                    ability,
                    found,
                    wanted,
                });
            };
            self.asked.push(asked);
        }
        let shown: Vec<_> = (0..self.wanted)
            .map(|number| self.shown_in(number))
            .collect();
        let rounds = self.asked.into_iter().zip(shown);
        Ok(rounds
            .map(|(asked, shown)| Round {
                question: asked.question,
                shown,
            })
            .collect())
    }

    /// The pictures that a round shows.
    fn shown_in(&self, number: usize) -> Vec<u32> {
        let all = 0..self.facts.len() as u32;
        match (self.ability.shown(), number) {
            (Shown::Together, 0) => all.collect(),
            (Shown::OnePerTurn, number) => all.skip(number).take(1).collect(),
            (Shown::Together, _) => Vec::new(),
        }
    }

    /// The next round: of the next kind in turn that still has something to ask.
    fn next(&mut self) -> Option<Asked> {
        for _ in 0..self.kinds.len() {
            let kind = *self.kinds.first()?;
            self.kinds.rotate_left(1);
            if let Some(asked) = self.of_kind(kind) {
                return Some(asked);
            }
        }
        None
    }

    fn of_kind(&mut self, kind: QuestionKind) -> Option<Asked> {
        let number = self.asked.len();
        let is_shown_now = self.ability.shown() == Shown::OnePerTurn && number < self.facts.len();
        if kind == QuestionKind::MultiImage {
            return match is_shown_now {
                true => None,
                false => self.about(kind, None, false),
            };
        }
        if is_shown_now {
            return self.about(kind, Some(number), false);
        }
        let mut pictures: Vec<usize> = (0..self.facts.len()).collect();
        self.draws.shuffle(&mut pictures);
        let mut pictures = pictures.into_iter();
        pictures.find_map(|picture| self.about(kind, Some(picture), true))
    }

    /// A question of a kind about one picture or all; `is_named` where it must say which one.
    fn about(
        &mut self,
        kind: QuestionKind,
        picture: Option<usize>,
        is_named: bool,
    ) -> Option<Asked> {
        let ability = self.ability;
        let templates = ability.questions().iter();
        let templates = templates
            .filter(|template| template.kind == kind && template.names_picture() == is_named);
        let mut lots = Vec::new();
        for template in templates {
            lots.extend(std::iter::repeat_n(
                template,
                self.weight(template, picture),
            ));
        }
        self.draws.shuffle(&mut lots);
        let claim = match self.draws.coin() {
            true => Claim::True,
            false => Claim::False,
        };
        if picture.is_none() {
            // Yes or no, each as often, to one question of three.
            lots.retain(|template| answer(template).is_none_or(|answer| answer == claim));
            let is_closed = self.draws.below(3) == 0;
            lots.sort_by_key(|template| answer(template).is_some() != is_closed);
        }
        let question = lots
            .into_iter()
            .find_map(|template| self.new_question(template, picture, claim))?;
        Some(Asked { question, picture })
    }

    fn new_question(
        &mut self,
        template: &QuestionTemplate,
        picture: Option<usize>,
        claim: Claim,
    ) -> Option<Question> {
        let (ability, draws) = (self.ability, &mut self.draws);
        let question = match picture {
            None => ability.question_of_all(template, &self.facts, draws),
            Some(index) => {
                let about = (index, *self.facts.get(index)?);
                ability.question_of_one(template, about, claim, draws)
            }
        }?;
        // The same may be asked of another picture, once that one is shown.
        let is_asked =
            |asked: &Asked| asked.question.text == question.text && asked.picture == picture;
        (!self.asked.iter().any(is_asked)).then_some(question)
    }

    /// How many lots a template has: more for what the ability is about, and for an aspect of the
    /// picture that was not asked about.
    fn weight(&self, template: &QuestionTemplate, picture: Option<usize>) -> usize {
        let main = self.ability.main_aspect();
        let aspect = template.about.as_deref().unwrap_or(main);
        let is_asked = |asked: &Asked| asked.question.aspect == aspect && asked.picture == picture;
        let of_main = if aspect == main { PREFERENCE } else { 1 };
        let of_new = match self.asked.iter().any(is_asked) {
            true => 1,
            false => PREFERENCE,
        };
        of_main * of_new
    }
}

/// The kinds with every other one about all pictures, since that is what they are together for.
fn in_turn(mut kinds: Vec<QuestionKind>) -> Vec<QuestionKind> {
    let all = QuestionKind::MultiImage;
    if !kinds.contains(&all) || kinds.len() == 1 {
        return kinds;
    }
    kinds.retain(|&kind| kind != all);
    kinds.into_iter().flat_map(|kind| [all, kind]).collect()
}

/// Yes or no, where a question about all pictures is answered by one of them.
fn answer(template: &QuestionTemplate) -> Option<Claim> {
    let mut answers = template.accept.iter().map(Template::source);
    answers.find_map(|answer| match answer {
        "yes" => Some(Claim::True),
        "no" => Some(Claim::False),
        _ => None,
    })
}
