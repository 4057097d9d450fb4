//! Kills things in the middle of a synthesis and starts them again, until it ends; then holds the
//! dataset against the undisturbed one: every id once, none lost, the same shards.
//!
//! `faults [--kills N] [--rounds N] [--journal-rounds N] [--full-disks N] [--demos N] [--seed N]` prints a table and ends
//! with 1 when a trial differs. Programs and weights are the real ones; Redis is a redis-server of
//! its own.

#![allow(clippy::print_stdout, reason = "its result")]

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tests::faults::{Bench, Tally, journal_points};

/// What to do how often.
#[derive(Debug, Parser)]
struct Arguments {
    /// kill -9 of the orchestrator, a service or Redis, at random moments of recipes/tiny.toml.
    #[arg(long, default_value_t = 70)]
    kills: u32,
    /// Times that the orchestrator ends at each named point.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Times that it ends before and after an answer is in the journal of a language model.
    #[arg(long, default_value_t = 3)]
    journal_rounds: u32,
    /// Runs on a disk that fills up (needs `unshare -rm`, or root).
    #[arg(long, default_value_t = 10)]
    full_disks: u32,
    /// Runs of recipes/demo.toml's synthesis, each killed ten times.
    #[arg(long, default_value_t = 3)]
    demos: u32,
    /// Whether recipes/strict.toml, with every gate, is also shared out over four processes and three.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    side_by_side: bool,
    /// Seed of the moments and victims.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<ExitCode> {
    let Arguments {
        kills,
        rounds,
        journal_rounds,
        full_disks,
        demos,
        side_by_side,
        seed,
    } = Arguments::parse();
    let mut bench = Bench::open("recipes/tiny.toml", seed)?;
    let mut table: Vec<Tally> = bench.random_kills(kills)?;
    table.push(bench.named_points(rounds)?);
    table.push(journal_points(journal_rounds)?);
    table.push(bench.full_disks(full_disks)?);
    if side_by_side {
        let mut strict = Bench::open("recipes/strict.toml", seed)?;
        for processes in [4, 3] {
            table.push(strict.side_by_side(processes)?);
        }
    }
    if demos > 0 {
        table.push(Bench::open("recipes/demo.toml", seed)?.long_runs(demos)?);
    }
    println!(
        "\n{:<34} {:>6} {:>9} {:>5} {:>9} {:>10}",
        "what ended", "trials", "restarts", "lost", "repeated", "identical"
    );
    for row in &table {
        println!("{row}");
    }
    let is_clean = table.iter().all(Tally::is_clean);
    Ok(if is_clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
