//! Whether an answer is right, by keywords: rules that can be read and replayed, and no judge.
//!
//! * **Words.** Lower case; every character that is neither letter nor digit parts words (so
//!   `upside-down` is `upside down`), but an apostrophe is dropped (`isn't` is `isnt`); `a`, `an`
//!   and `the` are left out.
//! * **Keyword** (what, where, caption, ...): right when one accepted answer stands in the answer
//!   as whole words in a row, simple plurals and singulars alike. An empty answer is unreadable.
//! * **Yes/no:** the answer holds `yes`, or it holds `no`, `not` or a word in `n't`; both or
//!   neither is unreadable. What the rest says plays no part.
//! * **Either-or:** right when the accepted alternative is named and the other is not; both or
//!   neither is unreadable. The other alternative is read from the question; see [`other_named`].
//!
//! Unreadable answers are wrong, and counted.

use proto::dataset::v1::QuestionKind;

use crate::benchmark::Question;

/// What came of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is right.
    Right,
    /// It is another answer than the accepted ones.
    Wrong,
    /// It is no answer to the question; counts as wrong.
    Unreadable,
}

impl Verdict {
    /// 1 when right, else 0.
    pub fn score(self) -> f64 {
        match self {
            Self::Right => 1.0,
            Self::Wrong | Self::Unreadable => 0.0,
        }
    }
}

/// Judges an answer to a question.
pub fn judge(question: &Question, answer: &str) -> Verdict {
    let said = words(answer);
    if is_yes_no(question) {
        return judge_yes_no(&question.answers, &said);
    }
    let named = question
        .answers
        .iter()
        .any(|accepted| holds(&said, &words(accepted)));
    match question.kind {
        QuestionKind::EitherOr => match (named, other_named(question, &said)) {
            (true, false) => Verdict::Right,
            (false, true) => Verdict::Wrong,
            (true, true) | (false, false) => Verdict::Unreadable,
        },
        _ if named => Verdict::Right,
        _ if said.is_empty() => Verdict::Unreadable,
        _ => Verdict::Wrong,
    }
}

/// Whether every accepted answer is yes or no, whatever the kind is called.
pub fn is_yes_no(question: &Question) -> bool {
    let plain = |answer: &String| matches!(answer.to_lowercase().as_str(), "yes" | "no" | "not");
    !question.answers.is_empty() && question.answers.iter().all(plain)
}

fn judge_yes_no(accepted: &[String], said: &[String]) -> Verdict {
    let yes = said.iter().any(|word| word == "yes");
    let no = said.iter().any(|word| is_no(word));
    let truth = accepted
        .iter()
        .any(|answer| answer.eq_ignore_ascii_case("yes"));
    match (yes, no) {
        (true, false) | (false, true) if yes == truth => Verdict::Right,
        (true, false) | (false, true) => Verdict::Wrong,
        (true, true) | (false, false) => Verdict::Unreadable,
    }
}

fn is_no(word: &str) -> bool {
    const CONTRACTED: [&str; 10] = [
        "isnt", "arent", "wasnt", "werent", "doesnt", "dont", "didnt", "cant", "cannot", "wont",
    ];
    matches!(word, "no" | "not") || CONTRACTED.contains(&word)
}

/// Whether the answer names the alternative that is not accepted.
///
/// The question's ` or ` parts the two. The accepted one is on the side that holds its words; the
/// other alternative is what stands next to the `or` on the other side: after it all words to the
/// end, before it as many as there are after it, but no further than the last article, preposition
/// or form of `be`. Words that the accepted side shares (`hair` in `red hair or white hair`) tell
/// nothing and are left out. Of what remains, the first word after the `or` and the last word
/// before it decide: in `upright or upside down` these are `upside` and `upright`.
fn other_named(question: &Question, said: &[String]) -> bool {
    let asked = words(&question.text);
    let Some(place) = asked.iter().rposition(|word| word == "or") else {
        return false;
    };
    let (before, after) = (&asked[..place], &asked[place + 1..]);
    let is_after = question
        .answers
        .iter()
        .any(|accepted| holds(after, &words(accepted)));
    let own = if is_after { after } else { before };
    let tells =
        |word: &&String| !is_function_word(word) && !own.iter().any(|mine| same(mine, word));
    let other = if is_after {
        let mut reach = before
            .iter()
            .rev()
            .take_while(|word| !is_function_word(word))
            .take(after.len());
        reach.find(tells)
    } else {
        after.iter().find(|word| tells(word))
    };
    other.is_some_and(|word| said.iter().any(|spoken| same(spoken, word)))
}

fn is_function_word(word: &str) -> bool {
    const FUNCTION_WORDS: [&str; 20] = [
        "is", "are", "it", "this", "that", "there", "in", "on", "at", "as", "of", "with", "to",
        "does", "do", "have", "has", "or", "more", "picture",
    ];
    FUNCTION_WORDS.contains(&word)
}

/// Whether `phrase` stands in `text` as whole words in a row. An empty phrase stands nowhere.
fn holds(text: &[String], phrase: &[String]) -> bool {
    !phrase.is_empty()
        && text.windows(phrase.len()).any(|window| {
            window
                .iter()
                .zip(phrase)
                .all(|(word, part)| same(word, part))
        })
}

/// The words of a text; see the module.
fn words(text: &str) -> Vec<String> {
    let plain: String = text
        .chars()
        .filter(|character| !matches!(character, '\'' | '\u{2019}'))
        .flat_map(char::to_lowercase)
        .map(|character| {
            if character.is_alphanumeric() {
                character
            } else {
                ' '
            }
        })
        .collect();
    let is_article = |word: &&str| matches!(*word, "a" | "an" | "the");
    let mut words: Vec<String> = plain
        .split_whitespace()
        .filter(|word| !is_article(word))
        .map(str::to_owned)
        .collect();
    if words.is_empty() {
        // A lone `A` is the letter of a choice and no article.
        words = plain.split_whitespace().map(str::to_owned).collect();
    }
    words
}

/// Whether two words are the same up to a simple plural.
fn same(one: &str, other: &str) -> bool {
    one == other || is_plural(one, other) || is_plural(other, one)
}

fn is_plural(plural: &str, singular: &str) -> bool {
    let Some(stem) = plural.strip_suffix('s') else {
        return false;
    };
    stem == singular
        || stem.strip_suffix('e') == Some(singular)
        || stem
            .strip_suffix("ie")
            .is_some_and(|stem| singular.strip_suffix('y') == Some(stem))
        || stem
            .strip_suffix("ve")
            .is_some_and(|stem| singular.strip_suffix('f') == Some(stem))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Verdict::*, *};
    use crate::benchmark::Benchmark;

    fn question(kind: QuestionKind, text: &str, answers: &[&str]) -> Question {
        Question {
            question_id: "q".into(),
            ability: "animal".into(),
            kind,
            image: "images/q.png".into(),
            text: text.into(),
            answers: answers.iter().map(|&answer| answer.to_owned()).collect(),
        }
    }

    fn verdicts(question: &Question, answers: &[(&str, Verdict)]) {
        for (answer, expected) in answers {
            assert_eq!(
                judge(question, answer),
                *expected,
                "{:?} to {:?}",
                answer,
                question.text
            );
        }
    }

    #[test]
    fn a_keyword_is_found_as_whole_words_in_any_number() {
        let question = question(
            QuestionKind::Wh,
            "What is it?",
            &["rabbit", "ice cream", "scarf", "upside-down"],
        );
        verdicts(
            &question,
            &[
                ("A RABBIT, on the beach.", Right),
                ("Two rabbits!", Right),
                ("ice-cream", Right),
                ("An ice cold cream", Wrong),
                ("Scarves.", Right),
                ("It is upside down", Right),
                ("rabbitfish", Wrong),
                ("", Unreadable),
                ("  ...", Unreadable),
            ],
        );
    }

    #[test]
    fn yes_and_no_must_not_stand_together() {
        let truth = question(QuestionKind::YesNo, "Is there a fox?", &["yes"]);
        verdicts(
            &truth,
            &[
                ("Yes, a fox.", Right),
                ("yes", Right),
                ("No.", Wrong),
                ("It is not a fox", Wrong),
                ("There isn't one", Wrong),
                ("Yes and no", Unreadable),
                ("A fox in the snow", Unreadable),
                ("I know it", Unreadable),
                ("", Unreadable),
            ],
        );
        verdicts(
            &question(QuestionKind::Negative, "Is there a cow?", &["no", "not"]),
            &[("No cow.", Right), ("Yes", Wrong)],
        );
    }

    #[test]
    fn of_two_alternatives_only_the_right_one_may_be_named() {
        let either = |text: &str, answer: &str| question(QuestionKind::EitherOr, text, &[answer]);
        verdicts(
            &either("Is it a donut or grapes?", "grapes"),
            &[
                ("Grapes.", Right),
                ("A grape", Right),
                ("a donut", Wrong),
                ("donuts and grapes", Unreadable),
                ("a cake", Unreadable),
            ],
        );
        verdicts(
            &either("Is the train upside down or upright?", "upside down"),
            &[
                ("The train is upside down.", Right),
                ("The train is upright", Wrong),
            ],
        );
        verdicts(
            &either("Is the bus upright or upside down?", "upside down"),
            &[
                ("The bus is upside down.", Right),
                ("The bus is upright", Wrong),
            ],
        );
        verdicts(
            &either("Is the train upside down or upright?", "upright"),
            &[("The train is upright.", Right), ("upside down", Wrong)],
        );
        verdicts(
            &either("Does the person have red hair or curly hair?", "red hair"),
            &[("The person has red hair", Right), ("curly hair", Wrong)],
        );
        verdicts(
            &either("Is it an orange kite or a blue house?", "orange"),
            &[
                ("It is an orange kite", Right),
                ("A blue house", Wrong),
                ("Blue and orange", Unreadable),
            ],
        );
        verdicts(
            &either("Is the dog on a beach or in the mountains?", "mountain"),
            &[("In the mountains.", Right), ("On a beach", Wrong)],
        );
    }

    /// An answer that repeats the question names both alternatives; a rule that misses the other
    /// one would call it right.
    #[test]
    fn on_the_shipped_benchmark_accepted_answers_are_right_and_echoes_of_the_question_are_not() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nano/bench-real");
        for question in Benchmark::open(&folder).expect("shipped").questions() {
            for answer in &question.answers {
                assert_eq!(judge(question, answer), Right, "{question:?}");
            }
            if question.kind == QuestionKind::EitherOr {
                assert_eq!(judge(question, &question.text), Unreadable, "{question:?}");
            }
        }
    }

    #[test]
    fn a_letter_answers_a_choice() {
        let question = question(
            QuestionKind::MultipleChoice,
            "A. fox, B. cow",
            &["A", "fox"],
        );
        verdicts(
            &question,
            &[("A", Right), ("A.", Right), ("fox", Right), ("B", Wrong)],
        );
    }
}
