//! A language model that is paid: what a run will cost, and who may go on with it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

use std::{path::Path, process::Command};

use serde_json::Value;
use tests::{ObedientModel, checkout, finished, program};

/// Both writers ask the model; nothing is refused but what `gates` says.
fn recipe(folder: &Path, count: u32, gates: &str) {
    let text = format!(
        "seed = 5\n[synth]\nmax_attempts = 1\nabilities = {{ animal = {count} }}\n\
         [synth.prompts]\nbackend = \"openai\"\n[synth.dialogue]\nbackend = \"openai\"\n\
         [synth.image]\nsteps = 1\n[synth.gates]\n{gates}"
    );
    std::fs::write(folder.join("recipe.toml"), text).unwrap();
}

fn diptych(folder: &Path, model: &ObedientModel, name: &str, arguments: &[&str]) -> Command {
    let mut command = program("diptych");
    command
        .current_dir(folder)
        .env("DIPTYCH_ASSETS", checkout())
        .env("DIPTYCH_LLM_URL", model.url())
        .env("DIPTYCH_LLM_MODEL", name)
        .args(arguments);
    let prices = folder.join("prices.toml");
    if prices.exists() {
        command.env("DIPTYCH_LLM_PRICE_FILE", prices);
    }
    command
}

/// The server counts 100 tokens in and 20 out for every answer: at 1 and 2 dollars per million that is
/// 0.00014 dollars, and a sample is one prompt and one dialogue.
#[test]
fn a_plan_says_what_a_priced_model_will_cost() {
    let (folder, model) = (tempfile::tempdir().unwrap(), ObedientModel::start());
    let prices = "[models.obedient]\ninput_per_million = 1.0\noutput_per_million = 2.0\ncurrency = \"USD\"\n";
    std::fs::write(folder.path().join("prices.toml"), prices).unwrap();
    recipe(folder.path(), 1_000, "");
    let arguments = ["plan", "recipe.toml", "--json"];
    let planned = finished(diptych(folder.path(), &model, "obedient", &arguments)).stdout;
    let planned: Value = serde_json::from_slice(&planned).unwrap();
    assert_eq!(
        (planned["prompts"].as_u64(), planned["dialogues"].as_u64()),
        (Some(1_000), Some(1_000))
    );
    let cost = planned["cost"].as_f64().unwrap();
    assert!((cost - 2_000.0 * 0.000_14).abs() < 1e-9, "{cost}");
    assert_eq!(planned["currency"], "USD");
    // A language model has as many prompts as it likes.
    assert_eq!(planned["abilities"], serde_json::json!([]));
    let table = finished(diptych(folder.path(), &model, "obedient", &arguments[..2])).stdout;
    let table = String::from_utf8(table).unwrap();
    assert!(
        table.contains("about 0.28 USD for prompts and dialogues"),
        "{table}"
    );
}

#[test]
fn a_synthesis_that_failed_is_not_repeated_by_another_language_model() {
    let (folder, model) = (tempfile::tempdir().unwrap(), ObedientModel::start());
    recipe(folder.path(), 1, "min_pixel_deviation = 127.5\n");
    let synth = |name: &str| {
        let arguments = ["synth", "recipe.toml", "--out", "data"];
        let output = diptych(folder.path(), &model, name, &arguments)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = synth("obedient");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("not one of 1 samples was accepted"), "{said}");
    assert_eq!(synth("obedient").0, Some(1));
    let (code, said) = synth("another");
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("data was begun with obedient, which is absent now"),
        "{said}"
    );
}
