//! Scores: bars per ability with their intervals, then the gains on a line through zero.

use std::fmt::Write as _;

use super::html::{
    capitalised, count, distinct, fold, percent, point_range, points, position, table, text,
};
use super::verdict::{Outcome, find, outcome, score};
use super::{Benchmark, Comparison, Report, Role, Score, Section};

/// Height of a bar and the gap below it, in pixels.
const BAR_PX: u32 = 9;
const GAP_PX: u32 = 4;

/// Bars, gains and tables of all benchmarks.
pub(super) fn section(report: &Report) -> Option<Section> {
    if report.benchmarks.iter().all(|b| b.scores.is_empty()) {
        return None;
    }
    let abilities = abilities(report);
    Some(Section {
        id: "scores",
        title: "Scores by ability",
        lead: "Share of right answers; the thin line is the 95\u{202f}% interval (bootstrap over pictures, and over training seeds where there are several). The mark ◇ is \
               the same model with the pictures shuffled among the questions: what it gets without looking."
            .into(),
        body: format!(
            "{}<div class=\"chart\" style=\"--columns:{}\">\n{}{}</div>\n{}{}",
            report.arm_legend(),
            report.benchmarks.len(),
            column_heads(report, "share of right answers, 0 to 100\u{202f}%"),
            abilities.iter().map(|ability| bar_row(report, ability)).collect::<String>(),
            gains(report, &abilities),
            fold("All figures as tables", &report.benchmarks.iter().map(|b| figures(report, b)).collect::<String>())
        ),
    })
}

/// `all` first, then in the order of first appearance.
fn abilities(report: &Report) -> Vec<&str> {
    let named = report
        .benchmarks
        .iter()
        .flat_map(|b| b.scores.iter().map(|s| s.ability.as_str()));
    distinct(std::iter::once("all").chain(named))
}

fn column_heads(report: &Report, scale: &str) -> String {
    let heads: String = report
        .benchmarks
        .iter()
        .map(|b| {
            format!(
                "<div class=\"column\"><b>{}</b> <small>{}</small><em>{scale}</em></div>",
                text(&capitalised(&b.title)),
                text(&b.description)
            )
        })
        .collect();
    format!("<div class=\"row heads\"><div class=\"what\"></div>{heads}</div>\n")
}

fn bar_row(report: &Report, ability: &str) -> String {
    let cells: String = report
        .benchmarks
        .iter()
        .map(|b| bar_cell(report, b, ability))
        .collect();
    format!(
        "<div class=\"row{}\"><div class=\"what\">{}</div>{cells}</div>\n",
        row_class(ability),
        text(ability)
    )
}

fn row_class(ability: &str) -> &'static str {
    if ability == "all" { " all" } else { "" }
}

fn bar_cell(report: &Report, benchmark: &Benchmark, ability: &str) -> String {
    let scores: Vec<&Score> = report
        .arms
        .iter()
        .filter_map(|arm| score(benchmark, &arm.name, ability))
        .collect();
    if scores.is_empty() {
        return format!(
            "<div class=\"cell\" data-title=\"{}\"><p class=\"nothing\">not asked</p></div>",
            text(&benchmark.title)
        );
    }
    let mut drawn = String::new();
    let mut values = String::new();
    for (index, score) in scores.iter().enumerate() {
        let class = report.arm_class(&score.arm);
        drawn.push_str(&bar(
            score,
            class,
            index as u32 * (BAR_PX + GAP_PX) + GAP_PX,
        ));
        let _ = write!(
            values,
            "<span class=\"{class}\">{}</span>",
            percent(score.accuracy.mean)
        );
    }
    let height = scores.len() as u32 * (BAR_PX + GAP_PX) + GAP_PX;
    format!(
        "<div class=\"cell\" data-title=\"{}\"><svg class=\"bars\" width=\"100%\" height=\"{height}\" role=\"img\" aria-label=\"{}\">\
         <line class=\"grid\" x1=\"25%\" x2=\"25%\" y2=\"100%\"/><line class=\"grid\" x1=\"50%\" x2=\"50%\" y2=\"100%\"/>\
         <line class=\"grid\" x1=\"75%\" x2=\"75%\" y2=\"100%\"/><line class=\"grid end\" x1=\"100%\" x2=\"100%\" y2=\"100%\"/>\
         <line class=\"grid end\" x1=\"0\" x2=\"0\" y2=\"100%\"/>{drawn}</svg><div class=\"values\">{values}</div></div>",
        text(&benchmark.title),
        text(&spoken(ability, &scores)),
    )
}

fn bar(score: &Score, class: &str, top_px: u32) -> String {
    let middle = f64::from(top_px) + f64::from(BAR_PX) / 2.0;
    let mut out = format!(
        "<g class=\"{class}\"><title>{}</title><rect class=\"bar\" width=\"{}\" y=\"{top_px}\" height=\"{BAR_PX}\" rx=\"1.5\"/>\
         <line class=\"halo\" x1=\"{low}\" x2=\"{high}\" y1=\"{middle}\" y2=\"{middle}\"/>\
         <line class=\"whisker\" x1=\"{low}\" x2=\"{high}\" y1=\"{middle}\" y2=\"{middle}\"/>",
        text(&hover(score)),
        position(score.accuracy.mean),
        low = position(score.accuracy.low),
        high = position(score.accuracy.high),
    );
    if let Some(shuffled) = &score.shuffled_accuracy {
        // A nested svg is what lets a shape be placed in percent.
        let _ = write!(
            out,
            "<svg x=\"{}\" y=\"{middle}\" overflow=\"visible\"><path class=\"shuffled\" d=\"M0-5 5 0 0 5-5 0z\"/></svg>",
            position(shuffled.mean)
        );
    }
    out.push_str("</g>");
    out
}

fn hover(score: &Score) -> String {
    let Score {
        arm,
        question_count,
        accuracy,
        shuffled_accuracy,
        unparsed_count,
        ..
    } = score;
    let (mean, low, high) = (
        percent(accuracy.mean),
        percent(accuracy.low),
        percent(accuracy.high),
    );
    let mut out = format!("{arm}: {mean} ({low} to {high}) of {question_count} questions");
    if let Some(shuffled) = shuffled_accuracy {
        let _ = write!(out, "; shuffled {}", percent(shuffled.mean));
    }
    if *unparsed_count > 0 {
        let _ = write!(out, "; {unparsed_count} unreadable");
    }
    out
}

fn spoken(ability: &str, scores: &[&Score]) -> String {
    let each: Vec<String> = scores.iter().map(|s| hover(s)).collect();
    format!("{ability}: {}", each.join(". "))
}

/// The synthetic arm against the control, else against the baseline.
fn gains(report: &Report, abilities: &[&str]) -> String {
    let Some(arm) = report.arm(Role::Synthetic) else {
        return String::new();
    };
    let against = |reference: &str| {
        report.benchmarks.iter().any(|b| {
            b.comparisons
                .iter()
                .any(|c| c.arm == arm.name && c.reference == reference)
        })
    };
    let Some(reference) = [Role::Control, Role::Baseline]
        .into_iter()
        .filter_map(|role| report.arm(role))
        .find(|r| against(&r.name))
    else {
        return String::new();
    };
    let reach = reach(report, &arm.name, &reference.name);
    let rows: String = abilities
        .iter()
        .map(|ability| {
            let cells: String = report
                .benchmarks
                .iter()
                .map(|b| gain_cell(b, find(b, ability, &arm.name, &reference.name), reach))
                .collect();
            format!(
                "<div class=\"row{}\"><div class=\"what\">{}</div>{cells}</div>\n",
                row_class(ability),
                text(ability)
            )
        })
        .collect();
    format!(
        "<h3>{} against {}</h3>\n<p class=\"lead\">Difference in points with its 95\u{202f}% interval (the same \
         bootstrap, paired). A filled dot holds after Holm’s correction over the abilities; a hollow one may be chance.</p>\n\
         <div class=\"chart gains\" style=\"--columns:{}\">\n{}{rows}</div>\n",
        text(&capitalised(&arm.name)),
        text(&reference.name),
        report.benchmarks.len(),
        column_heads(report, &format!("−{0:.0} to +{0:.0} points", reach * 100.0)),
    )
}

/// The scale's half width: the farthest end of an interval, rounded up to ten points.
fn reach(report: &Report, arm: &str, reference: &str) -> f64 {
    let ends = report
        .benchmarks
        .iter()
        .flat_map(|b| &b.comparisons)
        .filter(|c| c.arm == arm && c.reference == reference)
        .flat_map(|c| [c.gain.low.abs(), c.gain.high.abs()]);
    ((ends.fold(0.1, f64::max) * 10.0 - 1e-9).ceil() / 10.0).min(1.0)
}

fn gain_cell(benchmark: &Benchmark, comparison: Option<&Comparison>, reach: f64) -> String {
    let title = text(&benchmark.title);
    let Some(comparison) = comparison else {
        return format!(
            "<div class=\"cell\" data-title=\"{title}\"><p class=\"nothing\">not compared</p></div>"
        );
    };
    let Comparison {
        ability,
        arm,
        reference,
        gain,
        p_value,
    } = comparison;
    let at = |value: f64| position(0.5 + value / reach / 2.0);
    let class = match outcome(comparison) {
        Outcome::Helped => "helped",
        Outcome::NotShown => "notshown",
        Outcome::Harmed => "harmed",
    };
    let firm = if *p_value < 0.05 { " firm" } else { "" };
    let spoken = format!(
        "{ability}: {arm} minus {reference} {} points ({}), p {}",
        points(gain.mean),
        point_range(gain),
        p_words(*p_value)
    );
    format!(
        "<div class=\"cell {class}{firm}\" data-title=\"{title}\"><svg class=\"forest\" width=\"100%\" height=\"22\" role=\"img\" aria-label=\"{0}\">\
         <title>{0}</title><line class=\"zero\" x1=\"50%\" x2=\"50%\" y2=\"100%\"/>\
         <line class=\"span\" x1=\"{1}\" x2=\"{2}\" y1=\"11\" y2=\"11\"/><circle cx=\"{3}\" cy=\"11\" r=\"4.5\"/></svg>\
         <div class=\"values\"><span>{4}</span></div></div>",
        text(&spoken),
        at(gain.low),
        at(gain.high),
        at(gain.mean),
        points(gain.mean),
    )
}

fn p_words(p_value: f64) -> String {
    if p_value < 0.001 {
        "< 0.001".into()
    } else {
        format!("{p_value:.3}")
    }
}

fn figures(report: &Report, benchmark: &Benchmark) -> String {
    let head = [
        "Ability",
        "Model",
        "Questions",
        "Right",
        "95 % interval",
        "Shuffled",
        "Unreadable",
    ]
    .map(str::to_owned);
    let scores: Vec<Vec<String>> = benchmark
        .scores
        .iter()
        .map(|s| score_cells(report, s))
        .collect();
    let gain_head = [
        "Ability",
        "Comparison",
        "Points",
        "95 % interval",
        "p (Holm)",
    ]
    .map(str::to_owned);
    let gains: Vec<Vec<String>> = benchmark.comparisons.iter().map(gain_cells).collect();
    let title = &benchmark.title;
    let mut out = table(&format!("Accuracy on {title}"), &head, &scores);
    if !gains.is_empty() {
        out.push_str(&table(
            &format!("Differences on {title}"),
            &gain_head,
            &gains,
        ));
    }
    out
}

fn score_cells(report: &Report, score: &Score) -> Vec<String> {
    let Score {
        arm,
        ability,
        question_count,
        accuracy,
        shuffled_accuracy,
        unparsed_count,
    } = score;
    vec![
        text(ability).to_string(),
        format!(
            "<span class=\"who {}\"><i class=\"swatch\"></i>{}</span>",
            report.arm_class(arm),
            text(arm)
        ),
        count(u64::from(*question_count)),
        percent(accuracy.mean),
        format!("{} to {}", percent(accuracy.low), percent(accuracy.high)),
        shuffled_accuracy.map_or("–".into(), |s| percent(s.mean)),
        count(u64::from(*unparsed_count)),
    ]
}

fn gain_cells(comparison: &Comparison) -> Vec<String> {
    let Comparison {
        ability,
        arm,
        reference,
        gain,
        p_value,
    } = comparison;
    vec![
        text(ability).to_string(),
        format!("{} − {}", text(arm), text(reference)),
        points(gain.mean),
        point_range(gain),
        p_words(*p_value),
    ]
}
