//! The pairs: picture on the left, dialogue on the right, as a diptych.

use super::html::{count, counted, distinct, fold, picture, text};
use super::{Pair, Report, Section};

/// Pairs of an ability that show without a click.
const OPEN_PAIR_COUNT: usize = 2;

/// The gallery, by ability.
pub(super) fn section(report: &Report) -> Option<Section> {
    if report.pairs.is_empty() {
        return None;
    }
    let abilities = distinct(report.pairs.iter().map(|pair| pair.ability.as_str()));
    let links: String = abilities
        .iter()
        .map(|ability| {
            format!(
                "<li><a href=\"#{}\">{}</a></li>",
                anchor(&abilities, ability),
                text(ability)
            )
        })
        .collect();
    let groups: String = abilities
        .iter()
        .map(|ability| group(report, &abilities, ability))
        .collect();
    Some(Section {
        id: "pairs",
        title: "The pairs",
        lead: lead(report, abilities.len()),
        body: format!("<ul class=\"chips\">{links}</ul>\n{groups}"),
    })
}

fn lead(report: &Report, ability_count: usize) -> String {
    let accepted: u64 = report.quotas.iter().map(|quota| quota.accepted_count).sum();
    let abilities = match ability_count {
        1 => "one ability".to_owned(),
        n => format!("{n} abilities"),
    };
    let shown = report.pairs.len() as u64;
    let pairs = if accepted > shown {
        format!("{} of the {} pairs", count(shown), count(accepted))
    } else {
        counted(shown, "pair")
    };
    format!(
        "{pairs}, over {abilities}: each picture was painted from its prompt and carries a dialogue about it."
    )
}

fn group(report: &Report, abilities: &[&str], ability: &str) -> String {
    let cards: Vec<String> = report
        .pairs
        .iter()
        .filter(|pair| pair.ability == ability)
        .map(card)
        .collect();
    let (open, folded) = cards.split_at(cards.len().min(OPEN_PAIR_COUNT));
    let more = if folded.is_empty() {
        String::new()
    } else {
        fold(
            &format!("{} more of {ability}", folded.len()),
            &format!("<div class=\"cards\">{}</div>", folded.concat()),
        )
    };
    format!(
        "<div class=\"group\" id=\"{}\">\n<h3>{} {}</h3>\n<div class=\"cards\">{}</div>\n{more}</div>\n",
        anchor(abilities, ability),
        text(ability),
        quota(report, ability),
        open.concat()
    )
}

fn quota(report: &Report, ability: &str) -> String {
    report
        .quotas
        .iter()
        .find(|quota| quota.ability == ability)
        .map_or_else(String::new, |quota| {
            format!(
                "<small>{} of {} accepted, {} tried</small>",
                count(quota.accepted_count),
                count(quota.wanted_count),
                count(quota.attempt_count)
            )
        })
}

fn card(pair: &Pair) -> String {
    let pictures: String = pair.pictures.iter().map(|p| picture(p, "plate")).collect();
    let turns: String = pair
        .turns
        .iter()
        .map(|turn| {
            format!(
                "<dt>{}</dt><dd>{}</dd>",
                text(&turn.question),
                text(&turn.answer)
            )
        })
        .collect();
    format!(
        "<article class=\"card\"><div class=\"plates\">{pictures}</div>\
         <div class=\"leaf\"><dl class=\"dialogue\">{turns}</dl><p class=\"prompt\" title=\"The prompt\">{}</p></div></article>\n",
        text(&pair.prompt)
    )
}

/// Anchors go by position: an ability's name may hold anything.
fn anchor(abilities: &[&str], ability: &str) -> String {
    format!(
        "ability-{}",
        abilities
            .iter()
            .position(|a| *a == ability)
            .unwrap_or_default()
    )
}
