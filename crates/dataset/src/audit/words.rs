//! What can be said of a text by looking at its characters.

/// Words from which on an answer is a sentence, and should end as one. `Two foxes` need not.
const SENTENCE_WORDS: usize = 5;
/// Characters from which on the beginning of a word is telling: `8k` does not begin `kitchen`.
const CUT_WORD_CHARS: usize = 3;
/// What a word may lack at its end and still be whole: `fox` in `foxes` is not cut.
const ENDINGS: [&str; 14] = [
    "s", "es", "ed", "d", "ing", "y", "er", "ers", "r", "n", "al", "ly", "like", "ish",
];

/// Least number of tokens that CLIP's tokenizer makes of a prompt, the two at its ends included.
///
/// The tokenizer first cuts a text into runs of letters, single digits and runs of other characters,
/// and no token spans two of these. A rare word is several tokens, so the true number may be
/// higher: what is over the limit here is over it for certain.
pub fn least_clip_tokens(text: &str) -> usize {
    #[derive(PartialEq, Clone, Copy)]
    enum Kind {
        Space,
        Letter,
        Digit,
        Other,
    }
    let kind = |c: char| match c {
        c if c.is_whitespace() => Kind::Space,
        c if c.is_alphabetic() => Kind::Letter,
        c if c.is_numeric() => Kind::Digit,
        _ => Kind::Other,
    };
    let mut before = Kind::Space;
    let mut count = 2;
    for now in text.chars().map(kind) {
        let begins = now == Kind::Digit || (now != Kind::Space && now != before);
        count += usize::from(begins);
        before = now;
    }
    count
}

/// Whether a bracket, or a double quotation mark, is opened and not closed or the other way round.
pub(super) fn is_unbalanced(text: &str) -> bool {
    let mut open = Vec::new();
    for character in text.chars() {
        match character {
            '(' => open.push(')'),
            '[' => open.push(']'),
            '{' => open.push('}'),
            ')' | ']' | '}' if open.pop() != Some(character) => return true,
            _ => {}
        }
    }
    !open.is_empty() || !text.matches('"').count().is_multiple_of(2)
}

/// Whether a text has emphasis as web UIs read it: `((x))`, `[x]`, `(x:1.3)`. A single pair of
/// round brackets may be an aside and is not counted.
pub(super) fn has_emphasis(text: &str) -> bool {
    let is_weighted = |piece: &str| {
        let inner = piece.split(')').next().unwrap_or_default();
        let weight = inner.rsplit_once(':').map(|(_, weight)| weight.trim());
        weight.is_some_and(|weight| weight.parse::<f32>().is_ok())
    };
    text.contains("((") || text.contains('[') || text.split('(').skip(1).any(is_weighted)
}

/// Whether a sentence ends without punctuation.
pub(super) fn is_unfinished(answer: &str) -> bool {
    let answer = answer.trim();
    let is_end = |c: char| {
        matches!(
            c,
            '.' | '!' | '?' | '"' | '\'' | ')' | ']' | '…' | '”' | '’' | '。'
        )
    };
    !answer.ends_with(is_end) && answer.split_whitespace().count() >= SENTENCE_WORDS
}

/// Whether a blank stands before the last punctuation, as where a template was filled with nothing.
pub(super) fn has_blank(answer: &str) -> bool {
    let rest = answer.trim().trim_end_matches(['.', '!', '?']);
    rest.len() < answer.trim().len() && rest.ends_with(char::is_whitespace)
}

/// Whether a text ends within a word: its last one begins a longer word of `other`, and is neither
/// whole there nor the same word in another form. Texts that end with punctuation do not.
pub(super) fn ends_within_word_of(text: &str, other: &str) -> bool {
    let text = text.trim().to_lowercase();
    let end = text.rsplit(|c: char| !c.is_alphanumeric()).next();
    let Some(last) = end.filter(|word| word.chars().count() >= CUT_WORD_CHARS) else {
        return false;
    };
    let other = other.to_lowercase();
    let words = || other.split(|c: char| !c.is_alphanumeric());
    let is_cut = |word: &str| {
        word.strip_prefix(last)
            .is_some_and(|rest| !rest.is_empty() && !ENDINGS.contains(&rest))
    };
    words().any(is_cut) && !words().any(|word| word == last)
}

/// Whether a text names a subject: one of its words, by its stem, so that `divers` and `diving` name
/// a diver.
pub(super) fn names(text: &str, subject: &str) -> bool {
    let stems = |text: &str| -> Vec<String> {
        let lower = text.to_lowercase();
        let words = lower.split(|c: char| !c.is_alphanumeric());
        words.filter(|word| !word.is_empty()).map(stem).collect()
    };
    let said = stems(text);
    let wanted = stems(subject);
    // Of several words the short ones (`of`, `a`) prove nothing.
    let longest = wanted.iter().map(String::len).max().unwrap_or_default();
    let telling = wanted.iter().filter(|word| word.len() >= longest.min(3));
    telling.into_iter().any(|word| said.contains(word))
}

/// A word without its ending and without a doubled last letter, roughly: a comparison wants both
/// sides cut alike (`running`, `run`), not grammar.
fn stem(word: &str) -> String {
    let endings = ["ing", "ers", "ies", "ed", "er", "or", "es", "s", "y", "e"];
    let cut = |ending| word.strip_suffix(ending);
    let long = |stem: &&str| stem.chars().count() >= 3;
    let mut stem = endings
        .iter()
        .copied()
        .filter_map(cut)
        .find(long)
        .unwrap_or(word)
        .to_owned();
    let mut last = stem.chars().rev();
    if last.next() == last.next() && stem.chars().count() > 3 {
        stem.pop();
    }
    stem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_texts_are_told_from_whole_ones() {
        for cut in ["((Beef and Bro", "((", "((fox)), \"snow", "a (fox]"] {
            assert!(is_unbalanced(cut), "{cut}");
        }
        assert!(!is_unbalanced("((fox)), [snow], \"sketch\""));
        assert!(ends_within_word_of(
            "a picture of a pea",
            "((Peacock)), garden"
        ));
        assert!(!ends_within_word_of("a picture of a fox", "two foxes"));
        assert!(!ends_within_word_of(
            "a picture of a pea.",
            "((Peacock)), garden"
        ));
        assert!(is_unfinished("There is a large red bus on the"));
        assert!(!is_unfinished("Two foxes"));
        assert!(has_blank("The main food in the image is ."));
        assert!(!has_blank("A fox."));
    }

    #[test]
    fn emphasis_tokens_and_subjects_are_found() {
        assert!(has_emphasis("((fox))") && has_emphasis("(fox:1.3), snow"));
        assert!(!has_emphasis("fox (an animal), time 3:15"));
        // Two at the ends, `((`, fox, `)),`, snow, `,`, 4, k.
        assert_eq!(least_clip_tokens("((fox)), snow, 4k"), 9);
        assert_eq!(least_clip_tokens(&"fox ".repeat(76)), 78);
        assert!(names("A girl on a run.", "running") && names("The fall", "falling"));
        assert!(!ends_within_word_of(
            "realistic, 8k",
            "a knight in a kitchen"
        ));
        assert!(names("A man is diving.", "Diver") && names("Two puppies", "puppy"));
        assert!(names("A dish of broccoli.", "Beef and Broccoli"));
        assert!(!names("A person under water.", "Diver"));
    }
}
