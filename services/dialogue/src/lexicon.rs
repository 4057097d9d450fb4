//! Words that claim something about a picture: every value of every ability, in the
//! forms in which it is spoken of.

use dataset::ability::{Abilities, Ability, FactPath, Value};
use proto::dataset::v1::Facts;
use std::collections::{BTreeMap, BTreeSet};

/// Phrases with what they claim, the longest first, so that `red hair` is found
/// before `red`.
pub(crate) struct Lexicon {
    entries: Vec<(String, Vec<Stated>)>,
}

/// What a phrase claims: that a fact has a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stated {
    pub(crate) fact: FactPath,
    pub(crate) value: String,
    /// The ability in whose dialogues alone the phrase claims this; none for all.
    pub(crate) only_in: Option<String>,
}

/// A phrase found in a text.
#[derive(Clone, Debug)]
pub(crate) struct Mention<'a> {
    /// Where it begins, in bytes of the lower-cased text.
    pub(crate) start: usize,
    /// The phrase as the lexicon has it.
    pub(crate) phrase: &'a str,
    /// What it may claim.
    pub(crate) claims: Vec<&'a Stated>,
    /// True behind "no" or "not": the text says that it is not so.
    pub(crate) is_negated: bool,
}

/// What the facts say to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// So it is.
    True,
    /// It is otherwise.
    False,
    /// The facts do not say.
    Unstated,
}

impl Lexicon {
    /// The words of all abilities.
    pub(crate) fn new(abilities: &Abilities) -> Self {
        let mut phrases: BTreeMap<String, Vec<Stated>> = BTreeMap::new();
        for ability in abilities.iter() {
            let forms = spoken_forms(ability);
            for (name, aspect) in ability.aspects() {
                for value in ability.values(name) {
                    let stated = Stated {
                        fact: aspect.fact.clone(),
                        value: value.text.clone(),
                        only_in: aspect.own_words.then(|| ability.name().to_owned()),
                    };
                    for phrase in spoken(value, &forms) {
                        let claims = phrases.entry(phrase).or_default();
                        if !claims.contains(&stated) {
                            claims.push(stated.clone());
                        }
                    }
                }
            }
        }
        let mut entries: Vec<_> = phrases.into_iter().collect();
        entries.sort_by_key(|(phrase, _)| std::cmp::Reverse(phrase.len()));
        Self { entries }
    }

    /// Every phrase in a text that claims something of pictures of these abilities, in the order of
    /// the text; none inside another.
    pub(crate) fn mentions(&self, text: &str, abilities: &[&str]) -> Vec<Mention<'_>> {
        let text = text.to_lowercase();
        let mut taken = vec![false; text.len()];
        let mut found = Vec::new();
        for (phrase, claims) in &self.entries {
            let claims = claims.iter().filter(|claim| claim.counts_in(abilities));
            let claims: Vec<&Stated> = claims.collect();
            if claims.is_empty() {
                continue;
            }
            for start in whole_words(&text, phrase) {
                let span = start..start + phrase.len();
                if taken[span.clone()].iter().all(|taken| !taken) {
                    taken[span].fill(true);
                    found.push(Mention {
                        start,
                        phrase,
                        claims: claims.clone(),
                        is_negated: is_negated(&text[..start]),
                    });
                }
            }
        }
        found.sort_by_key(|mention| mention.start);
        found
    }
}

impl Mention<'_> {
    /// The most favourable verdict over what the phrase may claim.
    pub(crate) fn verdict(&self, facts: &[&Facts]) -> Verdict {
        let verdicts: Vec<_> = self
            .claims
            .iter()
            .map(|claim| claim.verdict(facts))
            .collect();
        let first_of = |wanted: &Verdict| verdicts.contains(wanted);
        [Verdict::True, Verdict::Unstated]
            .into_iter()
            .find(first_of)
            .unwrap_or(Verdict::False)
    }
}

impl Stated {
    fn counts_in(&self, abilities: &[&str]) -> bool {
        let only_in = self.only_in.as_deref();
        only_in.is_none_or(|name| abilities.contains(&name))
    }

    fn verdict(&self, facts: &[&Facts]) -> Verdict {
        let mut is_stated = false;
        for facts in facts {
            for truth in truths(&self.fact, facts) {
                if truth == self.value {
                    return Verdict::True;
                }
                is_stated = true;
            }
        }
        if is_stated {
            Verdict::False
        } else {
            Verdict::Unstated
        }
    }
}

/// What the facts hold at a place, over all subjects.
fn truths<'a>(fact: &FactPath, facts: &'a Facts) -> Vec<&'a str> {
    let subjects = facts.subjects.iter();
    let stated = |text: &'a String| {
        if text.is_empty() {
            Vec::new()
        } else {
            vec![text.as_str()]
        }
    };
    match fact {
        FactPath::Subject => subjects.map(|subject| subject.name.as_str()).collect(),
        FactPath::Scene => stated(&facts.scene),
        FactPath::Style => stated(&facts.style),
        FactPath::Category => subjects.map(|subject| subject.category.as_str()).collect(),
        FactPath::Attribute(name) => {
            let attributes = subjects.flat_map(|subject| &subject.attributes);
            attributes
                .filter(|attribute| attribute.name == *name)
                .map(|attribute| attribute.value.as_str())
                .collect()
        }
    }
}

/// Word forms that the ability's questions and captions use; others (`category`) are
/// never spoken.
fn spoken_forms(ability: &Ability) -> BTreeSet<&str> {
    let questions = ability.questions().iter().chain(ability.evaluation());
    let texts = questions.flat_map(|question| {
        question
            .ask
            .iter()
            .chain(&question.answer)
            .chain(&question.answer_no)
    });
    let slots = texts
        .chain(ability.captions())
        .flat_map(|text| text.slots());
    slots.filter_map(|slot| slot.form.as_deref()).collect()
}

/// The value's own words, singular and plural, and its spoken forms. Its synonyms are
/// left out: they may mean something else elsewhere (`white`, `row`).
fn spoken(value: &Value, forms: &BTreeSet<&str>) -> Vec<String> {
    let mut phrases = Value::new(&value.text).accepted();
    phrases.extend(
        value
            .words
            .iter()
            .filter(|(form, _)| forms.contains(form.as_str()))
            .map(|(_, words)| words.to_lowercase()),
    );
    phrases
}

/// Where a phrase stands in a text as whole words.
fn whole_words<'t>(text: &'t str, phrase: &'t str) -> impl Iterator<Item = usize> + 't {
    let is_word = |character: Option<char>| character.is_some_and(char::is_alphanumeric);
    text.match_indices(phrase)
        .map(|(start, _)| start)
        .filter(move |&start| {
            !is_word(text[..start].chars().next_back())
                && !is_word(text[start + phrase.len()..].chars().next())
        })
}

/// Whether the words before a phrase deny it: a "no" or "not" in the same clause, at
/// most four words away.
fn is_negated(before: &str) -> bool {
    let clause = before
        .rsplit([',', '.', ';', ':', '!', '?'])
        .next()
        .unwrap_or(before);
    let near = clause
        .split_whitespace()
        .rev()
        .take(4)
        .take_while(|word| *word != "but");
    near.into_iter()
        .any(|word| matches!(word, "no" | "not" | "without" | "never") || word.ends_with("n't"))
}
