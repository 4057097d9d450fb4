//! `diptych plan`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

use super::{
    Session,
    run::{check_built_ins, inputs, read_recipe},
};
use crate::{
    bad_input::BadInput,
    estimate::{self, Estimate, Supply},
    experiment::warn_of_unchecked,
    progress::{Progress, warn},
    recipe::Recipe,
    suite::{JOURNALS, Needs, ServiceName, parse_endpoints},
    synth::{self, Plan},
};

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Recipe file.
    pub recipe: PathBuf,
}

pub(super) async fn execute(args: PlanArgs, session: &Session) -> Result<()> {
    let (recipe, _) = read_recipe(&args.recipe)?;
    check_built_ins(&recipe, &session.global.endpoints)?;
    let inputs = inputs(&recipe).map_err(|error| error.context(BadInput))?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let roots = [
        folder.path().to_path_buf(),
        session.assets.root().to_path_buf(),
        session.assets.base_data(),
    ];
    let mut services = ServiceName::ALL.to_vec();
    if recipe.train.is_none() {
        services.truncate(STAGES);
    }
    let needs = Needs {
        services,
        artefact_roots: roots.into_iter().chain(inputs).collect(),
        ..Needs::synthesis(&recipe, Some(folder.path().join(JOURNALS)))
    };
    let supplies = match is_grammar(&recipe, &session.global.endpoints)? {
        true => estimate::supplies(&recipe, &session.assets)?,
        false => Vec::new(),
    };
    supplies
        .iter()
        .filter_map(Supply::warning)
        .for_each(|short| warn(&short));
    let plan = Plan::training(&recipe)
        .with_evaluation_sets(&session.assets)
        .map_err(|error| error.context(BadInput))?;
    let suite = session.open(&needs).await?;
    let probed = async {
        synth::check(&suite, &recipe).await?;
        let unchecked = warn_of_unchecked(&suite, &plan).await?;
        let progress = Progress::start("probe", 0);
        let rates = estimate::measure(&suite, &session.assets, &recipe, folder.path()).await?;
        progress.finish("done");
        Ok((unchecked, rates))
    };
    let probed: Result<_> = probed.await;
    let backends = needs.backends.values();
    let is_all_here = needs.services.iter().all(|&name| suite.is_embedded(name))
        && backends
            .into_iter()
            .all(|backend| matches!(backend.as_str(), "grammar" | "local"));
    suite.close().await?;
    let (unchecked, rates) = probed?;
    let possible = estimate::within(recipe, &supplies);
    let mut estimate = Estimate {
        abilities: supplies,
        unchecked,
        ..Estimate::new(&possible, &rates)
    };
    if is_all_here {
        estimate = estimate.all_here();
    }
    session.say(&estimate, &table(&estimate))
}

/// Whether this process's own grammar writes the prompts, so that they can be counted.
fn is_grammar(recipe: &Recipe, endpoints: &[String]) -> Result<bool> {
    let is_elsewhere = parse_endpoints(endpoints)?.contains_key(&ServiceName::Promptgen);
    let backend = recipe.synth.prompts.backend.as_str();
    Ok(!is_elsewhere && matches!(backend, "" | "grammar"))
}

/// The services of synthesis come first.
const STAGES: usize = 3;

fn table(estimate: &Estimate) -> String {
    let mut lines = vec![format!(
        "{:<24} {:>10} {:<10} {:>10}",
        "step", "units", "", "time"
    )];
    for line in &estimate.steps {
        lines.push(format!(
            "{:<24} {:>10} {:<10} {:>10}",
            line.step,
            line.units,
            line.unit,
            clock(line.seconds)
        ));
    }
    lines.push(format!("{:<46} {:>10}", "all", clock(estimate.seconds)));
    lines.extend(abilities(&estimate.abilities));
    lines.push(format!(
        "\n{} prompts, {} pictures, {} dialogues; {:.1} MiB on the disk; {}",
        estimate.prompts,
        estimate.images,
        estimate.dialogues,
        estimate.disk_bytes as f64 / f64::from(1 << 20),
        cost(estimate)
    ));
    lines.join("\n")
}

/// How many samples each ability can give.
fn abilities(supplies: &[Supply]) -> Vec<String> {
    if supplies.is_empty() {
        return Vec::new();
    }
    let head = ["ability", "wanted", "distinct prompts", "at most"].map(str::to_owned);
    let rows = supplies.iter().map(|supply| {
        let Supply {
            ability, wanted, ..
        } = supply;
        let prompts = supply.distinct_prompts;
        let prompts =
            prompts.map_or_else(|| format!("{wanted} or more"), |count| count.to_string());
        let most = supply.at_most.unwrap_or(*wanted);
        [
            ability.clone(),
            wanted.to_string(),
            prompts,
            most.to_string(),
        ]
    });
    let line = |[ability, wanted, prompts, most]: [String; 4]| {
        format!("{ability:<24} {wanted:>10} {prompts:>18} {most:>10}")
    };
    let rows = std::iter::once(head).chain(rows).map(line);
    std::iter::once(String::new()).chain(rows).collect()
}

/// Money and GPU-hours, in words.
fn cost(estimate: &Estimate) -> String {
    match (estimate.gpu_hours, estimate.cost) {
        (Some(_), _) => "no money and no GPU: every model runs here".to_owned(),
        (None, Some(0.0)) => {
            "no money for prompts and dialogues; GPU-hours of the models elsewhere are not known here"
                .to_owned()
        }
        (None, Some(cost)) => format!(
            "about {cost:.2} {} for prompts and dialogues, at what the probe's cost; GPU-hours of the models elsewhere are not known here",
            estimate.currency
        ),
        (None, None) => "money and GPU-hours of the models elsewhere are not known here: give promptgen and dialogue a price file (--llm-price-file or DIPTYCH_LLM_PRICE_FILE)".to_owned(),
    }
}

/// Hours, minutes and seconds.
fn clock(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60)
}
