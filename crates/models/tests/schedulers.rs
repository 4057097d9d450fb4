//! Every sampler against diffusers: for published and made-up configurations, the time steps, the scales
//! and the latents after each evaluation of a made-up model. `fixtures/make_schedulers.py` made them.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests: a panic is the report"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use models::scheduler::{Config, Error, Kind, Way};
use models::torch_rng::TorchRng;
use models::weights::Weights;
use serde_json::{Value, json};

/// Of the largest number after an evaluation: f32 in two programs, up to 25 steps. The largest seen is
/// printed.
const TOLERANCE: f32 = 1e-5;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schedulers")
}

/// A configuration as `scheduler_config.json`, read.
fn config(fields: &Value) -> Result<Config, models::config::Error> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scheduler_config.json");
    std::fs::write(&file, fields.to_string()).unwrap();
    Config::read(&file)
}

/// The model of the fixtures.
fn model(x: f32, timestep: f32) -> f32 {
    (0.8 * x + (0.5 * (timestep / 1000.) - 0.2)).tanh()
}

#[test]
fn every_sampler_goes_diffusers_way_for_every_setting() {
    let text = std::fs::read(fixtures().join("cases.json")).unwrap();
    let all: Value = serde_json::from_slice(&text).unwrap();
    let ways = Weights::open(&fixtures().join("ways.safetensors")).unwrap();
    let mut worst: BTreeMap<String, (f32, String)> = BTreeMap::new();
    let cases = all["cases"].as_array().unwrap();
    assert!(cases.len() > 300, "{} cases", cases.len());
    for (number, case) in cases.iter().enumerate() {
        let file = &all["files"][case["file"].as_u64().unwrap() as usize];
        let name = format!("{number:03}");
        let rows = ways.tensor(&name, ways.shape(&name).unwrap()).unwrap();
        let rows: Vec<Vec<f32>> = rows.to_vec2().unwrap();
        let what = format!("{} {case}", file["_class_name"]);
        let error = follow(file, case, &rows, &what);
        let asked = case["name"].as_str().unwrap_or("own");
        let row = worst
            .entry(format!("{} as {asked}", file["_class_name"]))
            .or_default();
        if error > row.0 {
            *row = (error, what);
        }
    }
    for (class, (error, _)) in &worst {
        println!("{class}: {error:.1e}");
    }
    for (error, what) in worst.values() {
        assert!(*error < TOLERANCE, "{error:e} for {what}");
    }
}

/// The largest error of one way, of its largest number.
fn follow(file: &Value, case: &Value, rows: &[Vec<f32>], what: &str) -> f32 {
    let kind = case["name"].as_str().map(|name| Kind::parse(name).unwrap());
    let scheduler = config(file).unwrap().build(kind).unwrap();
    let mut way = scheduler
        .start(&Way {
            strength: case["strength"].as_f64().unwrap(),
            token_count: case["tokens"].as_u64().unwrap_or_default() as usize,
            flow_times_from_one: case["from_one"].as_bool().unwrap_or_default(),
            ..Way::of(case["steps"].as_u64().unwrap() as usize)
        })
        .unwrap();
    let expected: Vec<f32> = serde_json::from_value(case["timesteps"].clone()).unwrap();
    assert_eq!(way.evaluations(), expected.len(), "{what}");
    let scale: f32 = serde_json::from_value(case["initial_scale"].clone()).unwrap();
    assert!((way.initial_scale() / scale - 1.).abs() < 1e-6, "{what}");

    let mut pick = TorchRng::new(5);
    let (noise, picture) = (pick.randn(rows[0].len()), pick.randn(rows[0].len()));
    let level = way.level();
    let mut latents: Vec<f32> = match case["strength"].as_f64() {
        Some(1.) => noise.iter().map(|n| n * way.initial_scale()).collect(),
        _ => picture
            .iter()
            .zip(noise)
            .map(|(x, n)| level.signal * x + level.noise * n)
            .collect(),
    };
    let mut rng = TorchRng::new(11);
    // A way that begins at σ = 4096 or 20,000 keeps the rounding of its first numbers to its end.
    let start = 0.01 * largest(&rows[0]);
    let mut error = gap(&latents, &rows[0], start);
    for (row, expected) in rows[1..].iter().zip(expected) {
        let t = way.timestep().unwrap();
        assert!(
            (t - expected).abs() <= 1e-6 * expected.abs().max(1.),
            "{t} for {expected}: {what}"
        );
        let divisor = way.input_divisor();
        let output: Vec<f32> = latents.iter().map(|x| model(x / divisor, t)).collect();
        way.advance(&output, &mut latents, &mut rng);
        error = error.max(gap(&latents, row, start));
    }
    assert!(way.timestep().is_none());
    error
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0., |most, v| most.max(v.abs()))
}

fn gap(found: &[f32], expected: &[f32], start: f32) -> f32 {
    let size = largest(expected) + start;
    found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f - e).abs() / size)
        // NaN counts as far away.
        .fold(0., |most: f32, e| if e <= most { most } else { e })
}

#[test]
fn what_a_sampler_has_no_answer_for_is_refused_by_field_and_file() {
    let file = |class: &str, field: &str, value: Value| {
        let mut fields = json!({"_class_name": class, "beta_start": 0.00085, "beta_end": 0.012});
        fields[field] = value;
        fields
    };
    for (class, field, value) in [
        ("DDIMScheduler", "use_karras_sigmas", json!(true)),
        ("DDIMScheduler", "rescale_betas_zero_snr", json!(true)),
        ("DDIMScheduler", "churn", json!(1)),
        ("DDIMScheduler", "timestep_spacing", json!("random")),
        ("DDPMScheduler", "variance_type", json!("learned_range")),
        ("DDPMScheduler", "beta_schedule", json!("sigmoid")),
        ("PNDMScheduler", "prediction_type", json!("sample")),
        ("PNDMScheduler", "rescale_betas_zero_snr", json!(true)),
        (
            "EulerDiscreteScheduler",
            "interpolation_type",
            json!("cubic"),
        ),
        ("EulerDiscreteScheduler", "thresholding", json!(true)),
        (
            "EulerAncestralDiscreteScheduler",
            "prediction_type",
            json!("sample"),
        ),
        ("HeunDiscreteScheduler", "use_lu_lambdas", json!(true)),
        (
            "DPMSolverMultistepScheduler",
            "algorithm_type",
            json!("dpmsolver"),
        ),
        ("DPMSolverMultistepScheduler", "solver_order", json!(4)),
        (
            "DPMSolverMultistepScheduler",
            "use_flow_sigmas",
            json!(true),
        ),
        (
            "DPMSolverMultistepScheduler",
            "variance_type",
            json!("learned"),
        ),
        (
            "DPMSolverMultistepScheduler",
            "lambda_min_clipped",
            json!("low"),
        ),
        ("UniPCMultistepScheduler", "solver_p", json!({})),
        ("UniPCMultistepScheduler", "predict_x0", json!(false)),
        ("UniPCMultistepScheduler", "lower_order_final", json!(false)),
        ("LCMScheduler", "original_inference_steps", json!(2000)),
        ("LCMScheduler", "trained_betas", json!([0.1])),
        (
            "FlowMatchEulerDiscreteScheduler",
            "time_shift_type",
            json!("square"),
        ),
    ] {
        let sentence = match config(&file(class, field, value)) {
            Ok(_) => String::from("it was taken"),
            Err(error) => error.to_string(),
        };
        let named = if field == "rescale_betas_zero_snr" && class == "DDIMScheduler" {
            "prediction_type"
        } else {
            field
        };
        assert!(
            sentence.contains(&format!("`{named}`")) && sentence.contains("scheduler_config.json"),
            "{class}.{field}: {sentence}"
        );
    }
}

#[test]
fn a_way_that_cannot_be_gone_is_refused_with_its_bounds() {
    let class = |name: &str| config(&json!({"_class_name": name})).unwrap();
    let start = |config: &Config, kind: Option<Kind>, way: Way| {
        let scheduler = config.build(kind).unwrap();
        scheduler.start(&way).err().map(|e| e.to_string())
    };
    let ddim = class("DDIMScheduler");
    for kind in Kind::all().filter(|kind| *kind != Kind::FlowEuler) {
        let none = start(&ddim, Some(kind), Way::of(0)).unwrap();
        let many = start(&ddim, Some(kind), Way::of(1001)).unwrap();
        assert!(
            none.contains("0 steps") && many.contains("1001 steps"),
            "{none}; {many}"
        );
        let strong = Way {
            strength: 1.5,
            ..Way::of(10)
        };
        let weak = Way {
            strength: 0.01,
            ..Way::of(10)
        };
        for way in [
            strong,
            weak,
            Way {
                strength: f64::NAN,
                ..weak
            },
        ] {
            assert!(start(&ddim, Some(kind), way).unwrap().contains("strength"));
        }
    }
    let lcm = start(&ddim, Some(Kind::Lcm), Way::of(51)).unwrap();
    assert!(lcm.contains("1 to 50"), "{lcm}");
    let runge_kutta = start(&class("PNDMScheduler"), None, Way::of(3)).unwrap();
    assert!(runge_kutta.contains("4 to 1000"), "{runge_kutta}");
}

#[test]
fn flow_matching_and_noise_prediction_do_not_mix() {
    let ddim = config(&json!({"_class_name": "DDIMScheduler"})).unwrap();
    let flow = config(&json!({"_class_name": "FlowMatchEulerDiscreteScheduler"})).unwrap();
    for (config, kind) in [(ddim, Kind::FlowEuler), (flow, Kind::Euler)] {
        match config.build(Some(kind)) {
            Err(Error::Unfit { name, reason }) => {
                assert_eq!(name, kind.name());
                assert!(reason.contains("flow matching"), "{reason}");
            }
            other => panic!("{:?}", other.map(|s| s.name())),
        }
    }
}

#[test]
fn pythons_minus_infinity_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scheduler_config.json");
    let text = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity, "_note": "a \" NaN"}"#;
    std::fs::write(&file, text).unwrap();
    assert_eq!(
        Config::read(&file).unwrap().build(None).unwrap().name(),
        "dpmpp_2m"
    );
    std::fs::write(&file, text.replace("lambda_min_clipped", "beta_start")).unwrap();
    assert!(
        Config::read(&file)
            .err()
            .unwrap()
            .to_string()
            .contains("`beta_start`")
    );
}
