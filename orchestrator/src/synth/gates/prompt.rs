//! Gates on prompts: whatever they refuse costs no picture.

use proto::dataset::v1::{GateResult, Prompt};

use super::{NEAR_MEANING, NEAR_PROMPT, PROMPT_FORM, judged, not_checked, not_too_near};
use crate::recipe::Gates;

/// Longest prompt, in words; over it a text encoder of 77 tokens certainly cuts.
const MAX_WORDS: usize = 75;
/// Phrases that are no description of a picture: talk about the task, refusals, questions.
const NOT_VISUAL: [&str; 10] = [
    "as an ai",
    "i cannot",
    "i can't",
    "i'm sorry",
    "here is",
    "here are",
    "prompt:",
    "sure,",
    "please",
    "this image",
];

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
    if let Some(phrase) = NOT_VISUAL.iter().find(|phrase| lower.contains(*phrase)) {
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

/// Whether a word is `base` itself or an ending on it: `dogs`, `running`, `riding` for `ride`.
fn is_form(word: &str, base: &str) -> bool {
    let stem = base.strip_suffix(['e', 'y']).filter(|stem| stem.len() > 2);
    let begins = |stem: &str| {
        word.strip_prefix(stem)
            .is_some_and(|ending| ending.len() <= 4)
    };
    begins(base) || stem.is_some_and(begins)
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
        ] {
            let found = fault_of(text, keyword).unwrap_or_default();
            assert!(found.contains(reason), "{text}: {found}");
        }
    }
}
