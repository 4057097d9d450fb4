//! A conversation as the model wrote it: held against its plan, and put into turns.

use super::{
    brief::{ORDINALS, kind_name},
    plan::{About, Round},
};
use dataset::question::mentions;
use proto::dataset::v1::{QuestionKind, Role, Turn};
use serde::Deserialize;

/// The model's answer.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Draft {
    pub(super) turns: Vec<DraftTurn>,
}

/// One round of it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct DraftTurn {
    kind: String,
    question: String,
    options: Vec<String>,
    answer: String,
    answer_keywords: Vec<String>,
}

const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// Words that give away that nobody looked: what a person says of a picture never holds them.
const GIVEAWAYS: [&str; 7] = [
    "the facts",
    "facts state",
    "the prompt",
    "the description",
    "keyword",
    "as an AI",
    "language model",
];

impl Draft {
    /// Everything in which it departs from the plan, as sentences for the model.
    pub(super) fn complaints(&self, plan: &[Round], image_count: usize) -> Vec<String> {
        if self.turns.len() != plan.len() {
            let found = self.turns.len();
            return vec![format!("there are {found} rounds, not {}", plan.len())];
        }
        let mut complaints = Vec::new();
        for (index, (turn, round)) in self.turns.iter().zip(plan).enumerate() {
            let found = turn.complaint(round, image_count);
            let again = || {
                let mut earlier = self.turns[..index].iter();
                let is_same =
                    earlier.any(|earlier| earlier.question.trim() == turn.question.trim());
                is_same.then(|| "its question was asked before".to_owned())
            };
            let found = found.or_else(again);
            complaints.extend(found.map(|found| format!("round {}: {found}", index + 1)));
        }
        complaints
    }

    /// Its turns, with pictures, letters and keywords where the plan has them.
    pub(super) fn turns(&self, plan: &[Round]) -> Vec<Turn> {
        let rounds = self.turns.iter().zip(plan);
        rounds.flat_map(|(turn, round)| turn.turns(round)).collect()
    }
}

impl DraftTurn {
    fn complaint(&self, round: &Round, image_count: usize) -> Option<String> {
        let kind = kind_name(round.kind);
        if self.kind != kind {
            return Some(format!("it is {}, and the plan says {kind}", self.kind));
        }
        let spoken = format!("{} {}", self.question, self.answer);
        if let Some(word) = GIVEAWAYS.iter().find(|word| mentions(&spoken, word)) {
            return Some(format!("it speaks of `{word}`; speak of the picture"));
        }
        self.picture(round, image_count)
            .or_else(|| match round.kind {
                QuestionKind::YesNo => self.yes_no(round),
                QuestionKind::MultipleChoice => self.choices(),
                QuestionKind::EitherOr if !mentions(&self.question, "or") => {
                    Some("its question does not name two things with `or`".to_owned())
                }
                QuestionKind::Wh | QuestionKind::EitherOr => self.keywords(),
                _ => None,
            })
    }

    /// A question about one of several pictures must say which, unless it shows that one alone.
    fn picture(&self, round: &Round, image_count: usize) -> Option<String> {
        let About::One(index) = round.about else {
            return None;
        };
        let name = ORDINALS.get(index).copied()?;
        let is_clear = image_count == 1
            || round.shows == [index]
            || round.kind == QuestionKind::FollowUp
            || mentions(&self.question, name);
        (!is_clear).then(|| format!("its question does not say `the {name} picture`"))
    }

    fn yes_no(&self, round: &Round) -> Option<String> {
        let expected = if round.is_yes { "yes" } else { "no" };
        let first = self.answer.split(|mark: char| !mark.is_alphabetic()).next();
        let is_expected = first.is_some_and(|word| word.eq_ignore_ascii_case(expected));
        (!is_expected).then(|| {
            format!("the plan wants a question whose true answer begins with `{expected}`")
        })
    }

    fn choices(&self) -> Option<String> {
        let options: Vec<_> = self.options.iter().map(|option| plain(option)).collect();
        let right = plain(&self.answer);
        if options.len() < 3 || options.iter().any(|option| option.contains(", ")) {
            return Some("it needs three or four choices without commas".to_owned());
        }
        if options.iter().filter(|&option| *option == right).count() != 1 {
            return Some(format!(
                "its answer `{}` is not one of its options",
                self.answer
            ));
        }
        let mut distinct = options.clone();
        distinct.sort_unstable();
        distinct.dedup();
        (distinct.len() < options.len()).then(|| "two of its choices are the same".to_owned())
    }

    fn keywords(&self) -> Option<String> {
        let is_said = |word: &String| mentions(&self.answer, word.trim());
        let is_named = self.answer_keywords.iter().any(is_said);
        (!is_named).then(|| "its answer holds none of its answer_keywords".to_owned())
    }

    fn turns(&self, round: &Round) -> [Turn; 2] {
        let (question, answer, keywords) = match round.kind {
            QuestionKind::MultipleChoice => self.lettered(round),
            QuestionKind::YesNo => (
                self.question.trim().to_owned(),
                self.answer.trim().to_owned(),
                vec![if round.is_yes { "yes" } else { "no" }.to_owned()],
            ),
            _ => (
                self.question.trim().to_owned(),
                self.answer.trim().to_owned(),
                self.small_keywords(),
            ),
        };
        let shows = round
            .shows
            .iter()
            .filter_map(|&image| image.try_into().ok());
        let turn = |role: Role, text: String| Turn {
            role: role.into(),
            text,
            kind: round.kind.into(),
            ..Turn::default()
        };
        let question = Turn {
            image_index: shows.collect(),
            ..turn(Role::User, question)
        };
        let answer = Turn {
            answer_keywords: keywords,
            ..turn(Role::Assistant, answer)
        };
        [question, answer]
    }

    /// The choices with letters, the right one where the plan has it: models like the first.
    fn lettered(&self, round: &Round) -> (String, String, Vec<String>) {
        let right = plain(&self.answer);
        let mut options: Vec<_> = self.options.iter().map(|option| plain(option)).collect();
        let place = round.letter % options.len().max(1);
        if let Some(now) = options.iter().position(|option| *option == right) {
            options.swap(now, place);
        }
        let lettered = LETTERS.iter().zip(&options);
        let lettered: Vec<_> = lettered
            .map(|(letter, option)| format!("{letter}. {option}"))
            .collect();
        let question = format!("{} {}", self.question.trim(), lettered.join(", "));
        let letter = LETTERS.get(place).copied().unwrap_or("A");
        let mut keywords = vec![right.to_lowercase()];
        keywords.extend(self.small_keywords());
        keywords.dedup();
        (question, format!("{letter}. {right}"), keywords)
    }

    fn small_keywords(&self) -> Vec<String> {
        let small = self.answer_keywords.iter();
        let small = small.map(|word| word.trim().to_lowercase());
        small.filter(|word| !word.is_empty()).collect()
    }
}

/// A choice without what models put around it.
fn plain(choice: &str) -> String {
    let choice = choice.trim().trim_end_matches('.');
    let without_letter = LETTERS.iter().find_map(|letter| {
        let rest = choice.strip_prefix(letter)?;
        rest.strip_prefix(". ").or_else(|| rest.strip_prefix(") "))
    });
    without_letter.unwrap_or(choice).trim().to_owned()
}
