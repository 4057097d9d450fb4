//! Before and after: what every arm said of the same picture.

use super::html::{capitalised, distinct, fold, picture, text};
use super::{Exchange, GivenAnswer, Report, Section};

/// Exchanges of a benchmark that show without a click.
const OPEN_EXCHANGE_COUNT: usize = 6;

/// Questions with everyone's answers, by benchmark.
pub(super) fn section(report: &Report) -> Option<Section> {
    if report.exchanges.is_empty() {
        return None;
    }
    let benchmarks = distinct(report.exchanges.iter().map(|e| e.benchmark.as_str()));
    Some(Section {
        id: "answers",
        title: "Before and after",
        lead: "The same question on the same picture, answered by each model. These are examples, the first \
               of each ability on which the models differ; the scores above count all questions."
            .into(),
        body: benchmarks.iter().map(|name| group(report, name)).collect(),
    })
}

fn group(report: &Report, name: &str) -> String {
    let title = report
        .benchmarks
        .iter()
        .find(|b| b.name == name)
        .map_or(name, |b| b.title.as_str());
    let cards: Vec<String> = report
        .exchanges
        .iter()
        .filter(|e| e.benchmark == name)
        .map(|e| card(report, e))
        .collect();
    let (open, folded) = cards.split_at(cards.len().min(OPEN_EXCHANGE_COUNT));
    let more = if folded.is_empty() {
        String::new()
    } else {
        fold(
            &format!("{} more on {title}", folded.len()),
            &format!("<div class=\"cards three\">{}</div>", folded.concat()),
        )
    };
    format!(
        "<div class=\"group\">\n<h3>{}</h3>\n<div class=\"cards three\">{}</div>\n{more}</div>\n",
        text(&capitalised(title)),
        open.concat()
    )
}

fn card(report: &Report, exchange: &Exchange) -> String {
    let answers: String = exchange
        .answers
        .iter()
        .map(|answer| line(report, answer))
        .collect();
    let accepted = exchange.accepted_answers.join(" / ");
    format!(
        "<article class=\"card exchange\"><div class=\"plates\">{}</div><div class=\"leaf\">\
         <p class=\"ability\">{}</p><p class=\"question\">{}</p><p class=\"accepted\">right: {}</p></div>\
         <ul class=\"answers\">{answers}</ul></article>\n",
        picture(&exchange.picture, "plate"),
        text(&exchange.ability),
        text(&exchange.question),
        text(&accepted)
    )
}

fn line(report: &Report, answer: &GivenAnswer) -> String {
    let (class, mark, word) = if answer.right {
        ("right", "✓", "right")
    } else {
        ("wrong", "✗", "wrong")
    };
    let said = if answer.text.trim().is_empty() {
        "(no answer)"
    } else {
        answer.text.as_str()
    };
    format!(
        "<li class=\"{class}\"><span class=\"who {}\"><i class=\"swatch\"></i>{}</span><q>{}</q>\
         <span class=\"mark\" role=\"img\" aria-label=\"{word}\" title=\"{word}\">{mark}</span></li>",
        report.arm_class(&answer.arm),
        text(&answer.arm),
        text(said)
    )
}
