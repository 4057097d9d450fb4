//! What was rejected and why, and what nobody checked.

use super::html::{count, counted, fold, percent, picture, position, table, text};
use super::{Gate, Quota, RejectedPair, Report, Section};

/// Gates, quotas and examples of rejected samples.
pub(super) fn section(report: &Report) -> Option<Section> {
    if report.gates.is_empty() && report.quotas.is_empty() && report.rejected_pairs.is_empty() {
        return None;
    }
    Some(Section {
        id: "rejected",
        title: "What was rejected and why",
        lead: lead(report),
        body: [
            gates(&report.gates),
            examples(&report.rejected_pairs),
            quotas(&report.quotas),
        ]
        .concat(),
    })
}

fn lead(report: &Report) -> String {
    let attempts: u64 = report.quotas.iter().map(|q| q.attempt_count).sum();
    let accepted: u64 = report.quotas.iter().map(|q| q.accepted_count).sum();
    let unchecked: Vec<&str> = report
        .gates
        .iter()
        .filter(|g| g.not_checked_count > 0)
        .map(|g| g.name.as_str())
        .collect();
    let mut lead = if attempts > 0 {
        let share = percent(accepted as f64 / attempts as f64);
        format!(
            "{} made {}: {share}.",
            counted(attempts, "attempt"),
            counted(accepted, "accepted pair")
        )
    } else {
        "A gate keeps what is true of its picture and turns the rest away.".into()
    };
    if !unchecked.is_empty() {
        lead.push_str(&format!(
            " Not checked, for want of a model or data: <b>{}</b>. That is never counted as passed.",
            text(&unchecked.join(", "))
        ));
    }
    lead
}

fn gates(gates: &[Gate]) -> String {
    if gates.is_empty() {
        return String::new();
    }
    let head = ["Gate", "Passed", "Rejected", "Not checked", "Reasons"].map(str::to_owned);
    let rows: Vec<Vec<String>> = gates.iter().map(gate).collect();
    table("Gates in the order in which they ran", &head, &rows)
}

fn gate(gate: &Gate) -> Vec<String> {
    let Gate {
        name,
        description,
        passed_count,
        rejected_count,
        not_checked_count,
        reasons,
    } = gate;
    let reasons: String = reasons
        .iter()
        .map(|reason| {
            format!(
                "<li>{} <span class=\"number\">× {}</span></li>",
                text(&reason.text),
                count(reason.count)
            )
        })
        .collect();
    let badge = |value: u64, class: &str| match value {
        0 => "<span class=\"nothing\">0</span>".to_owned(),
        n => format!("<span class=\"badge {class}\">{}</span>", count(n)),
    };
    vec![
        format!("{}<small>{}</small>", text(name), text(description)),
        badge(*passed_count, "passed"),
        badge(*rejected_count, "rejected"),
        badge(*not_checked_count, "unchecked"),
        if reasons.is_empty() {
            "<span class=\"nothing\">–</span>".into()
        } else {
            format!("<ul class=\"reasons\">{reasons}</ul>")
        },
    ]
}

fn examples(rejected: &[RejectedPair]) -> String {
    if rejected.is_empty() {
        return String::new();
    }
    let cards: String = rejected
        .iter()
        .map(|pair| {
            let plates: String = pair.pictures.iter().map(|p| picture(p, "plate")).collect();
            let plate = match pair.pictures.len() {
                0 => "<div class=\"plate gap\">no picture was made</div>".to_owned(),
                1 => plates,
                _ => format!("<div class=\"plates\">{plates}</div>"),
            };
            format!(
                "<li>{plate}<p><b>{}</b> {}</p><p class=\"prompt\">{} · {}</p></li>\n",
                text(&pair.gate),
                text(&pair.reason),
                text(&pair.ability),
                text(&pair.prompt)
            )
        })
        .collect();
    format!("<h3>Turned away</h3>\n<ul class=\"turned-away\">{cards}</ul>\n")
}

fn quotas(quotas: &[Quota]) -> String {
    if quotas.is_empty() {
        return String::new();
    }
    let head = ["Ability", "Accepted", "Wanted", "Attempts", ""].map(str::to_owned);
    let rows: Vec<Vec<String>> = quotas.iter().map(quota).collect();
    let short = quotas
        .iter()
        .filter(|q| q.accepted_count < q.wanted_count)
        .count();
    let note = match short {
        0 => "Every ability has exactly what the recipe asked for.".to_owned(),
        n => format!(
            "{n} of {} abilities spent their attempts before they were full.",
            quotas.len()
        ),
    };
    fold(
        "Pairs per ability",
        &format!("<p>{note}</p>{}", table("Pairs per ability", &head, &rows)),
    )
}

fn quota(quota: &Quota) -> Vec<String> {
    let Quota {
        ability,
        accepted_count,
        wanted_count,
        attempt_count,
    } = quota;
    let share = if *wanted_count == 0 {
        1.0
    } else {
        *accepted_count as f64 / *wanted_count as f64
    };
    let state = if accepted_count < wanted_count {
        "<span class=\"badge rejected\">short</span>"
    } else {
        ""
    };
    let bar = format!(
        "<svg class=\"meter\" width=\"100%\" height=\"10\" aria-hidden=\"true\"><rect class=\"track\" width=\"100%\" \
         height=\"10\" rx=\"2\"/><rect class=\"fill\" width=\"{}\" height=\"10\" rx=\"2\"/></svg>",
        position(share)
    );
    vec![
        text(ability).to_string(),
        format!("{} {state}", count(*accepted_count)),
        count(*wanted_count),
        count(*attempt_count),
        bar,
    ]
}
