//! The verdict in plain words: did the synthesized pairs help?

use super::html::{capitalised, percent, point_range, points, position, text};
use super::{Benchmark, Comparison, Report, Role, Score};

/// What the comparison says, benchmark by benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// One or two sentences for the top of the page.
    pub headline: String,
    /// One finding per benchmark that compares the synthetic arm with a reference.
    pub findings: Vec<Finding>,
}

/// What one benchmark says.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Name for people, such as `AI-generated pictures`.
    pub benchmark: String,
    /// Gain of the synthetic arm over the control (over the baseline where there is no control).
    pub gain: Comparison,
    /// What the gain's interval says.
    pub outcome: Outcome,
    /// Plain sentences, the gain first.
    pub sentences: Vec<String>,
}

/// What an interval of a gain says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All of it lies above zero.
    Helped,
    /// It holds zero.
    NotShown,
    /// All of it lies below zero.
    Harmed,
}

/// Draws the verdict from the comparisons of ability `all`.
pub fn verdict(report: &Report) -> Verdict {
    let findings: Vec<Finding> = report
        .benchmarks
        .iter()
        .filter_map(|b| finding(report, b))
        .collect();
    Verdict {
        headline: headline(&findings),
        findings,
    }
}

/// The top of the page.
pub(super) fn header(report: &Report) -> String {
    let verdict = verdict(report);
    let tiles: String = verdict.findings.iter().map(tile).collect();
    let headline = if verdict.findings.is_empty() && report.benchmarks.is_empty() {
        report.title.clone()
    } else {
        verdict.headline
    };
    let summary = if report.summary.is_empty() {
        String::new()
    } else {
        format!("<p class=\"summary\">{}</p>\n", text(&report.summary))
    };
    format!(
        "<header class=\"masthead\">\n<p class=\"brand\"><span class=\"mark\" aria-hidden=\"true\"></span>Diptych \
         <span class=\"run\">{}</span></p>\n<h1>{}</h1>\n{summary}<div class=\"tiles\">{tiles}</div>\n</header>\n",
        text(&report.title),
        text(&headline)
    )
}

fn tile(finding: &Finding) -> String {
    let Finding {
        benchmark,
        gain,
        outcome,
        sentences,
    } = finding;
    let class = match outcome {
        Outcome::Helped => "helped",
        Outcome::NotShown => "notshown",
        Outcome::Harmed => "harmed",
    };
    let rest: String = sentences
        .iter()
        .map(|s| format!("<p>{}</p>", text(s)))
        .collect();
    format!(
        "<article class=\"tile {class}\">\n<h2>{title}</h2>\n\
         <p class=\"gain\"><b>{gain}</b> points <span>over {reference}</span></p>\n\
         <p class=\"range\">95 % interval {range}</p>\n{rule}\n{rest}</article>\n",
        title = text(&capitalised(benchmark)),
        gain = points(gain.gain.mean),
        reference = text(&gain.reference),
        range = point_range(&gain.gain),
        rule = rule(gain),
    )
}

/// The interval on a line with zero in its middle.
fn rule(gain: &Comparison) -> String {
    let reach = [gain.gain.low, gain.gain.high]
        .into_iter()
        .map(f64::abs)
        .fold(0.1, f64::max)
        * 1.1;
    let at = |value: f64| position(0.5 + value / reach / 2.0);
    format!(
        "<svg class=\"rule\" width=\"100%\" height=\"18\" aria-hidden=\"true\">\
         <line class=\"axis\" x1=\"0\" x2=\"100%\" y1=\"9\" y2=\"9\"/>\
         <line class=\"zero\" x1=\"50%\" x2=\"50%\" y1=\"1\" y2=\"17\"/>\
         <line class=\"span\" x1=\"{low}\" x2=\"{high}\" y1=\"9\" y2=\"9\"/>\
         <circle cx=\"{mean}\" cy=\"9\" r=\"5\"/></svg>",
        low = at(gain.gain.low),
        high = at(gain.gain.high),
        mean = at(gain.gain.mean),
    )
}

fn headline(findings: &[Finding]) -> String {
    let titles = |outcome: Outcome| -> Vec<&str> {
        findings
            .iter()
            .filter(|f| f.outcome == outcome)
            .map(|f| f.benchmark.as_str())
            .collect()
    };
    let (helped, not_shown, harmed) = (
        titles(Outcome::Helped),
        titles(Outcome::NotShown),
        titles(Outcome::Harmed),
    );
    if findings.is_empty() {
        return "No comparison was made.".into();
    }
    if helped.is_empty() && harmed.is_empty() {
        return "This run does not show that the synthesized pairs helped.".into();
    }
    let mut sentences = Vec::new();
    if !helped.is_empty() {
        sentences.push(format!(
            "The synthesized pairs helped on {}.",
            joined(&helped)
        ));
    }
    if !harmed.is_empty() {
        sentences.push(format!(
            "The synthesized pairs did harm on {}.",
            joined(&harmed)
        ));
    }
    if !not_shown.is_empty() {
        sentences.push(format!("On {} no effect is shown.", joined(&not_shown)));
    }
    sentences.join(" ")
}

fn finding(report: &Report, benchmark: &Benchmark) -> Option<Finding> {
    let synthetic = &report.arm(Role::Synthetic)?.name;
    let control = report.arm(Role::Control).map(|arm| arm.name.as_str());
    let baseline = report.arm(Role::Baseline).map(|arm| arm.name.as_str());
    let against = |reference: &str| find(benchmark, "all", synthetic, reference);
    let gain = control
        .and_then(against)
        .or_else(|| baseline.and_then(against))?
        .clone();
    let mut sentences = vec![gain_sentence(benchmark, &gain)];
    if let Some(other) = baseline
        .filter(|name| *name != gain.reference)
        .and_then(against)
    {
        let (gain, range) = (points(other.gain.mean), point_range(&other.gain));
        sentences.push(format!(
            "Against {}, {gain} points ({range}).",
            other.reference
        ));
    }
    sentences.extend(looking_sentence(benchmark, synthetic));
    sentences.extend(abilities_sentence(benchmark, &gain));
    let outcome = outcome(&gain);
    Some(Finding {
        benchmark: benchmark.title.clone(),
        gain,
        outcome,
        sentences,
    })
}

fn gain_sentence(benchmark: &Benchmark, gain: &Comparison) -> String {
    let accuracy =
        |arm: &str| score(benchmark, arm, "all").map_or("–".into(), |s| percent(s.accuracy.mean));
    let (own, other) = (accuracy(&gain.arm), accuracy(&gain.reference));
    let right = format!(
        "{} answers {own} of the questions rightly, {} {other}",
        capitalised(&gain.arm),
        gain.reference
    );
    match outcome(gain) {
        Outcome::Helped => {
            format!("{right}. The interval excludes zero: the gain is unlikely to be chance.")
        }
        Outcome::Harmed => {
            format!("{right}. The interval lies below zero: the pairs did harm here.")
        }
        Outcome::NotShown => {
            format!(
                "{right}. The interval holds zero: by these questions the difference may be chance."
            )
        }
    }
}

/// Whether the synthetic arm looks at the pictures at all.
fn looking_sentence(benchmark: &Benchmark, arm: &str) -> Option<String> {
    let against = find(benchmark, "all", arm, &format!("{arm} (shuffled)"))?;
    let shuffled = score(benchmark, arm, "all")?.shuffled_accuracy?;
    let mean = percent(shuffled.mean);
    Some(match outcome(against) {
        Outcome::Helped => format!(
            "It looks at the pictures: with them shuffled among the questions it falls to {mean} ({} points, {}).",
            points(-against.gain.mean),
            format_args!(
                "{} to {}",
                points(-against.gain.high),
                points(-against.gain.low)
            ),
        ),
        Outcome::NotShown | Outcome::Harmed => {
            format!(
                "With the pictures shuffled among the questions it still reaches {mean}: no sign that it looks."
            )
        }
    })
}

/// Which abilities changed by themselves, after Holm's correction.
fn abilities_sentence(benchmark: &Benchmark, gain: &Comparison) -> Option<String> {
    let rows: Vec<&Comparison> = benchmark
        .comparisons
        .iter()
        .filter(|c| c.ability != "all" && c.arm == gain.arm && c.reference == gain.reference)
        .collect();
    let named = |sign: f64| -> Vec<&str> {
        rows.iter()
            .filter(|c| c.p_value < 0.05 && c.gain.mean * sign > 0.0)
            .map(|c| c.ability.as_str())
            .collect()
    };
    let (better, worse) = (named(1.0), named(-1.0));
    if rows.is_empty() {
        return None;
    }
    let mut sentence = match better.len() {
        0 => format!(
            "No ability of {} shows a gain of its own after Holm’s correction",
            rows.len()
        ),
        _ => format!(
            "Abilities with a gain of their own after Holm’s correction: {}",
            better.join(", ")
        ),
    };
    if !worse.is_empty() {
        sentence.push_str(&format!("; with a loss: {}", worse.join(", ")));
    }
    sentence.push('.');
    Some(sentence)
}

/// What the interval of a comparison says.
pub(super) fn outcome(comparison: &Comparison) -> Outcome {
    if comparison.gain.low > 0.0 {
        Outcome::Helped
    } else if comparison.gain.high < 0.0 {
        Outcome::Harmed
    } else {
        Outcome::NotShown
    }
}

/// The score of an arm on an ability.
pub(super) fn score<'a>(benchmark: &'a Benchmark, arm: &str, ability: &str) -> Option<&'a Score> {
    benchmark
        .scores
        .iter()
        .find(|s| s.arm == arm && s.ability == ability)
}

/// The comparison of an arm with a reference on an ability.
pub(super) fn find<'a>(
    benchmark: &'a Benchmark,
    ability: &str,
    arm: &str,
    reference: &str,
) -> Option<&'a Comparison> {
    benchmark
        .comparisons
        .iter()
        .find(|c| c.ability == ability && c.arm == arm && c.reference == reference)
}

/// `a`, `a and b`, `a, b and c`.
fn joined(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [init @ .., last] => format!("{} and {last}", init.join(", ")),
    }
}
