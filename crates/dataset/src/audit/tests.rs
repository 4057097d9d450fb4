use super::*;
use crate::identity::sha256_hex;
use std::{collections::BTreeSet, fs, path::Path};

/// A row of the release as JSON.
fn row(id: usize, prompt: &str, answer: &str) -> String {
    serde_json::json!({
        "id": id.to_string(), "image": format!("animal/{id}.jpg"), "prompt": prompt,
        "question": "<image>\nDescribe the image concisely.", "answer": answer,
    })
    .to_string()
}

/// A word that no other number has, and that looks like no other.
fn word(number: usize) -> String {
    let digits = sha256_hex(format!("word {number}"));
    let letters = digits.bytes().map(|byte| char::from(b'a' + byte % 16));
    letters.take(9).collect()
}

fn prompt(number: usize) -> String {
    let word = |place: usize| word(10 * number + place);
    format!("(({})), {}, {}, realistic", word(0), word(1), word(2))
}

fn answer(number: usize) -> String {
    format!(
        "A {} stands in a {}.",
        word(10 * number),
        word(10 * number + 1)
    )
}

async fn audited(path: &Path, evaluation: EvaluationSets) -> Report {
    let source = Source::at(path, None).unwrap();
    audit(&source, evaluation, &mut |_| ()).await.unwrap()
}

fn count(report: &Report, defect: &str) -> u64 {
    let findings = report.findings.iter();
    findings
        .filter(|finding| finding.defect == defect)
        .map(|finding| finding.count)
        .sum()
}

#[tokio::test]
async fn the_defects_planted_in_a_file_of_the_releases_layout_are_each_counted() {
    let mut rows: Vec<(String, String)> = (0..200).map(|n| (prompt(n), answer(n))).collect();
    // 30 prompts again with other answers, 20 of rows 0.. with the same.
    rows.extend((0..30).map(|n| (prompt(n), format!("There is one {}.", word(10 * n)))));
    rows.extend((0..20).map(|n| (prompt(n), answer(n))));
    // 7 that differ from an earlier one in an ending.
    let long = |n: usize| {
        (0..12)
            .map(|place| word(9000 + 20 * n + place))
            .collect::<Vec<_>>()
            .join(" ")
    };
    rows.extend((0..7).map(|n| (format!("((cat)), {}, realistic", long(n)), "A cat.".into())));
    rows.extend((0..7).map(|n| (format!("((cat)), {}s, realistic", long(n)), "A cat.".into())));
    // 4 cut prompts as in the release, 3 of which also end within a word of the answer.
    rows.push(("((".into(), "The primary food in the image is .".into()));
    for n in 300..303 {
        let whole = word(10 * n);
        rows.push((
            format!("((beef, realistic, {}", &whole[..6]),
            format!("Some {whole}."),
        ));
    }
    // 5 answers cut within a word, 6 without an end, 8 that do not name the subject.
    rows.extend((400..405).map(|n| (prompt(n), format!("There is a {}", &word(10 * n)[..5]))));
    rows.extend((410..416).map(|n| (prompt(n), format!("There is a fine old {}", word(10 * n)))));
    rows.extend((420..428).map(|n| (prompt(n), "Something stands there.".into())));
    // 9 too long for CLIP.
    rows.extend((500..509).map(|n| {
        let tail: Vec<String> = (0..80)
            .map(|place| word(10_000 + 100 * n + place))
            .collect();
        (format!("{}, {}", prompt(n), tail.join(" ")), answer(n))
    }));
    let folder = tempfile::tempdir().unwrap();
    let mut json: Vec<String> = rows
        .iter()
        .enumerate()
        .map(|(id, (p, a))| row(id, p, a))
        .collect();
    json.push(r#"{"id": "x", "prompt": "((fox))"}"#.into());
    fs::write(
        folder.path().join("animal.json"),
        format!("[{}]", json.join(",\n")),
    )
    .unwrap();
    let report = audited(folder.path(), EvaluationSets::default()).await;

    let expected = [
        ("broken_record", 1),
        ("repeated_prompt", 50),
        ("repeated_pair", 20),
        ("near_repeated_prompt", 7),
        ("unbalanced_prompt", 4),
        ("cut_prompt", 3),
        ("blank_in_answer", 1),
        ("cut_answer", 5),
        ("unfinished_answer", 6),
        // Cut answers name only the beginning of their subject.
        ("subject_not_named", 8 + 5),
        ("idle_emphasis", rows.len() as u64),
        ("long_prompt", 9),
        ("dominant_keyword", rows.len() as u64 - 1),
        ("dominant_style", 0),
        ("leaked_prompt", 0),
    ];
    for (defect, expected) in expected {
        assert_eq!(
            count(&report, defect),
            expected,
            "{defect}: {:#?}",
            report.findings
        );
    }
    let names: BTreeSet<&str> = report
        .findings
        .iter()
        .map(|finding| finding.defect)
        .collect();
    assert_eq!(names.len(), Defect::ALL.len());
    let keyword = report
        .findings
        .iter()
        .find(|finding| finding.defect == "dominant_keyword");
    assert_eq!(keyword.unwrap().value, "realistic");
    let broken = report
        .findings
        .iter()
        .find(|finding| finding.defect == "broken_record");
    assert_eq!(
        broken.unwrap().examples,
        [format!("animal.json, record {}", rows.len())]
    );
    assert!(
        report
            .not_checked
            .contains(&"pictures: there are none".to_owned())
    );
    assert_eq!(report.abilities["animal"].samples, rows.len() as u64);
}

fn png(seed: u32, shift: u8) -> Vec<u8> {
    let pixels = image::RgbImage::from_fn(64, 64, |x, y| {
        let band = (x / 7 + 3 * (y / 9)).wrapping_mul(seed.wrapping_mul(2_654_435_761) | 1) >> 24;
        image::Rgb([(band as u8 / 2) + shift; 3])
    });
    let mut file = Cursor::new(Vec::new());
    pixels.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

#[tokio::test]
async fn pictures_that_are_repeated_missing_broken_or_of_an_evaluation_set_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    let bench = folder.path().join("bench");
    fs::create_dir(&images).unwrap();
    fs::create_dir(&bench).unwrap();
    let files = [
        ("a.png", png(1, 0)),
        ("same.png", png(1, 0)),
        ("brighter.png", png(1, 20)),
        ("tested.png", png(2, 0)),
        ("nearly_tested.png", png(3, 20)),
        ("cut.png", png(4, 0)[..60].to_vec()),
        ("other.png", png(5, 0)),
    ];
    for (name, bytes) in &files {
        fs::write(images.join(name), bytes).unwrap();
    }
    let names = files.iter().map(|(name, _)| *name).chain(["gone.png"]);
    let record = |name| {
        serde_json::json!({"id": name, "image": name, "conversations": [
            {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A thing."}]})
    };
    let records: Vec<_> = names.map(record).collect();
    let json = folder.path().join("data.json");
    fs::write(&json, serde_json::to_vec(&records).unwrap()).unwrap();
    let mut lines = String::new();
    for (name, seed) in [("x.png", 2), ("y.png", 3)] {
        fs::write(bench.join(name), png(seed, 0)).unwrap();
        lines += &format!("{{\"image\": \"{name}\", \"text\": \"What?\", \"answers\": []}}\n");
    }
    fs::write(bench.join("questions.jsonl"), lines).unwrap();
    let mut evaluation = EvaluationSets::default();
    evaluation.add_folder("bench", &bench).unwrap();
    let report = audited(&json, evaluation).await;
    for (defect, expected) in [
        ("repeated_picture", 1),
        ("near_repeated_picture", 1),
        ("missing_picture", 1),
        ("broken_picture", 1),
        ("leaked_picture", 1),
        ("near_leaked_picture", 1),
        ("repeated_pair", 1),
    ] {
        assert_eq!(
            count(&report, defect),
            expected,
            "{defect}: {:#?}",
            report.findings
        );
    }
    assert_eq!((report.samples, report.pictures), (8, 7));
    // The set has pictures, but neither prompts nor a telling text.
    let mut findings = report.findings.iter();
    let leak = findings.find(|finding| finding.defect == "leaked_prompt");
    assert_eq!(leak.map(|finding| finding.of), Some(0));
    let not_checked = report.not_checked.join("; ");
    assert!(not_checked.contains("leaked prompts") && not_checked.contains("leaked texts"));
}

#[test]
fn sets_of_pictures_repeat_when_all_their_prompts_do() {
    let mut auditor = Auditor::new(EvaluationSets::default());
    for (id, texts) in [
        ("first", ["red fox, snow", "blue car, beach"]),
        (
            "shares one",
            ["red fox, snow", "an old wooden chair in a garden"],
        ),
        ("repeats", ["red fox, snow", "blue car, beach"]),
    ] {
        let prompts = texts.map(|text| RowPrompt {
            text: text.to_owned(),
            is_emphasis_read: true,
        });
        auditor.add(&Row {
            id: id.to_owned(),
            prompts: prompts.into(),
            ..Row::default()
        });
    }
    let report = auditor.finish("dataset");
    let mut repeated = report.findings.iter();
    let repeated = repeated
        .find(|finding| finding.defect == "repeated_prompt")
        .unwrap();
    assert_eq!((repeated.count, repeated.of), (2, 6));
    assert_eq!(repeated.examples, ["repeats"]);
}
