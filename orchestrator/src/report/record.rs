//! How to get this result again: recipe, versions and hashes, times.

use super::html::{duration, position, table, text};
use super::{RecordGroup, Report, Section, Timing};

/// Recipe, records and timings.
pub(super) fn section(report: &Report) -> Option<Section> {
    if report.recipe.is_empty() && report.records.is_empty() && report.timings.is_empty() {
        return None;
    }
    Some(Section {
        id: "record",
        title: "Recipe and record",
        lead: "What went in, and what it took. The same recipe on the same versions gives the same pairs.".into(),
        body: [timings(&report.timings), recipe(&report.recipe), records(&report.records)].concat(),
    })
}

fn timings(timings: &[Timing]) -> String {
    if timings.is_empty() {
        return String::new();
    }
    let total: f64 = timings
        .iter()
        .map(|t| t.seconds)
        .filter(|s| s.is_finite())
        .sum();
    let longest = timings
        .iter()
        .map(|t| t.seconds)
        .fold(f64::MIN_POSITIVE, f64::max);
    let rows: String = timings
        .iter()
        .map(|timing| {
            format!(
                "<li><span class=\"stage\">{} <small>{}</small></span><span class=\"took\">{}</span>\
                 <svg class=\"meter\" width=\"100%\" height=\"6\" aria-hidden=\"true\"><rect class=\"fill\" \
                 width=\"{}\" height=\"6\" rx=\"2\"/></svg></li>\n",
                text(&timing.stage),
                text(&timing.note),
                duration(timing.seconds),
                position(timing.seconds / longest)
            )
        })
        .collect();
    format!(
        "<h3>Time <small>{} together</small></h3>\n<ul class=\"timings\">{rows}</ul>\n",
        duration(total)
    )
}

fn recipe(recipe: &str) -> String {
    if recipe.is_empty() {
        return String::new();
    }
    format!(
        "<h3>Recipe</h3>\n<div class=\"scroll recipe\" tabindex=\"0\" role=\"region\" aria-label=\"Recipe\"><pre><code>{}</code></pre></div>\n",
        text(recipe)
    )
}

fn records(groups: &[RecordGroup]) -> String {
    groups
        .iter()
        .map(|group| {
            let head = ["Name", "Value"].map(str::to_owned);
            let rows: Vec<Vec<String>> = group
                .entries
                .iter()
                .map(|(name, value)| {
                    vec![
                        text(name).to_string(),
                        format!("<code>{}</code>", text(value)),
                    ]
                })
                .collect();
            format!(
                "<h3>{}</h3>\n<div class=\"record\">{}</div>",
                text(&group.title),
                table(&group.title, &head, &rows)
            )
        })
        .collect()
}
