//! What stands in the file, read as text.

use diptych::report::{self, Interval, Picture, Report, Role};

use super::fixture;

#[test]
fn a_full_report_holds_every_section_and_nothing_from_elsewhere() {
    let html = report::render(&fixture::report());
    for id in [
        "pairs", "scores", "answers", "training", "rejected", "record",
    ] {
        assert!(
            html.contains(&format!("<section id=\"{id}\"")),
            "section {id} is missing"
        );
        assert!(
            html.contains(&format!("<a href=\"#{id}\">")),
            "navigation to {id} is missing"
        );
    }
    assert!(html.contains("<h1>The synthesized pairs helped on AI-generated pictures. On real pictures no effect is shown.</h1>"));
    assert_eq!(
        html.matches("class=\"row").count(),
        2 * (2 + fixture::ABILITIES.len())
    );
    assert!(
        !html.contains("http://") && !html.contains("https://") && !html.contains("url("),
        "the file loads something"
    );
    assert_eq!(html.matches("<img ").count(), html.matches("alt=").count());
    assert_balanced(&html);
}

#[test]
fn hostile_text_is_shown_and_never_run() {
    let hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u{202e}\u{0}";
    let mut report = fixture::report();
    let json = serde_json::to_string(&report).expect("serializes");
    // Every text of the fixture that people or models wrote, by way of its JSON.
    for word in [
        "demo",
        "fox",
        "animal",
        "synthetic",
        "alignment",
        "real pictures",
        "avx2",
        "train baseline",
    ] {
        let quoted = serde_json::to_string(hostile).expect("quotes");
        let changed = json.replace(word, &format!("{word}{}", &quoted[1..quoted.len() - 1]));
        report = serde_json::from_str(&changed).unwrap_or_else(|_| report.clone());
    }
    report.pairs[0].prompt = hostile.into();
    report.pairs[0].pictures[0].alt = hostile.into();
    report.pairs[0].pictures[0].media_type = "text/html\" onload=\"alert(3)".into();
    report.pairs[1].turns[0].answer = hostile.into();
    report.training_runs[0].label = hostile.into();
    report.recipe = hostile.into();
    report.exchanges[0].answers[0].text = hostile.into();
    report.gates[0].name = hostile.into();
    report.benchmarks[0].title = hostile.into();
    let html = report::render(&report);
    assert!(!html.contains("<script>alert") && !html.contains("<img src=x"));
    assert!(!html.contains("\" onload="));
    assert!(html.contains("&lt;script&gt;alert(1)"));
    assert!(!html.contains('\u{202e}') && !html.contains('\u{0}'));
    assert_balanced(&html);
}

#[test]
fn a_report_without_training_is_a_gallery() {
    let full = fixture::report();
    let html = report::render(&Report {
        title: "preview".into(),
        pairs: full.pairs,
        ..Report::default()
    });
    assert!(html.contains("<h1>preview</h1>") && html.contains("id=\"pairs\""));
    assert!(!html.contains("id=\"scores\"") && !html.contains("<nav"));
    assert_balanced(&html);
    assert_balanced(&report::render(&Report::default()));
}

#[test]
fn the_verdict_says_what_the_intervals_say() {
    let mut report = fixture::report();
    let mut set = |benchmark: usize, mean: f64| {
        for comparison in report.benchmarks[benchmark]
            .comparisons
            .iter_mut()
            .filter(|c| c.ability == "all")
        {
            comparison.gain = Interval {
                mean,
                low: mean - 0.05,
                high: mean + 0.05,
            };
        }
        report::verdict(&report).headline
    };
    assert_eq!(
        set(1, 0.2),
        "The synthesized pairs helped on AI-generated pictures and real pictures."
    );
    assert_eq!(
        set(0, -0.2),
        "The synthesized pairs helped on real pictures. The synthesized pairs did harm on AI-generated pictures."
    );
    set(0, 0.01);
    assert_eq!(
        set(1, -0.01),
        "This run does not show that the synthesized pairs helped."
    );
    report.arms.retain(|arm| arm.role != Role::Control);
    assert_eq!(
        report::verdict(&report).findings[0].gain.reference,
        "baseline"
    );
}

#[test]
fn a_picture_that_is_none_leaves_a_named_gap() {
    let mut report = fixture::report();
    report.pairs[0].pictures = vec![Picture {
        media_type: "image/png".into(),
        data: Vec::new(),
        width_px: 0,
        alt: "a lost fox".into(),
    }];
    assert!(report::render(&report).contains("aria-label=\"a lost fox\""));
}

/// Every element that is opened is closed, in order.
fn assert_balanced(html: &str) {
    const VOID: [&str; 4] = ["meta", "link", "img", "!doctype"];
    let mut open: Vec<&str> = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        let end = rest.find('>').expect("a tag ends");
        let (tag, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        let name = tag
            .trim_start_matches('/')
            .split([' ', '\n', '/'])
            .next()
            .expect("a tag has a name");
        if tag.starts_with('/') {
            assert_eq!(
                open.pop(),
                Some(name),
                "closed out of order near {:?}",
                &rest[..rest.len().min(80)]
            );
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
        if matches!(tag.split(' ').next(), Some("script" | "style")) {
            rest = &rest[rest.find(&format!("</{name}")).expect("raw text ends")..];
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}
