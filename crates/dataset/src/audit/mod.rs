//! What a release should have been told: duplicates, cut texts, quotas, subjects that no answer
//! names, emphasis that does nothing, leakage.
//!
//! Samples pass by one after the other; what is kept of them is hashes and counts, so memory grows
//! with the number of different prompts and pictures, never with their size. The defects and their
//! definitions are in [`Defect`]; those that StableLLaVA's release has (arXiv 2308.10253, files of
//! icoz69/StableLLAVA) are all among them.

mod defect;
mod evaluation;
mod report;
mod row;
mod seen;
mod source;
mod words;

pub use defect::{Defect, Unit};
pub use evaluation::EvaluationSets;
pub use report::{Counts, Distribution, Finding, Report};
pub use row::{Row, RowPicture, RowPrompt};
pub use source::{Error, Source, audit};
pub use words::least_clip_tokens;

use crate::{image_hash::ImageHash, minhash::NearTexts};
use image::{ImageReader, Limits, RgbImage};
use seen::{NearPictures, Seen, Tally, key};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Cursor,
};

/// Examples kept of each defect.
const EXAMPLE_COUNT: usize = 5;
/// Share over which a style, keyword or subject dominates.
const DOMINANT_SHARE: f64 = 0.5;
/// Samples under which nothing is said to dominate.
const FEW_SAMPLES: u64 = 20;
/// Tokens that the text encoder of CLIP reads, the two at the ends included.
const CLIP_TOKENS: usize = 77;
/// Most frequent values shown of a distribution.
const TOP_COUNT: usize = 10;
/// Memory that decoding a picture may take, in bytes.
const MAX_DECODER_BYTES: u64 = 512 << 20;

#[derive(Debug, Default)]
struct Found {
    count: u64,
    examples: Vec<String>,
}

#[derive(Debug, Default)]
struct Ability {
    counts: Counts,
    answer_words: u64,
    answers: u64,
    prompts: Seen,
    pairs: Seen,
    subjects: Tally,
}

/// Looks at samples one after the other.
#[derive(Debug, Default)]
pub struct Auditor {
    evaluation: EvaluationSets,
    found: BTreeMap<Defect, Found>,
    units: BTreeMap<Unit, u64>,
    abilities: BTreeMap<String, Ability>,
    prompts: Seen,
    pairs: Seen,
    pictures: Seen,
    near_prompts: NearTexts,
    near_pictures: NearPictures,
    styles: Tally,
    keywords: Tally,
    questions: Tally,
}

impl Auditor {
    /// Starts; samples are held against the evaluation sets.
    pub fn new(evaluation: EvaluationSets) -> Self {
        Self {
            evaluation,
            ..Self::default()
        }
    }

    /// Looks at a sample.
    pub fn add(&mut self, row: &Row) {
        self.count(Unit::Samples, 1);
        self.repetition(row);
        row.prompts
            .iter()
            .for_each(|prompt| self.prompt(row, prompt));
        let pictures: Vec<Vec<u8>> = row
            .pictures
            .iter()
            .map(|picture| self.picture(row, picture))
            .collect();
        self.pair(row, &pictures);
        row.answers
            .iter()
            .for_each(|answer| self.answer(row, answer));
        self.subject(row);
        if !row.style.is_empty() {
            self.styles.add(&row.style);
        }
        row.questions
            .iter()
            .for_each(|question| self.questions.add(question));
    }

    /// Counts a record that cannot be read.
    pub fn add_broken(&mut self, id: &str) {
        self.count(Unit::Samples, 1);
        self.note(Defect::BrokenRecord, id);
    }

    /// Counts samples that were planned, and those of them that are not there.
    pub fn add_planned(&mut self, planned_count: u64, missing_count: u64) {
        self.count(Unit::PlannedSamples, planned_count);
        self.found.entry(Defect::ShortOfPlan).or_default().count += missing_count;
    }

    /// Whether the sample's prompts were there before. Those of several pictures are one whole, as a
    /// synthesis has it: two sets may have a picture in common and differ in the other.
    fn repetition(&mut self, row: &Row) {
        let texts = || row.prompts.iter().map(|prompt| prompt.text.as_str());
        let count = row.prompts.len() as u64;
        if count == 0 {
            return;
        }
        let whole = key(&texts().map(str::as_bytes).collect::<Vec<_>>());
        let ability = self.abilities.entry(row.ability.clone()).or_default();
        ability.counts.unique_prompts += match ability.prompts.again(whole) {
            true => 0,
            false => count,
        };
        if self.prompts.again(whole) {
            self.note_several(Defect::RepeatedPrompt, count, &row.id);
        } else if self
            .near_prompts
            .add(&texts().collect::<Vec<_>>().join("\n"))
            .is_some()
        {
            self.note_several(Defect::NearRepeatedPrompt, count, &row.id);
        }
    }

    fn prompt(&mut self, row: &Row, prompt: &RowPrompt) {
        self.count(Unit::Prompts, 1);
        let text = prompt.text.as_str();
        let checks = [
            (Defect::UnbalancedPrompt, words::is_unbalanced(text)),
            (
                Defect::CutPrompt,
                row.answers
                    .iter()
                    .any(|answer| words::ends_within_word_of(text, answer)),
            ),
            (
                Defect::IdleEmphasis,
                !prompt.is_emphasis_read && words::has_emphasis(text),
            ),
            (
                Defect::LongPrompt,
                words::least_clip_tokens(text) > CLIP_TOKENS,
            ),
            (Defect::LeakedPrompt, self.evaluation.holds_prompt(text)),
        ];
        self.note_all(checks, &row.id);
        let keywords = text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty());
        let others = keywords.filter(|word| row.subject.is_empty() || !word.contains(&row.subject));
        // Each once, however often a prompt repeats it.
        let others: BTreeSet<String> = others.map(str::to_lowercase).collect();
        others.iter().for_each(|keyword| self.keywords.add(keyword));
    }

    /// Looks at a picture and gives what stands for it in a pair: its bytes' hash, or its name.
    fn picture(&mut self, row: &Row, picture: &RowPicture) -> Vec<u8> {
        self.count(Unit::Pictures, 1);
        let bytes = match picture {
            RowPicture::Bytes(bytes) => bytes,
            RowPicture::Missing(name) => {
                self.note(Defect::MissingPicture, &format!("{}: {name}", row.id));
                return name.clone().into_bytes();
            }
        };
        let file = key(&[bytes]);
        let is_of_a_set = self.evaluation.holds_picture(bytes);
        if is_of_a_set {
            self.note(Defect::LeakedPicture, &row.id);
        }
        if self.pictures.again(file) {
            self.note(Defect::RepeatedPicture, &row.id);
            return file.to_vec();
        }
        match decode(bytes).map(|pixels| ImageHash::of(&pixels)) {
            Err(_) => self.note(Defect::BrokenPicture, &row.id),
            Ok(hash) => {
                let is_leaked = self.evaluation.holds_near_picture(&hash) && !is_of_a_set;
                let checks = [
                    (Defect::NearRepeatedPicture, self.near_pictures.holds(&hash)),
                    (Defect::NearLeakedPicture, is_leaked),
                ];
                self.note_all(checks, &row.id);
                self.near_pictures.add(hash);
            }
        }
        file.to_vec()
    }

    fn pair(&mut self, row: &Row, pictures: &[Vec<u8>]) {
        let prompts = row.prompts.iter().map(|prompt| prompt.text.as_bytes());
        let what: Vec<&[u8]> = match row.prompts.is_empty() {
            false => prompts.collect(),
            // Without prompts the pictures and the questions say what was answered.
            true => {
                let questions = row.questions.iter().map(String::as_bytes);
                pictures
                    .iter()
                    .map(Vec::as_slice)
                    .chain(questions)
                    .collect()
            }
        };
        let answers = row.answers.iter().map(String::as_bytes);
        let pair = key(&what
            .into_iter()
            .chain([&b"answers"[..]])
            .chain(answers)
            .collect::<Vec<_>>());
        let ability = self.abilities.entry(row.ability.clone()).or_default();
        ability.counts.samples += 1;
        ability.counts.unique_pairs += u64::from(!ability.pairs.again(pair));
        if self.pairs.again(pair) {
            self.note(Defect::RepeatedPair, &row.id);
        }
    }

    fn answer(&mut self, row: &Row, answer: &str) {
        self.count(Unit::Answers, 1);
        let ability = self.abilities.entry(row.ability.clone()).or_default();
        ability.answers += 1;
        ability.answer_words += answer.split_whitespace().count() as u64;
        let is_cut = row
            .prompts
            .iter()
            .any(|prompt| words::ends_within_word_of(answer, &prompt.text));
        let checks = [
            (Defect::CutAnswer, is_cut),
            (
                Defect::UnfinishedAnswer,
                !is_cut && words::is_unfinished(answer),
            ),
            (Defect::BlankInAnswer, words::has_blank(answer)),
            (Defect::LeakedText, self.evaluation.holds_text(answer)),
        ];
        self.note_all(checks, &row.id);
    }

    fn subject(&mut self, row: &Row) {
        if row.subject.is_empty() {
            return;
        }
        self.count(Unit::KnownSubjects, 1);
        let ability = self.abilities.entry(row.ability.clone()).or_default();
        // `Chair` and `chair` are one.
        ability.subjects.add(&row.subject.to_lowercase());
        let turns = || row.questions.iter().chain(&row.answers);
        let is_named = |subject: &String| turns().any(|turn| words::names(turn, subject));
        if !is_named(&row.subject) && !row.other_subjects.iter().any(is_named) {
            self.note(Defect::SubjectNotNamed, &row.id);
        }
    }

    fn count(&mut self, unit: Unit, count: u64) {
        *self.units.entry(unit).or_default() += count;
    }

    fn note_all<const N: usize>(&mut self, checks: [(Defect, bool); N], id: &str) {
        for (defect, _) in checks.into_iter().filter(|(_, is_found)| *is_found) {
            self.note(defect, id);
        }
    }

    fn note(&mut self, defect: Defect, id: &str) {
        self.note_several(defect, 1, id);
    }

    fn note_several(&mut self, defect: Defect, count: u64, id: &str) {
        let found = self.found.entry(defect).or_default();
        found.count += count;
        if found.examples.len() < EXAMPLE_COUNT {
            found.examples.push(id.to_owned());
        }
    }

    /// What was found in all samples.
    pub fn finish(mut self, kind: &str) -> Report {
        let of = |unit| self.units.get(&unit).copied().unwrap_or_default();
        let (samples, prompts) = (of(Unit::Samples), of(Unit::Prompts));
        let pictures = of(Unit::Pictures)
            - self
                .found
                .get(&Defect::MissingPicture)
                .map_or(0, |found| found.count);
        let not_checked = self.not_checked(prompts, pictures);
        let distributions = self.distributions();
        let mut findings = Vec::new();
        for defect in Defect::ALL {
            let among = if self.is_checked(defect) {
                of(defect.unit())
            } else {
                0
            };
            match self.dominant(defect, among) {
                Some(dominant) => findings.extend(dominant),
                None => {
                    let found = self.found.remove(&defect).unwrap_or_default();
                    findings.push(Finding::new(defect, String::new(), found, among));
                }
            }
        }
        Report {
            kind: kind.to_owned(),
            samples,
            prompts,
            pictures,
            abilities: self
                .abilities
                .into_iter()
                .map(|(name, ability)| (name, ability.counts()))
                .collect(),
            findings,
            not_checked,
            distributions,
        }
    }

    /// Whether there was something to hold samples against: what is not checked is not passed.
    fn is_checked(&self, defect: Defect) -> bool {
        match defect {
            Defect::DominantStyle => self.styles.distinct() > 0,
            other => self.evaluation.checks(other),
        }
    }

    /// The findings of a defect that is about a value; `None` for other defects.
    fn dominant(&self, defect: Defect, among: u64) -> Option<Vec<Finding>> {
        let over = |tally: &Tally, of: u64, label: &dyn Fn(&str) -> String| -> Vec<Finding> {
            let is_dominant =
                |count: u64| of >= FEW_SAMPLES && count as f64 > DOMINANT_SHARE * of as f64;
            let top = tally
                .top(TOP_COUNT)
                .into_iter()
                .filter(|(_, count)| is_dominant(*count));
            let finding = |(value, count): (String, u64)| {
                let found = Found {
                    count,
                    examples: Vec::new(),
                };
                Finding::new(defect, label(&value), found, of)
            };
            top.map(finding).collect()
        };
        let plain = |value: &str| value.to_owned();
        let mut findings = match defect {
            Defect::DominantStyle => over(&self.styles, among, &plain),
            Defect::DominantKeyword => over(&self.keywords, among, &plain),
            Defect::DominantSubject => {
                let found = self.abilities.iter().map(|(name, ability)| {
                    let label = |value: &str| format!("{value} ({name})");
                    over(&ability.subjects, ability.counts.samples, &label)
                });
                found.flatten().collect()
            }
            _ => return None,
        };
        if findings.is_empty() {
            findings.push(Finding::new(defect, String::new(), Found::default(), among));
        }
        Some(findings)
    }

    fn not_checked(&self, prompts: u64, pictures: u64) -> Vec<String> {
        let mut reasons = Vec::new();
        if prompts == 0 {
            reasons.push("prompts: there are none".to_owned());
        }
        if pictures == 0 {
            reasons.push("pictures: there are none".to_owned());
        }
        if self.evaluation.names().is_empty() {
            reasons.push("leakage: no evaluation set was named".to_owned());
        } else {
            let absent = [
                (Defect::LeakedPrompt, "prompts: no evaluation set has any"),
                (
                    Defect::LeakedText,
                    "texts: no evaluation set has one of eight words",
                ),
            ];
            let absent = absent
                .into_iter()
                .filter(|(leak, _)| !self.is_checked(*leak));
            reasons.extend(absent.map(|(_, reason)| format!("leaked {reason}")));
        }
        if self.keywords.other_count > 0 {
            let count = self.keywords.other_count;
            reasons.push(format!(
                "keywords: {count} that came late and seldom were not counted"
            ));
        }
        reasons
    }

    fn distributions(&self) -> Vec<Distribution> {
        let of = |name: &str, tally: &Tally| Distribution {
            of: name.to_owned(),
            distinct: tally.distinct(),
            top: tally.top(TOP_COUNT),
        };
        let whole = [
            ("style", &self.styles),
            ("keyword", &self.keywords),
            ("question", &self.questions),
        ];
        let whole = whole.into_iter().map(|(name, tally)| of(name, tally));
        let subjects = self.abilities.iter();
        let subjects =
            subjects.map(|(name, ability)| of(&format!("subject of {name}"), &ability.subjects));
        whole
            .chain(subjects)
            .filter(|distribution| distribution.distinct > 0)
            .collect()
    }
}

impl Ability {
    fn counts(self) -> Counts {
        Counts {
            unique_subjects: self.subjects.distinct(),
            mean_answer_words: self.answer_words as f64 / self.answers.max(1) as f64,
            ..self.counts
        }
    }
}

impl Finding {
    fn new(defect: Defect, value: String, found: Found, of: u64) -> Self {
        Self {
            defect: defect.name(),
            meaning: defect.meaning(),
            value,
            count: found.count,
            of,
            unit: defect.unit(),
            share: found.count as f64 / of.max(1) as f64,
            examples: found.examples,
        }
    }
}

/// The pixels of an encoded picture, in bounded memory.
pub(crate) fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let mut reader = reader.map_err(|error| error.to_string())?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    reader
        .decode()
        .map(|picture| picture.to_rgb8())
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
