//! `diptych audit`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use dataset::{
    audit::{self, Defect, EvaluationSets, Report, Source, audit},
    store::{LocatedView, Location},
};
use serde::Serialize;

use super::{BadInput, Session, check_target, open_dataset};
use crate::{
    files,
    progress::{Progress, warn},
    report,
};

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Dataset (a folder, or s3://BUCKET/PREFIX), LLaVA JSON file, or StableLLaVA's release as a file
    /// or folder.
    pub data: Location,
    /// Folder that a LLaVA JSON's image paths start from [default: `images` beside it, or its own
    /// folder].
    #[arg(long, value_name = "DIR")]
    pub image_folder: Option<PathBuf>,
    /// Evaluation set that the data must not hold: a built-in name, or a folder with
    /// `questions.jsonl`. May be given several times.
    #[arg(long, value_name = "BENCHMARK")]
    pub against: Vec<String>,
    /// HTML file to write; folders above it are made, as by every command that writes a file.
    #[arg(long, value_name = "FILE.html")]
    pub out: Option<PathBuf>,
    /// Fail (exit code 1) where a defect has more than this share: `repeated_prompt=0.01`. May be
    /// given several times.
    #[arg(long, value_name = "DEFECT=SHARE")]
    pub fail_on: Vec<String>,
    /// Show one sample of a dataset instead: where it lies, what made it, and which runs used it.
    #[arg(long, value_name = "ID", conflicts_with_all = ["against", "out", "fail_on"])]
    pub sample: Option<String>,
}

pub(super) async fn execute(args: AuditArgs, session: &Session) -> Result<()> {
    if let Some(id) = &args.sample {
        return sample(&args.data, id, session).await;
    }
    if let Some(out) = &args.out {
        check_target(out)?;
    }
    let bounds = bounds(&args.fail_on).map_err(|error| error.context(BadInput))?;
    let (source, evaluation) = open(&args, session).map_err(|error| error.context(BadInput))?;
    let progress = Progress::start("audit", 0);
    let mut watch = |done| progress.set(done, 0, "samples");
    let found = audit(&source, evaluation, &mut watch).await;
    let found = found.map_err(unreadable)?;
    progress.finish(&format!("{} samples", found.samples));
    check_source(&args, &source, &found).map_err(|error| error.context(BadInput))?;
    if let Some(out) = &args.out {
        let page = report::render_audit(&args.data.to_string(), &found);
        files::write(out, page.as_bytes())?;
    }
    session.say(&found, &table(&found))?;
    hold(&found, &bounds)
}

fn open(args: &AuditArgs, session: &Session) -> Result<(Source, EvaluationSets)> {
    let mut evaluation = EvaluationSets::default();
    for name in &args.against {
        evaluation.add_folder(name, &session.assets.benchmark(name)?)?;
    }
    let source = match args.data.folder() {
        Some(path) => Source::at(path, args.image_folder.clone())?,
        // A bucket holds datasets alone.
        None => Source::Dataset(args.data.clone()),
    };
    Ok((source, evaluation))
}

/// A file is the caller's. Of a dataset, the store says what is: a bucket that does not answer is not.
fn unreadable(error: audit::Error) -> anyhow::Error {
    let is_file = matches!(error, audit::Error::Read(_));
    let error = anyhow::Error::from(error);
    match is_file {
        true => error.context(BadInput),
        false => error,
    }
}

/// `DEFECT=SHARE` of `--fail-on`.
fn bounds(given: &[String]) -> Result<Vec<(&'static str, f64)>> {
    let parse = |text: &String| {
        let (name, share) = text
            .split_once('=')
            .with_context(|| format!("--fail-on {text}: DEFECT=SHARE is expected"))?;
        let defect = Defect::ALL.iter().find(|defect| defect.name() == name);
        let Some(defect) = defect else {
            let names: Vec<&str> = Defect::ALL.iter().map(|defect| defect.name()).collect();
            bail!(
                "--fail-on names no defect `{name}`; there are {}",
                names.join(", ")
            );
        };
        let share: f64 = share
            .parse()
            .with_context(|| format!("--fail-on {text}: `{share}` is no share"))?;
        ensure!(
            (0.0..=1.0).contains(&share),
            "--fail-on {text}: a share lies in 0..=1"
        );
        Ok((defect.name(), share))
    };
    given.iter().map(parse).collect()
}

/// Refuses what holds nothing to audit: an empty list, or a folder of pictures that has none of them.
/// Without such a folder JSON may come alone: its pictures are then a defect, each of them.
fn check_source(args: &AuditArgs, source: &Source, found: &Report) -> Result<()> {
    let data = &args.data;
    let has_records = found.samples > 0 || found.kind == "dataset";
    ensure!(has_records, "{data} holds no record");
    let Source::Llava { images, .. } = source else {
        return Ok(());
    };
    let named = found.findings.iter();
    let named = named.filter(|finding| finding.defect == Defect::MissingPicture.name());
    let missing: u64 = named.map(|finding| finding.count).sum();
    if found.pictures > 0 || missing == 0 {
        return Ok(());
    }
    let nowhere = format!(
        "none of the {missing} pictures that {data} names lies in {}",
        images.display()
    );
    ensure!(
        args.image_folder.is_none(),
        "{nowhere}; correct --image-folder"
    );
    warn(&format!(
        "{nowhere}; say where they are with --image-folder"
    ));
    Ok(())
}

/// Fails where a defect has more than its share, or was not looked for: what is not checked is not
/// passed.
fn hold(found: &Report, bounds: &[(&str, f64)]) -> Result<()> {
    let failures = bounds.iter().filter_map(|&(name, share)| {
        let of_it = || {
            found
                .findings
                .iter()
                .filter(move |finding| finding.defect == name)
        };
        if of_it().all(|finding| finding.of == 0) {
            return Some(format!("{name} was not checked"));
        }
        let is_over = of_it().any(|finding| finding.share > share);
        is_over.then(|| format!("{name} is over {share}"))
    });
    let failures: Vec<String> = failures.collect();
    ensure!(
        failures.is_empty(),
        "the audit failed: {}{}",
        failures.join(", "),
        because(&found.not_checked)
    );
    Ok(())
}

fn because(not_checked: &[String]) -> String {
    match not_checked {
        [] => String::new(),
        reasons => format!(" (not checked: {})", reasons.join("; ")),
    }
}

fn table(found: &Report) -> String {
    let mut lines = vec![
        format!(
            "{} samples, {} prompts, {} pictures ({})",
            found.samples, found.prompts, found.pictures, found.kind
        ),
        String::new(),
        format!("{:<24} {:>9} {:>8}  examples", "defect", "count", "share"),
    ];
    for finding in found.findings.iter().filter(|finding| finding.count > 0) {
        let value = match finding.value.as_str() {
            "" => String::new(),
            value => format!("“{value}” "),
        };
        lines.push(format!(
            "{:<24} {:>9} {:>7.2}%  {value}{}",
            finding.defect,
            finding.count,
            100.0 * finding.share,
            finding.examples.join(", ")
        ));
    }
    if lines.len() == 3 {
        lines.push("none".to_owned());
    }
    lines.extend(
        found
            .not_checked
            .iter()
            .map(|what| format!("not checked: {what}")),
    );
    lines.join("\n")
}

/// A sample's record and the training runs beside the dataset that read it.
#[derive(Serialize)]
struct Lineage<'a> {
    #[serde(flatten)]
    found: LocatedView<'a>,
    manifest_sha256: String,
    used_by: Vec<String>,
}

async fn sample(place: &Location, id: &str, session: &Session) -> Result<()> {
    let reader = open_dataset(place).await?;
    let Some(found) = reader.locate(id).await? else {
        let error = anyhow::anyhow!("{place} has no sample `{id}`");
        return Err(error.context(BadInput));
    };
    let lineage = Lineage {
        found: found.view(),
        manifest_sha256: reader.manifest_sha256(),
        used_by: place.folder().map(runs_beside).unwrap_or_default(),
    };
    session.say(&lineage, &serde_json::to_string_pretty(&lineage)?)
}

/// Runs of `diptych run` and `diptych train` that lie beside a dataset, in `train/`, and whose plan
/// names it as a source of data.
fn runs_beside(dataset: &Path) -> Vec<String> {
    let Ok(dataset) = dataset.canonicalize() else {
        return Vec::new();
    };
    let train = dataset.parent().unwrap_or(Path::new(".")).join("train");
    let entries = std::fs::read_dir(train).into_iter().flatten().flatten();
    let mut runs: Vec<String> = entries
        .map(|entry| entry.path())
        .filter(|run| reads(&run.join("plan.json"), &dataset))
        .map(|run| run.display().to_string())
        .collect();
    runs.sort();
    runs
}

/// Whether a training plan names a dataset.
fn reads(plan: &Path, dataset: &Path) -> bool {
    let plan: Option<serde_json::Value> = files::read_json(plan).ok().flatten();
    let list =
        |value: &serde_json::Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let stages = plan.iter().flat_map(|plan| list(plan, "stages"));
    let mut sources = stages.flat_map(|stage| list(&stage, "sources"));
    sources.any(|source| {
        let named = source["location"]["Dataset"].as_str().map(PathBuf::from);
        named.is_some_and(|named| named.canonicalize().is_ok_and(|named| named == dataset))
    })
}
