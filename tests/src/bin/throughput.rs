//! How many samples a second the orchestrator moves when its stages cost nothing, and whether its
//! memory stays flat: `throughput [SAMPLES …]`, by default 10000 and 100000. Prints a table.

#![allow(clippy::print_stdout, reason = "its result")]

use std::{
    fs,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tests::{program, stub_stages};

/// How often the memory of the process is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

struct Measured {
    samples: u64,
    seconds: f64,
    median_rss_mib: f64,
    peak_rss_mib: f64,
    again_seconds: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let counts: Result<Vec<u64>, _> = std::env::args()
        .skip(1)
        .map(|count| count.parse())
        .collect();
    let mut counts = counts.context("numbers of samples are expected")?;
    if counts.is_empty() {
        counts = vec![10_000, 100_000];
    }
    let address = stub_stages::serve().await;
    // The last two are not offered there, which is an answer; unnamed, they would start here.
    let endpoints = ["promptgen", "diffusion", "dialogue", "scoring", "embedding"]
        .map(|name| format!("{name}=http://{address}"))
        .join(",");
    println!(
        "{:>9}  {:>8}  {:>9}  {:>12}  {:>10}  {:>13}",
        "samples", "seconds", "samples/s", "median MiB", "peak MiB", "run again, s"
    );
    for samples in counts {
        let endpoints = endpoints.clone();
        let measured = tokio::task::spawn_blocking(move || measure(samples, &endpoints)).await??;
        let Measured {
            samples,
            seconds,
            median_rss_mib,
            peak_rss_mib,
            again_seconds,
        } = measured;
        println!(
            "{samples:>9}  {seconds:>8.1}  {:>9.0}  {median_rss_mib:>12.1}  {peak_rss_mib:>10.1}  {again_seconds:>13.2}",
            samples as f64 / seconds
        );
    }
    Ok(())
}

fn measure(samples: u64, endpoints: &str) -> Result<Measured> {
    let folder = tempfile::tempdir()?;
    let recipe = folder.path().join("recipe.toml");
    let text = format!(
        "seed = 1\n[synth]\nabilities = {{ animal = {samples} }}\n[synth.gates]\nmin_pixel_deviation = 4.0\n"
    );
    fs::write(&recipe, text)?;
    let synth = || {
        let mut command = program("diptych");
        command
            .arg("synth")
            .arg(&recipe)
            .arg("--out")
            .arg(folder.path().join("dataset"));
        command
            .args(["--endpoints", endpoints])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    let begun = Instant::now();
    let mut child = synth().spawn()?;
    let mut seen = watch(&mut child)?;
    let seconds = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    ensure!(synth().status()?.success(), "the second run failed");
    let again_seconds = begun.elapsed().as_secs_f64();
    seen.sort_by(f64::total_cmp);
    let (median, peak) = (seen.get(seen.len() / 2), seen.last());
    Ok(Measured {
        samples,
        seconds,
        median_rss_mib: median.copied().unwrap_or_default(),
        peak_rss_mib: peak.copied().unwrap_or_default(),
        again_seconds,
    })
}

/// Resident memory of a child, in MiB, until it ends.
fn watch(child: &mut Child) -> Result<Vec<f64>> {
    let mut seen = Vec::new();
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "synthesis ended with {status}");
            return Ok(seen);
        }
        seen.extend(resident_mib(child.id()));
        std::thread::sleep(LOOK_EVERY);
    }
}

fn resident_mib(process: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib / 1024.0)
}
