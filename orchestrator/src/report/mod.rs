//! `report.html`: one self-contained file, from data to a string.
//!
//! Nothing is fetched: styles, script and pictures are inside. Every text passes through
//! [`html::text`], so that whatever a prompt, an answer or a recipe holds is shown as it is.

mod audit;
mod curves;
mod data;
mod exchanges;
mod gallery;
mod gates;
mod html;
mod record;
mod scores;
mod verdict;

pub use audit::render_audit;
pub use data::{
    Arm, Benchmark, Comparison, Exchange, Gate, GivenAnswer, Interval, LossPoint, Pair, Picture,
    Quota, Reason, RecordGroup, RejectedPair, Report, Role, Score, Timing, TrainingRun, Turn,
};
pub use verdict::{Finding, Verdict, verdict};

use html::text;

/// Renders the report as a complete HTML document.
pub fn render(report: &Report) -> String {
    let sections: Vec<Section> = [
        gallery::section(report),
        scores::section(report),
        exchanges::section(report),
        curves::section(report),
        gates::section(report),
        record::section(report),
    ]
    .into_iter()
    .flatten()
    .collect();
    let body: String = sections.iter().map(Section::html).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"generator\" content=\"diptych {version}\">\n\
         <link rel=\"icon\" href=\"data:,\">\n\
         <title>{title} – Diptych</title>\n<style>\n{style}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#content\">Skip to the content</a>\n\
         {header}{nav}<main id=\"content\">\n{body}</main>\n\
         <footer><p>Pictures in the gallery were made by a model. Made by Diptych {version}; \
         this file loads nothing from elsewhere.</p></footer>\n\
         <script>\n{script}</script>\n</body>\n</html>\n",
        version = env!("CARGO_PKG_VERSION"),
        title = text(&report.title),
        style = include_str!("style.css"),
        script = include_str!("script.js"),
        header = verdict::header(report),
        nav = navigation(&sections),
    )
}

/// One part of the page.
struct Section {
    /// Anchor.
    id: &'static str,
    /// Heading, and entry of the navigation.
    title: &'static str,
    /// One sentence under the heading, already HTML.
    lead: String,
    /// The rest, already HTML.
    body: String,
}

impl Section {
    fn html(&self) -> String {
        let Self {
            id,
            title,
            lead,
            body,
        } = self;
        format!(
            "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{title}</h2>\n\
             <p class=\"lead\">{lead}</p>\n{body}</section>\n"
        )
    }
}

fn navigation(sections: &[Section]) -> String {
    if sections.len() < 2 {
        return String::new();
    }
    let links: String = sections
        .iter()
        .map(|s| format!("<li><a href=\"#{}\">{}</a></li>", s.id, s.title))
        .collect();
    format!("<nav aria-label=\"Sections\"><ul>{links}</ul></nav>\n")
}

impl Report {
    /// The first arm in a role.
    fn arm(&self, role: Role) -> Option<&Arm> {
        self.arms.iter().find(|arm| arm.role == role)
    }

    /// CSS class that colours an arm; arms that nobody declared are `other`.
    fn arm_class(&self, name: &str) -> &'static str {
        match self
            .arms
            .iter()
            .find(|arm| arm.name == name)
            .map(|arm| arm.role)
        {
            Some(Role::Baseline) => "baseline",
            Some(Role::Control) => "control",
            Some(Role::Synthetic) => "synthetic",
            Some(Role::Other) | None => "other",
        }
    }

    /// Legend of the arms, for charts.
    fn arm_legend(&self) -> String {
        let entries: String = self
            .arms
            .iter()
            .map(|arm| {
                format!(
                    "<li class=\"{}\"><i class=\"swatch\"></i><b>{}</b> <span>{}</span></li>",
                    self.arm_class(&arm.name),
                    text(&arm.name),
                    text(&arm.description)
                )
            })
            .collect();
        format!("<ul class=\"legend\">{entries}</ul>\n")
    }
}
