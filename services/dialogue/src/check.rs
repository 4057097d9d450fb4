//! Holds a conversation against the facts of its prompts and names every disagreement.

use crate::lexicon::{Lexicon, Mention, Verdict};
use dataset::{
    ability::{Abilities, Ability, Value},
    question::{ORDINALS, mentions},
};
use proto::{
    dataset::v1::{Conversation, Facts, Prompt, QuestionKind, Role, Turn},
    dialogue::v1::Disagreement,
};
use std::{collections::BTreeSet, sync::Arc};

/// Knows the words of all abilities.
pub(crate) struct Checker {
    abilities: Arc<Abilities>,
    lexicon: Lexicon,
}

/// What a conversation is held against.
struct Truth<'a> {
    checker: &'a Checker,
    facts: Vec<&'a Facts>,
    abilities: Vec<(&'a Ability, &'a Facts)>,
}

/// A question with its answer.
struct Round<'a> {
    kind: QuestionKind,
    question: &'a str,
    answer: &'a str,
    keywords: &'a [String],
}

impl Checker {
    pub(crate) fn new(abilities: Arc<Abilities>) -> Self {
        Self {
            lexicon: Lexicon::new(&abilities),
            abilities,
        }
    }

    /// Every disagreement, by turn. Prompts without facts are passed over.
    pub(crate) fn check(
        &self,
        conversation: &Conversation,
        prompts: &[Prompt],
    ) -> Vec<Disagreement> {
        let turns = &conversation.turns;
        let mut found = structure(turns, prompts.len());
        for (index, pair) in turns.windows(2).enumerate() {
            let [question, answer] = pair else { continue };
            if question.role() == Role::User && answer.role() == Role::Assistant {
                let round = Round::new(question, answer);
                let about = match round.kind {
                    QuestionKind::MultiImage => (0..prompts.len()).collect(),
                    _ => pictures(&question.text, &question.image_index, prompts.len()),
                };
                let prompts = prompts.iter().enumerate();
                let asked = prompts.filter(|(picture, _)| about.contains(picture));
                let truth = Truth::new(self, asked.map(|(_, prompt)| prompt));
                let reasons = truth.disagreements(&round);
                found.extend(reasons.into_iter().map(|reason| at(index + 1, reason)));
            }
        }
        found.sort_by_key(|disagreement| disagreement.turn_index);
        found
    }
}

/// Pictures that a question is about which is not about all together: those that it names, or else shows, or else all.
fn pictures(question: &str, shown: &[u32], image_count: usize) -> BTreeSet<usize> {
    let is_named = |index: &usize| {
        let name = ORDINALS
            .get(*index)
            .is_some_and(|name| mentions(question, name));
        let number = index + 1;
        let words = ["picture", "image", "photo"].map(|word| format!("{word} {number}"));
        name || words.iter().any(|words| mentions(question, words))
    };
    // With one picture, a first something in a question is no picture.
    let named: BTreeSet<_> = match image_count {
        0 | 1 => BTreeSet::new(),
        _ => (0..image_count).filter(is_named).collect(),
    };
    let shown: BTreeSet<_> = shown.iter().map(|&image| image as usize).collect();
    let found = if named.is_empty() { shown } else { named };
    match found.is_empty() {
        true => (0..image_count).collect(),
        false => found,
    }
}

/// What can be said of turns without facts.
fn structure(turns: &[Turn], image_count: usize) -> Vec<Disagreement> {
    let mut found = Vec::new();
    if turns.len() < 2 || !turns.len().is_multiple_of(2) {
        found.push(at(
            turns.len().saturating_sub(1),
            "a conversation has pairs of question and answer".to_owned(),
        ));
    }
    if let Some(first) = turns.first()
        && !first.image_index.contains(&0)
    {
        found.push(at(0, "the first turn must show image 0".to_owned()));
    }
    for (index, turn) in turns.iter().enumerate() {
        let expected = if index.is_multiple_of(2) {
            Role::User
        } else {
            Role::Assistant
        };
        if turn.role() != expected {
            found.push(at(
                index,
                format!(
                    "the roles do not alternate: {} is expected here",
                    expected.as_str_name()
                ),
            ));
        }
        if turn.text.trim().is_empty() {
            found.push(at(index, "the turn has no words".to_owned()));
        }
        let missing = turn
            .image_index
            .iter()
            .find(|&&image| image as usize >= image_count);
        if let Some(image) = missing {
            found.push(at(
                index,
                format!("it shows image {image}, and there are {image_count}"),
            ));
        }
    }
    found
}

fn at(index: usize, reason: String) -> Disagreement {
    Disagreement {
        turn_index: u32::try_from(index).unwrap_or(u32::MAX),
        reason,
    }
}

impl<'a> Round<'a> {
    fn new(question: &'a Turn, answer: &'a Turn) -> Self {
        let kind = match (question.kind(), answer.kind()) {
            (QuestionKind::Unspecified, kind) => kind,
            (kind, _) => kind,
        };
        // A question that is answered by yes or no is one, whatever it is called.
        let kind = match (kind, said(&answer.text)) {
            (QuestionKind::Unspecified, Some(_)) => QuestionKind::YesNo,
            (kind, _) => kind,
        };
        Self {
            kind,
            question: &question.text,
            answer: &answer.text,
            keywords: &answer.answer_keywords,
        }
    }
}

impl<'a> Truth<'a> {
    /// The truth of some prompts; those without facts say nothing.
    fn new(checker: &'a Checker, prompts: impl Iterator<Item = &'a Prompt>) -> Self {
        let mut truth = Self {
            checker,
            facts: Vec::new(),
            abilities: Vec::new(),
        };
        for prompt in prompts {
            let Some(facts) = &prompt.facts else { continue };
            truth.facts.push(facts);
            if let Some(ability) = checker.abilities.get(&prompt.ability) {
                truth.abilities.push((ability, facts));
            }
        }
        truth
    }
}

impl Truth<'_> {
    /// What a text claims of the pictures.
    fn mentions(&self, text: &str) -> Vec<Mention<'_>> {
        let abilities = self.abilities.iter().map(|(ability, _)| ability.name());
        let abilities: Vec<&str> = abilities.collect();
        self.checker.lexicon.mentions(text, &abilities)
    }

    fn disagreements(&self, round: &Round<'_>) -> Vec<String> {
        let mentions = self.mentions(round.answer);
        let mut reasons: Vec<_> = mentions
            .iter()
            .filter_map(|mention| self.false_claim(mention))
            .collect();
        reasons.extend(match round.kind {
            QuestionKind::YesNo => self.yes_no(round),
            QuestionKind::Negative => self.negative(round),
            QuestionKind::Caption => self.caption(round, &mentions),
            QuestionKind::Wh | QuestionKind::FollowUp => {
                self.keyword(round).or_else(|| self.asked_aspect(round))
            }
            QuestionKind::EitherOr => self.keyword(round),
            QuestionKind::MultipleChoice => letter(round).or_else(|| self.keyword(round)),
            QuestionKind::MultiImage | QuestionKind::Unspecified => None,
        });
        reasons
    }

    /// A claim of an answer that the facts contradict, or know nothing of.
    fn false_claim(&self, mention: &Mention<'_>) -> Option<String> {
        let phrase = mention.phrase;
        match (mention.verdict(&self.facts), mention.is_negated) {
            (Verdict::True, true) => Some(format!("it denies `{phrase}`, which the facts state")),
            (Verdict::False, false) => Some(format!(
                "it says `{phrase}`; the facts say {}",
                self.said_by_facts(mention)
            )),
            (Verdict::Unstated, false) => {
                Some(format!("it says `{phrase}`, which the facts do not state"))
            }
            _ => None,
        }
    }

    fn said_by_facts(&self, mention: &Mention<'_>) -> String {
        let paths = mention.claims.iter().map(|claim| &claim.fact);
        let stated = paths.flat_map(|path| self.facts.iter().filter_map(|facts| path.read(facts)));
        let mut stated: Vec<_> = stated.map(|value| format!("`{value}`")).collect();
        stated.dedup();
        stated.join(", ")
    }

    fn yes_no(&self, round: &Round<'_>) -> Option<String> {
        let Some(said) = said(round.answer) else {
            return Some("a yes/no question is answered by neither yes nor no".to_owned());
        };
        if !round.keywords.is_empty() && !round.keywords.iter().any(|word| word == word_of(said)) {
            return Some(format!(
                "it says {}, and its keywords are {:?}",
                word_of(said),
                round.keywords
            ));
        }
        let expected = self.expected(round.question)?;
        (said != expected).then(|| {
            format!(
                "it says {} where the facts say {}",
                word_of(said),
                word_of(expected)
            )
        })
    }

    /// Whether everything that a yes/no question claims is so; `None` where it cannot be told.
    fn expected(&self, question: &str) -> Option<bool> {
        let mentions = self.mentions(question);
        let verdicts: Vec<_> = mentions
            .iter()
            .map(|mention| mention.verdict(&self.facts))
            .collect();
        if verdicts.contains(&Verdict::False) {
            return Some(false);
        }
        (!verdicts.is_empty() && !verdicts.contains(&Verdict::Unstated)).then_some(true)
    }

    fn negative(&self, round: &Round<'_>) -> Option<String> {
        if !["no", "not", "none", "nothing"]
            .iter()
            .any(|word| mentions(round.answer, word))
        {
            return Some("it does not say that the thing asked for is absent".to_owned());
        }
        let asked = self.mentions(round.question);
        let all_there = !asked.is_empty()
            && asked
                .iter()
                .all(|mention| mention.verdict(&self.facts) == Verdict::True);
        all_there.then(|| "what it calls absent is in the picture".to_owned())
    }

    fn caption(&self, round: &Round<'_>, found: &[Mention<'_>]) -> Option<String> {
        let names_truth = found
            .iter()
            .any(|mention| !mention.is_negated && mention.verdict(&self.facts) == Verdict::True);
        let main = self.abilities.iter().all(|(ability, facts)| {
            let aspects = ability
                .aspects()
                .keys()
                .filter(|aspect| *aspect != "scene" && *aspect != "style");
            let aspects = aspects.map(String::as_str).chain([ability.main_aspect()]);
            aspects
                .into_iter()
                .any(|aspect| self.names(round.answer, ability, facts, aspect))
        });
        (!names_truth || !main).then(|| "it does not name what the picture is about".to_owned())
    }

    fn names(&self, answer: &str, ability: &Ability, facts: &Facts, aspect: &str) -> bool {
        let truth = ability.truth(aspect, facts);
        truth.is_some_and(|truth| {
            let forms = truth.words.values().cloned();
            truth
                .accepted()
                .into_iter()
                .chain(forms)
                .any(|word| mentions(answer, &word))
        })
    }

    /// Whether some fact has these words, be it of an aspect of the ability or of none.
    fn is_stated(&self, words: &str) -> bool {
        self.facts.iter().any(|facts| {
            let subjects = facts.subjects.iter();
            let stated = subjects.flat_map(|subject| {
                let values = subject.attributes.iter().map(|attribute| &attribute.value);
                std::iter::once(&subject.name).chain(values)
            });
            let mut stated = stated.chain([&facts.scene, &facts.style]);
            stated.any(|stated| {
                Value::new(stated)
                    .accepted()
                    .iter()
                    .any(|form| form == words)
            })
        })
    }

    /// The answer must hold one of its keywords, and the keywords must be true.
    fn keyword(&self, round: &Round<'_>) -> Option<String> {
        let keywords = round.keywords;
        if keywords.is_empty() {
            return None;
        }
        let is_accepted = |keyword: &String| {
            self.abilities.iter().any(|(ability, facts)| {
                let mut truths = ability
                    .aspects()
                    .keys()
                    .filter_map(|aspect| ability.truth(aspect, facts));
                truths.any(|truth| truth.accepted().contains(keyword))
            })
        };
        let is_true = |keyword: &String| is_accepted(keyword) || self.is_stated(keyword);
        if !self.abilities.is_empty() && !keywords.iter().any(is_true) {
            return Some(format!("the facts know none of its keywords {keywords:?}"));
        }
        let spoken = self.mentions(round.answer);
        let named = keywords.iter().any(|word| mentions(round.answer, word));
        let described = spoken.iter().any(|mention| {
            mention
                .claims
                .iter()
                .any(|claim| keywords.contains(&claim.value))
        });
        (!named && !described).then(|| format!("it names none of its keywords {keywords:?}"))
    }

    /// A question that the ability asks in these words must be answered about its aspect.
    fn asked_aspect(&self, round: &Round<'_>) -> Option<String> {
        let wrong = |(ability, facts): &(&Ability, &Facts)| {
            let same = |template: &&dataset::ability::QuestionTemplate| {
                template.kind == round.kind
                    && ability
                        .wordings(template, facts)
                        .iter()
                        .any(|text| text == round.question)
            };
            let aspects = ability.questions().iter().filter(same);
            let aspects: Vec<_> = aspects
                .map(|template| template.about.as_deref().unwrap_or(ability.main_aspect()))
                .collect();
            let answered = aspects
                .iter()
                .any(|aspect| self.names(round.answer, ability, facts, aspect));
            (!aspects.is_empty() && !answered)
                .then(|| format!("it does not name the {} asked for", aspects.join(" or ")))
        };
        self.abilities.iter().find_map(wrong)
    }
}

/// `B. cat` must be the choice that the question calls B.
fn letter(round: &Round<'_>) -> Option<String> {
    let (letter, said) = round.answer.split_once(". ")?;
    let marker = format!("{letter}. ");
    let (_, rest) = round.question.split_once(&marker)?;
    let choice = rest
        .split(", ")
        .next()
        .unwrap_or(rest)
        .trim_end_matches(['.', '?']);
    let said = said.trim_end_matches('.');
    (choice != said)
        .then(|| format!("it calls choice {letter} `{said}`, and the question calls it `{choice}`"))
}

fn said(answer: &str) -> Option<bool> {
    let first: String = answer
        .trim_start()
        .chars()
        .take_while(|character| character.is_alphabetic())
        .collect();
    match first.to_lowercase().as_str() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

fn word_of(said: bool) -> &'static str {
    if said { "yes" } else { "no" }
}
