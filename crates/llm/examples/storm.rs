//! Draws how the window finds what a server bears, and finds it again when that changes.
//!
//! ```text
//! cargo run -p llm --release --example storm -- docs/llm/rate.svg
//! ```
//!
//! The server of the tests bears 12 requests of 40 ms at a time, then 5, then 24, and fails about one
//! in seven of all requests in other ways. Printed: what was asked, refused, answered and paid.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    reason = "a program for one plot"
)]

#[path = "../tests/server/mod.rs"]
mod server;

use std::{
    fmt::Write as _,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use llm::{Ask as _, Chat, Client, Message, Options};
use server::storm;

const LATENCY: Duration = Duration::from_millis(40);
const PHASE_SECONDS: f64 = 12.0;
const BEARS: [usize; 3] = [12, 5, 24];
const CALLERS: usize = 64;
const SAMPLE: Duration = Duration::from_millis(100);

/// What is seen every tenth of a second.
struct Seen {
    at_seconds: f64,
    window: f64,
    bears: usize,
    refused: u64,
    answered: u64,
}

#[tokio::main]
async fn main() {
    let path = std::env::args().nth(1).expect("where the plot goes");
    let (server, counts) = storm::start(BEARS[0], LATENCY).await;
    let options = Options {
        url: Some(server.url.clone()),
        model: Some("toy".to_owned()),
        first_delay_ms: 20,
        max_delay_ms: 200,
        max_attempts: 10,
        retry_budget: 1_000,
        ..Options::default()
    };
    let client = Client::new(&options).unwrap();
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| tokio::spawn(ask_on(client.clone(), caller)))
        .collect();
    let start = Instant::now();
    let mut seen = Vec::new();
    while start.elapsed().as_secs_f64() < PHASE_SECONDS * BEARS.len() as f64 {
        let at_seconds = start.elapsed().as_secs_f64();
        let bears = BEARS[((at_seconds / PHASE_SECONDS) as usize).min(BEARS.len() - 1)];
        counts.bears.store(bears, Ordering::SeqCst);
        seen.push(Seen {
            at_seconds,
            window: client.window(),
            bears,
            refused: counts.get(|counts| &counts.refused),
            answered: counts.get(|counts| &counts.answers),
        });
        tokio::time::sleep(SAMPLE).await;
    }
    callers.iter().for_each(tokio::task::JoinHandle::abort);
    std::fs::write(&path, plot(&seen)).unwrap();
    report(&seen);
    println!(
        "{} broken answers; {path}",
        counts.get(|counts| &counts.broken)
    );
}

async fn ask_on(client: Client, caller: usize) {
    for turn in 0.. {
        let chat = Chat::new(vec![Message::user(format!("caller {caller}, turn {turn}"))]);
        client
            .complete(&chat)
            .await
            .unwrap_or_else(|error| panic!("lost: {error}"));
    }
}

/// The second half of each phase, when it has settled.
fn report(seen: &[Seen]) {
    for (phase, bears) in BEARS.iter().enumerate() {
        let begin = (phase as f64 + 0.5) * PHASE_SECONDS;
        let end = (phase as f64 + 1.0) * PHASE_SECONDS - 0.2;
        let part: Vec<&Seen> = seen
            .iter()
            .filter(|seen| (begin..end).contains(&seen.at_seconds))
            .collect();
        let (first, last) = (part[0], part[part.len() - 1]);
        let seconds = last.at_seconds - first.at_seconds;
        let mean = part.iter().map(|seen| seen.window).sum::<f64>() / part.len() as f64;
        let answered = (last.answered - first.answered) as f64;
        let refused = (last.refused - first.refused) as f64;
        let most = *bears as f64 / LATENCY.as_secs_f64();
        println!(
            "bears {bears}: mean window {mean:.1}, {:.0} answers/s of {most:.0} at most, {:.1} % refused",
            answered / seconds,
            100.0 * refused / (answered + refused),
        );
    }
}

fn plot(seen: &[Seen]) -> String {
    const WIDTH: f64 = 860.0;
    const HEIGHT: f64 = 300.0;
    const MARGIN: f64 = 46.0;
    let seconds = PHASE_SECONDS * BEARS.len() as f64;
    let most = 36.0;
    let x = |at: f64| MARGIN + at / seconds * (WIDTH - 2.0 * MARGIN);
    let y = |requests: f64| HEIGHT - MARGIN - requests / most * (HEIGHT - 2.0 * MARGIN);
    let line = |value: &dyn Fn(&Seen) -> f64| {
        seen.iter().fold(String::new(), |mut points, seen| {
            let _written = write!(
                points,
                "{:.1},{:.1} ",
                x(seen.at_seconds),
                y(value(seen).min(most))
            );
            points
        })
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for requests in [0, 5, 12, 24, 36] {
        let at = y(f64::from(requests));
        let _written = writeln!(
            svg,
            "<path d=\"M{MARGIN} {at:.1}H{:.1}\" stroke=\"#ddd\"/><text x=\"18\" y=\"{:.1}\">{requests}</text>",
            WIDTH - MARGIN,
            at + 4.0
        );
    }
    for second in (0..=seconds as u32).step_by(6) {
        let at = x(f64::from(second));
        let _written = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{second} s</text>",
            HEIGHT - 24.0
        );
    }
    for (colour, dashes, points) in [
        ("#c0392b", "6 4", line(&|seen| seen.bears as f64)),
        ("#2166ac", "", line(&|seen| seen.window)),
    ] {
        let _written = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" stroke-dasharray=\"{dashes}\" points=\"{}\"/>",
            points.trim_end()
        );
    }
    svg.push_str(
        "<text x=\"60\" y=\"24\" fill=\"#c0392b\">what the server bears (dashed)</text>\
         <text x=\"270\" y=\"24\" fill=\"#2166ac\">the client's window, requests in flight</text>\n</svg>\n",
    );
    svg
}
