//! A report as a small run leaves it: 13 abilities, three arms, two benchmarks. Figures come from a
//! formula, so that every run of the test sees the same page.

use std::io::Cursor;

use diptych::report::{
    Arm, Benchmark, Comparison, Exchange, Gate, GivenAnswer, Interval, LossPoint, Pair, Picture,
    Quota, Reason, RecordGroup, RejectedPair, Report, Role, Score, Timing, TrainingRun, Turn,
};

pub(crate) const ABILITIES: [&str; 13] = [
    "animal",
    "plant",
    "vehicle",
    "food",
    "clothes",
    "furniture",
    "color",
    "hair",
    "profession",
    "scene",
    "action",
    "style",
    "abnormal",
];
const ARMS: [(&str, Role, &str); 3] = [
    ("baseline", Role::Baseline, "base data, 600 steps"),
    ("control", Role::Control, "base data, 1,200 steps"),
    (
        "synthetic",
        Role::Synthetic,
        "base data and the pairs, 1,200 steps",
    ),
];

/// The report of a run in which the pairs helped on one benchmark and not visibly on the other.
pub(crate) fn report() -> Report {
    Report {
        title: "demo".into(),
        summary: "260 image–dialogue pairs were made from scratch and a small vision-language model was trained with \
                  and without them."
            .into(),
        arms: ARMS
            .map(|(name, role, description)| Arm { name: name.into(), role, description: description.into() })
            .into(),
        pairs: ABILITIES.iter().flat_map(|ability| (0..5).map(|slot| pair(ability, slot))).collect(),
        quotas: ABILITIES.iter().enumerate().map(|(index, ability)| quota(index as u64, ability)).collect(),
        gates: gates(),
        rejected_pairs: (0..6).map(rejected_pair).collect(),
        training_runs: ARMS.iter().enumerate().map(|(index, (arm, ..))| training_run(index, arm)).collect(),
        benchmarks: vec![
            benchmark("ai_generated", "AI-generated pictures", "held-out prompts and seeds", 0.16),
            benchmark("real", "real pictures", "art of another vendor, never seen in training", 0.02),
        ],
        exchanges: (0..16).map(exchange).collect(),
        recipe: "# The demo: 13 abilities × 20 pairs.\nname = \"demo\"\nseed = 7\n\n[samples]\nper_ability = 20\n\
                 abilities = [\"animal\", \"plant\", \"vehicle\", \"food\", \"clothes\", \"furniture\", \"color\", \"hair\"]\n"
            .into(),
        records: records(),
        timings: [("prompts", 0.4), ("pictures", 95.2), ("dialogues", 1.3), ("train baseline", 61.0), ("train synthetic", 118.5)]
            .map(|(stage, seconds)| Timing { stage: stage.into(), seconds, note: "260 samples".into() })
            .into(),
    }
}

/// A picture of one colour with a disc, so that each can be told from the next.
pub(crate) fn picture(index: usize, alt: &str) -> Picture {
    let side_px = 64;
    let shade = |offset: usize| (((index * 67 + offset * 91) % 200) + 40) as u8;
    let pixels = image::RgbImage::from_fn(side_px, side_px, |x, y| {
        let (dx, dy) = (x as i32 - 32, y as i32 - 34);
        if dx * dx + dy * dy < 400 {
            image::Rgb([shade(1), shade(2), shade(3)])
        } else {
            image::Rgb([shade(4), shade(5), 230 - (y as u8)])
        }
    });
    let mut data = Cursor::new(Vec::new());
    pixels
        .write_to(&mut data, image::ImageFormat::Png)
        .expect("encodes");
    Picture {
        media_type: "image/png".into(),
        data: data.into_inner(),
        width_px: side_px,
        alt: alt.into(),
    }
}

fn pair(ability: &str, slot: usize) -> Pair {
    let keyword = ["fox", "sunflower", "red car", "person running", "whale"][slot];
    let prompt = format!("(({keyword})), beach, cartoon");
    let turn = |question: &str, answer: String| Turn {
        question: question.into(),
        answer,
    };
    Pair {
        ability: ability.into(),
        pictures: vec![picture(slot + ability.len() * 7, &prompt)],
        turns: vec![
            turn(
                "Describe the picture briefly.",
                format!("A {keyword} on a beach, drawn as a cartoon."),
            ),
            turn("What is in the picture?", format!("A {keyword}.")),
            turn("Is it in the snow?", "No, it is on a beach.".into()),
        ],
        prompt,
    }
}

fn quota(index: u64, ability: &str) -> Quota {
    let short = u64::from(ability == "abnormal") * 3;
    Quota {
        ability: ability.into(),
        accepted_count: 20 - short,
        wanted_count: 20,
        attempt_count: 22 + index % 5,
    }
}

fn gates() -> Vec<Gate> {
    let gate = |name: &str, description: &str, counts: [u64; 3], reasons: &[(&str, u64)]| Gate {
        name: name.into(),
        description: description.into(),
        passed_count: counts[0],
        rejected_count: counts[1],
        not_checked_count: counts[2],
        reasons: reasons
            .iter()
            .map(|(text, count)| Reason {
                text: (*text).into(),
                count: *count,
            })
            .collect(),
    };
    vec![
        gate(
            "blank",
            "The picture is not of one colour.",
            [1_304, 2, 0],
            &[("standard deviation below 4", 2)],
        ),
        gate(
            "alignment",
            "The picture shows what its prompt says (nano-clip, cosine).",
            [1_281, 23, 0],
            &[
                ("the subject is not recognised", 17),
                ("the style is not recognised", 6),
            ],
        ),
        gate(
            "safety",
            "Nothing unsafe for work is shown.",
            [0, 0, 1_281],
            &[],
        ),
        gate(
            "overlap",
            "No evaluation picture or prompt is repeated.",
            [1_279, 2, 0],
            &[("prompt of the benchmark", 2)],
        ),
    ]
}

fn rejected_pair(index: usize) -> RejectedPair {
    let prompt = "((purple umbrella)), mountain, pixel art";
    RejectedPair {
        ability: ABILITIES[index * 2].into(),
        gate: "alignment".into(),
        reason: "the subject is not recognised: cosine 0.11, wanted 0.20".into(),
        prompt: prompt.into(),
        pictures: (index != 2)
            .then(|| picture(index * 5, prompt))
            .into_iter()
            .collect(),
    }
}

fn training_run(index: usize, arm: &str) -> TrainingRun {
    let step_count = if index == 0 { 600 } else { 1_200 };
    let loss = |step: u64| {
        let noise = ((step * 7_919 + index as u64 * 131) % 97) as f64 / 97.0 - 0.5;
        0.35 + 0.12 * index as f64 + 3.2 * (-(step as f64) / 140.0).exp() + noise * 0.35
    };
    let points = (1..=step_count)
        .map(|step| LossPoint {
            step,
            loss: loss(step),
        })
        .collect();
    TrainingRun {
        arm: arm.into(),
        label: String::new(),
        points,
    }
}

fn benchmark(name: &str, title: &str, description: &str, gain: f64) -> Benchmark {
    let (mut scores, mut comparisons) = (Vec::new(), Vec::new());
    for (row, ability) in std::iter::once("all").chain(ABILITIES).enumerate() {
        let count = if ability == "all" { 130 } else { 10 };
        let half = if ability == "all" { 0.06 } else { 0.2 };
        let around = |mean: f64| {
            let mean = mean.clamp(0.0, 1.0);
            Interval {
                mean,
                low: (mean - half).max(0.0),
                high: (mean + half).min(1.0),
            }
        };
        let wobble = if ability == "all" {
            0.0
        } else {
            ((row * 37) % 23) as f64 / 40.0 - 0.28
        };
        for (index, (arm, ..)) in ARMS.iter().enumerate() {
            scores.push(Score {
                arm: (*arm).into(),
                ability: ability.into(),
                question_count: count,
                accuracy: around(0.46 + wobble + gain * [0.0, 0.2, 1.2][index]),
                shuffled_accuracy: Some(around(0.3)),
                unparsed_count: u32::from(index == 0) * (row % 3) as u32,
            });
        }
        let gain = if ability == "all" {
            gain
        } else {
            gain * 1.6 + wobble
        };
        let p_value = if gain > half { 0.004 } else { 0.4 };
        let interval = Interval {
            mean: gain,
            low: gain - half,
            high: gain + half,
        };
        for (reference, extra) in [
            ("control", 0.0),
            ("baseline", 0.01),
            ("synthetic (shuffled)", 0.1),
        ] {
            let Interval { mean, low, high } = interval;
            comparisons.push(Comparison {
                ability: ability.into(),
                arm: "synthetic".into(),
                reference: reference.into(),
                gain: Interval {
                    mean: mean + extra,
                    low: low + extra,
                    high: high + extra,
                },
                p_value,
            });
        }
    }
    Benchmark {
        name: name.into(),
        title: title.into(),
        description: description.into(),
        scores,
        comparisons,
    }
}

fn exchange(index: usize) -> Exchange {
    let answer = |arm: &str, text: &str, right| GivenAnswer {
        arm: arm.into(),
        text: text.into(),
        right,
    };
    Exchange {
        benchmark: if index.is_multiple_of(2) {
            "ai_generated"
        } else {
            "real"
        }
        .into(),
        ability: ABILITIES[index % 13].into(),
        picture: picture(index * 3, "fox, snow, sketch"),
        question: [
            "What animal is in the picture?",
            "Is there a fox in the picture?",
            "Is this a fox or a bear?",
        ][index % 3]
            .into(),
        accepted_answers: vec!["fox".into()],
        answers: vec![
            answer("baseline", "A picture of a person.", false),
            answer("control", "A bear on a beach.", false),
            answer(
                "synthetic",
                "A fox in the snow, drawn as a sketch.",
                index % 4 != 3,
            ),
        ],
    }
}

fn records() -> Vec<RecordGroup> {
    let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let group = |title: &str, entries: &[(&str, &str)]| RecordGroup {
        title: title.into(),
        entries: entries
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
    };
    vec![
        group(
            "Versions",
            &[
                ("diptych", "0.1.0"),
                ("instruction set", "avx2"),
                ("rustc", "1.95.0"),
            ],
        ),
        group(
            "Hashes (SHA-256)",
            &[
                ("dataset manifest", hash),
                ("builtin:nano-sd", hash),
                ("builtin:nano-llava", hash),
            ],
        ),
    ]
}
