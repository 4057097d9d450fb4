//! What an audit found, for programs and pages.

use super::Unit;
use serde::Serialize;
use std::collections::BTreeMap;

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was audited: `dataset`, `llava` or `stablellava`.
    pub kind: String,
    /// Samples.
    pub samples: u64,
    /// Prompts.
    pub prompts: u64,
    /// Pictures that are there.
    pub pictures: u64,
    /// Counts per ability.
    pub abilities: BTreeMap<String, Counts>,
    /// Every defect that was looked for, those that were not found with a count of 0.
    pub findings: Vec<Finding>,
    /// What was not looked for, and why.
    pub not_checked: Vec<String>,
    /// How values are spread.
    pub distributions: Vec<Distribution>,
}

/// One defect, and for a dominant value which one.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Name of the defect.
    pub defect: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// Style, keyword or subject that dominates; empty for other defects.
    pub value: String,
    /// How often it was found.
    pub count: u64,
    /// Among how many; 0 where nothing was checked.
    pub of: u64,
    /// What these are.
    pub unit: Unit,
    /// `count / of`; 0 of none.
    pub share: f64,
    /// A few samples that have it.
    pub examples: Vec<String>,
}

/// Counts of an ability.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Counts {
    /// Samples.
    pub samples: u64,
    /// Different prompts.
    pub unique_prompts: u64,
    /// Different pairs of prompt and answers.
    pub unique_pairs: u64,
    /// Different subjects.
    pub unique_subjects: u64,
    /// Words of its answers, on average.
    pub mean_answer_words: f64,
}

/// How often the most frequent values came.
#[derive(Debug, Clone, Serialize)]
pub struct Distribution {
    /// What is counted: `style`, `keyword`, `question`, or `subject of ABILITY`.
    pub of: String,
    /// Different values, as far as they were counted apart.
    pub distinct: u64,
    /// The most frequent ones.
    pub top: Vec<(String, u64)>,
}
