//! Published scorers, rule for rule: what a figure in a paper was made by, not what is best.

use serde::Serialize;

use super::files::Sheet;

/// What POPE's `evaluate.py` prints; yes is the positive class. A measure whose denominator is 0 is 0,
/// where the script ends with an error.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct YesNo {
    pub(super) precision: f64,
    pub(super) recall: f64,
    pub(super) f1: f64,
    /// Share of answers that say yes.
    pub(super) yes_share: f64,
}

/// POPE as LLaVA's `eval_pope.py` scores it, but joined by question and not by line. An empty answer says
/// yes there, in the accuracy as in every other measure, and so does one that is missing.
pub(super) fn pope(sheet: &Sheet) -> (Vec<bool>, YesNo) {
    let pairs = sheet.asked.iter().map(|asked| {
        let is_yes = asked.answers.iter().any(|answer| answer == "yes");
        (is_yes, says_yes(sheet.answer(asked)))
    });
    let pairs: Vec<(bool, bool)> = pairs.collect();
    let count = |wanted: (bool, bool)| pairs.iter().filter(|pair| **pair == wanted).count() as f64;
    let (true_yes, false_no, false_yes) = (
        count((true, true)),
        count((true, false)),
        count((false, true)),
    );
    let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    let precision = ratio(true_yes, true_yes + false_yes);
    let recall = ratio(true_yes, true_yes + false_no);
    let measures = YesNo {
        precision,
        recall,
        f1: ratio(2.0 * precision * recall, precision + recall),
        yes_share: ratio(true_yes + false_yes, pairs.len() as f64),
    };
    let right = pairs.iter().map(|(truth, said)| truth == said);
    (right.collect(), measures)
}

/// Up to the first stop, without commas, parted at spaces: one of three words says no, and all else yes.
fn says_yes(answer: &str) -> bool {
    let sentence = answer
        .split('.')
        .next()
        .unwrap_or_default()
        .replace(',', "");
    !sentence
        .split(' ')
        .any(|word| ["No", "not", "no"].contains(&word))
}

/// GQA's `eval.py`: equal, letter by letter.
pub(super) fn gqa(sheet: &Sheet) -> Vec<bool> {
    let is_right = |asked: &super::Asked| {
        asked
            .answers
            .iter()
            .any(|answer| answer == sheet.answer(asked))
    };
    sheet.asked.iter().map(is_right).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::score::files::Asked;

    /// Questions with what is right and what was said, of which the first `given` were answered.
    fn sheet(rows: &[(&str, &str)], given: usize) -> Sheet {
        let asked = (0..).zip(rows).map(|(id, (truth, _)): (u32, _)| Asked {
            id: id.to_string(),
            answers: vec![(*truth).to_owned()],
            ..Asked::default()
        });
        let answers = (0..)
            .zip(rows)
            .map(|(id, (_, said)): (u32, _)| (id.to_string(), (*said).to_owned()))
            .take(given);
        Sheet::new(asked.collect(), answers.collect())
    }

    #[test]
    fn pope_reads_whatever_does_not_say_no_as_yes() {
        let rows = [
            ("yes", "Yes, there is."),
            ("no", "No, there is not."),
            ("no", "I cannot tell"),
            ("yes", "There is none. It is not there"),
            ("no", "nothing"),
            ("yes", "no"),
        ];
        let (right, measures) = pope(&sheet(&rows, rows.len()));
        assert_eq!(right, [true, true, false, true, false, false]);
        // Two true yes, two false yes, one false no.
        assert_eq!((measures.precision, measures.recall), (0.5, 2.0 / 3.0));
        assert!((measures.f1 - 4.0 / 7.0).abs() < 1e-12);
        assert_eq!(measures.yes_share, 4.0 / 6.0);
    }

    #[test]
    fn pope_reads_what_is_empty_or_missing_as_yes_in_every_measure() {
        let rows = [("yes", ""), ("no", ""), ("yes", ""), ("no", "")];
        let (right, measures) = pope(&sheet(&rows, 2));
        assert_eq!(right, [true, false, true, false]);
        assert_eq!((measures.precision, measures.recall), (0.5, 1.0));
        assert_eq!(measures.yes_share, 1.0);
    }

    #[test]
    fn gqa_takes_no_other_letter() {
        let rows = [("dog", "dog"), ("dog", "Dog"), ("dog", "dog.")];
        let right = gqa(&sheet(&rows, rows.len()));
        assert_eq!(right, [true, false, false]);
    }
}
