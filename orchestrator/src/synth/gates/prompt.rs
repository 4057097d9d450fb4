//! Gates on prompts: whatever they refuse costs no picture.

use dataset::question::mentions;
use proto::dataset::v1::{GateResult, Prompt};

use super::{NEAR_MEANING, NEAR_PROMPT, PROMPT_FORM, judged, not_checked, not_too_near};
use crate::recipe::Gates;

/// Longest prompt, in words; over it a text encoder of 77 tokens certainly cuts.
const MAX_WORDS: usize = 75;
/// What no description of a picture says: refusals.
const NEVER: [&str; 4] = ["as an ai", "i cannot", "i can't", "i'm sorry"];
/// What none begins with: talk about the task.
const NEVER_FIRST: [&str; 7] = [
    "sure",
    "here is",
    "here are",
    "prompt",
    "please",
    "this image",
    "this picture",
];
/// Endings that make another form of a word.
const ENDINGS: [&str; 8] = ["", "s", "es", "d", "ed", "ing", "er", "ers"];

/// Refuses a prompt that has no words, open brackets, more words than an encoder reads, talk in
/// place of a description, or not its own keyword (the paper's release has rows of each).
pub fn form(gates: &Gates, prompt: &Prompt) -> Option<GateResult> {
    gates
        .prompt_form
        .then(|| judged(PROMPT_FORM, fault(prompt)))
}

/// Refuses a prompt whose words were nearly used before, and one whose meaning was: the highest
/// MinHash similarity and the highest cosine. `None` for a cosine means that no model embeds texts.
pub fn repetition(gates: &Gates, similarity: f64, cosine: Option<f64>) -> Vec<GateResult> {
    let words = gates
        .max_prompt_similarity
        .map(|bound| not_too_near(NEAR_PROMPT, similarity, bound, "accepted before"));
    let meaning = gates.max_prompt_cosine.map(|bound| match cosine {
        None => not_checked(NEAR_MEANING, "no model embeds texts"),
        Some(cosine) => not_too_near(NEAR_MEANING, cosine, bound, "accepted before"),
    });
    words.into_iter().chain(meaning).collect()
}

fn fault(prompt: &Prompt) -> Option<String> {
    let lower = prompt.text.to_lowercase();
    let words: Vec<&str> = words(&lower).collect();
    if words.is_empty() {
        return Some("it has no words".to_owned());
    }
    if words.len() > MAX_WORDS {
        return Some(format!(
            "it has {} words, more than {MAX_WORDS}",
            words.len()
        ));
    }
    if let Some(reason) = unbalanced(&prompt.text) {
        return Some(reason);
    }
    if lower.contains('?') || lower.contains('\n') {
        return Some("it is no description: it asks, or has several lines".to_owned());
    }
    let said = NEVER.iter().find(|phrase| mentions(&lower, phrase));
    if let Some(phrase) = said.or_else(|| NEVER_FIRST.iter().find(|phrase| begins(&lower, phrase)))
    {
        return Some(format!("`{phrase}` describes nothing that can be seen"));
    }
    // The keyword of an ability such as `abnormal` is no word of the picture; its subject is.
    let subjects = prompt.facts.iter().flat_map(|facts| &facts.subjects);
    let named = subjects
        .map(|subject| &subject.name)
        .chain([&prompt.keyword]);
    let mut named = named.filter(|name| !name.is_empty()).peekable();
    let is_named = named.peek().is_none() || named.any(|name| is_in(&words, name));
    (!is_named).then(|| {
        format!(
            "it names neither `{}` nor a subject of its facts",
            prompt.keyword
        )
    })
}

/// Whether every word of a name is there, in some form.
fn is_in(words: &[&str], name: &str) -> bool {
    let name = name.to_lowercase();
    self::words(&name).all(|part| words.iter().any(|word| is_form(word, part)))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split(|c: char| !c.is_alphanumeric());
    parts.filter(|word| !word.is_empty())
}

/// Whether a text begins with a phrase, as whole words, behind whatever brackets and quotes.
fn begins(text: &str, phrase: &str) -> bool {
    let text = text.trim_start_matches(|c: char| !c.is_alphanumeric());
    let rest = text.strip_prefix(phrase);
    rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

/// Whether a word is `base` itself or a form of it: `dogs`, `riding` for `ride`, `berries`,
/// `running`.
fn is_form(word: &str, base: &str) -> bool {
    let is_ending = |stem: &str, endings: &[&str]| {
        word.strip_prefix(stem)
            .is_some_and(|ending| endings.contains(&ending))
    };
    let doubled = base.chars().next_back().map(|last| format!("{base}{last}"));
    is_ending(base, &ENDINGS)
        || doubled.is_some_and(|stem| is_ending(&stem, &["ing", "ed", "er", "ers"]))
        || base
            .strip_suffix('e')
            .is_some_and(|stem| is_ending(stem, &["ing", "er", "ers"]))
        || base
            .strip_suffix('y')
            .is_some_and(|stem| is_ending(stem, &["ies", "ied"]))
}

/// What is wrong with the brackets, if anything is. A backslash takes the meaning from the next one.
fn unbalanced(text: &str) -> Option<String> {
    let mut open = Vec::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => {
                characters.next();
            }
            '(' => open.push(')'),
            '[' => open.push(']'),
            ')' | ']' if open.pop() != Some(c) => {
                return Some(format!("`{c}` closes nothing"));
            }
            _ => {}
        }
    }
    open.last().map(|c| format!("`{c}` is missing at the end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault_of(text: &str, keyword: &str) -> Option<String> {
        fault(&Prompt {
            text: text.to_owned(),
            keyword: keyword.to_owned(),
            ..Prompt::default()
        })
    }

    #[test]
    fn each_fault_of_form_is_named_and_a_good_prompt_has_none() {
        for (text, keyword) in [
            ("((fox)), snow, sketch", "fox"),
            ("two (dogs:1.2) on the beach", "dog"),
            ("a man riding a horse, [blurry]", "ride"),
            ("there are three dogs and a treasure, chest", "dog"),
            ("strawberries, pleased faces", "strawberry"),
            ("a \\(smiling\\) cat", "cat"),
        ] {
            assert_eq!(fault_of(text, keyword), None, "{text}");
        }
        let long = "fox ".repeat(76);
        for (text, keyword, reason) in [
            ("", "fox", "no words"),
            (long.as_str(), "fox", "76 words"),
            ("((fox), snow", "fox", "`)` is missing"),
            ("fox]", "fox", "`]` closes nothing"),
            ("(fox]", "fox", "`]` closes nothing"),
            ("Is it a fox?", "fox", "it asks"),
            ("Here is a fox", "fox", "`here is`"),
            ("snow, sketch", "fox", "neither `fox`"),
            ("cattle on a carpet", "cat", "neither `cat`"),
            ("a robot says: I cannot draw", "robot", "`i cannot`"),
        ] {
            let found = fault_of(text, keyword).unwrap_or_default();
            assert!(found.contains(reason), "{text}: {found}");
        }
    }
}
