//! Many callers at once on nano-sd, with figures:
//!
//! ```text
//! cargo build --release -p diffusion --bins
//! cargo run --release -p diffusion --example crowd -- [CALLS] [ROUNDS] [CAPACITY]
//! ```
//!
//! By default 200 calls of four callers, a tenth of them left midway, three times over, before a
//! queue of 64. What the service reads from the environment counts: `DIPTYCH_WARM_UP=false` shows what the warm-up saves.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a program for one table"
)]

#[path = "../tests/crowd/guests.rs"]
mod guests;

use std::process::Command;
use std::sync::Arc;

use guests::{Host, Party};

#[tokio::main]
async fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse().unwrap());
    let party = Party {
        calls: numbers.next().unwrap_or(200),
        callers: 4,
        steps: 4,
        capacity: 64,
    };
    let rounds = numbers.next().unwrap_or(3);
    let capacity = numbers.next().unwrap_or(party.capacity);
    let party = Party { capacity, ..party };
    let this = std::env::current_exe().unwrap();
    let service = this.parent().unwrap().with_file_name("diffusion");
    let host = Host::start(&mut Command::new(service), party.capacity);
    let (expected, mut seconds) = guests::alone(&host, party).await;
    let (first, all) = (seconds[0], seconds.iter().sum::<f64>());
    seconds.sort_by(f64::total_cmp);
    println!(
        "{} pictures alone: {all:.1} s; the first {first:.3} s, the median {:.3} s; resident {:.1} MiB",
        expected.len(),
        seconds[seconds.len() / 2],
        host.resident_mib()
    );
    let expected = Arc::new(expected);
    println!("round  answered  left  mixed up  refused  longest queue  seconds  resident MiB");
    for round in 1..=rounds {
        let seen = guests::crowd(&host, party, &expected).await;
        println!(
            "{round:>5}  {:>8}  {:>4}  {:>8}  {:>7}  {:>13}  {:>7.1}  {:>12.1}",
            seen.answered,
            seen.left,
            seen.mixed_up,
            seen.refused,
            seen.longest_queue,
            seen.seconds,
            host.resident_mib()
        );
    }
}
