//! The page of an audit: one self-contained file in the report's style.

use dataset::audit::{Counts, Distribution, Finding, Report};

use super::html::{count, counted, fold, table, text};

/// Renders an audit of `source` as a complete HTML document.
pub fn render_audit(source: &str, report: &Report) -> String {
    let found = report.findings.iter().filter(|finding| finding.count > 0);
    let headline = match found.count() as u64 {
        0 => "No defect was found".to_owned(),
        n => format!("{} found", counted(n, "defect")),
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"generator\" content=\"diptych {version}\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>Audit of {source} – Diptych</title>\n<style>\n{style}</style>\n</head>\n<body>\n\
         <header class=\"masthead\"><p class=\"brand\"><span class=\"mark\"></span>Diptych\
         <span class=\"run\">audit of {source}</span></p>\n<h1>{headline}</h1>\n\
         <p class=\"summary\">{summary}</p></header>\n<main id=\"content\">\n\
         <section><h2>Defects</h2>\n{findings}</section>\n\
         <section><h2>Abilities</h2>\n{abilities}</section>\n\
         <section><h2>How values are spread</h2>\n{distributions}</section>\n</main>\n\
         <footer><p>Made by Diptych {version}; this file loads nothing from elsewhere.</p></footer>\n\
         </body>\n</html>\n",
        version = env!("CARGO_PKG_VERSION"),
        source = text(source),
        style = include_str!("style.css"),
        summary = summary(report),
        findings = findings(&report.findings),
        abilities = abilities(report),
        distributions = report
            .distributions
            .iter()
            .map(distribution)
            .collect::<String>(),
    )
}

fn summary(report: &Report) -> String {
    let mut summary = format!(
        "{}, {}, {}.",
        counted(report.samples, "sample"),
        counted(report.prompts, "prompt"),
        counted(report.pictures, "picture")
    );
    if !report.not_checked.is_empty() {
        let what = report.not_checked.join("; ");
        summary.push_str(&format!(" Not checked: {}.", text(&what)));
    }
    summary
}

fn findings(findings: &[Finding]) -> String {
    let head = ["Defect", "Count", "Share", "Examples"].map(str::to_owned);
    let row = |finding: &Finding| {
        let value = match finding.value.as_str() {
            "" => String::new(),
            value => format!(" “{}”", text(value)),
        };
        let badge = match finding.count {
            0 if finding.of == 0 => "<span class=\"badge unchecked\">not checked</span>".to_owned(),
            0 => "<span class=\"nothing\">0</span>".to_owned(),
            n => format!("<span class=\"badge rejected\">{}</span>", count(n)),
        };
        vec![
            format!(
                "{}{value}<small>{}</small>",
                finding.defect,
                text(finding.meaning)
            ),
            badge,
            share(finding),
            text(&finding.examples.join(", ")).to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = findings.iter().map(row).collect();
    table("Defects that were looked for", &head, &rows)
}

fn share(finding: &Finding) -> String {
    match finding.of {
        0 => "–".to_owned(),
        of => format!("{:.2}\u{202f}% of {}", 100.0 * finding.share, count(of)),
    }
}

fn abilities(report: &Report) -> String {
    let head = [
        "Ability",
        "Samples",
        "Different prompts",
        "Different pairs",
        "Subjects",
        "Words per answer",
    ];
    let row = |(name, counts): (&String, &Counts)| {
        vec![
            text(name).to_string(),
            count(counts.samples),
            count(counts.unique_prompts),
            count(counts.unique_pairs),
            count(counts.unique_subjects),
            format!("{:.1}", counts.mean_answer_words),
        ]
    };
    let rows: Vec<Vec<String>> = report.abilities.iter().map(row).collect();
    table("Samples per ability", &head.map(str::to_owned), &rows)
}

fn distribution(distribution: &Distribution) -> String {
    let head = ["Value", "Count"].map(str::to_owned);
    let row = |(value, n): &(String, u64)| vec![text(value).to_string(), count(*n)];
    let rows: Vec<Vec<String>> = distribution.top.iter().map(row).collect();
    let name = format!(
        "{} ({} different)",
        distribution.of,
        count(distribution.distinct)
    );
    fold(&name, &table(&name, &head, &rows))
}
