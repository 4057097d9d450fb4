//! Many questions to a server that refuses, fails, cuts and lies: all are answered, the rate
//! settles, and the costs add up.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

mod server;

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use llm::{Ask as _, Chat, Client, Journal, Message, Options};
use server::storm;

const QUESTIONS: usize = 300;
const BEARS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_storm_nothing_is_lost_the_rate_settles_and_the_cost_adds_up() {
    let (server, counts) = storm::start(BEARS, Duration::from_millis(4)).await;
    let folder = tempfile::tempdir().unwrap();
    let prices = folder.path().join("prices.toml");
    let text =
        "[models.toy]\ninput_per_million = 0.15\noutput_per_million = 0.6\ncurrency = \"USD\"\n";
    std::fs::write(&prices, text).unwrap();
    let options = Options {
        url: Some(server.url.clone()),
        model: Some("toy".to_owned()),
        first_delay_ms: 2,
        max_delay_ms: 50,
        max_attempts: 10,
        retry_budget: 200,
        price_file: Some(prices),
        ..Options::default()
    };
    let client = Client::new(&options).unwrap();
    let journal = Journal::open(folder.path().join("answers.jsonl"))
        .await
        .unwrap();
    let ask = async |number: usize| {
        let question = format!("question {number}{}", "?".repeat(number % 40));
        let journaled = client.journaled(&journal, format!("sample {number}"));
        let chat = Chat::new(vec![Message::user(&question)]);
        let answer = journaled.complete(&chat).await?;
        assert_eq!(answer.text, question);
        Ok::<_, llm::Error>((number, answer.cost.unwrap().picos))
    };

    // All of them knock at once; the client decides who goes.
    let first = stream::iter(0..QUESTIONS / 2)
        .map(ask)
        .buffer_unordered(QUESTIONS);
    let mut costs: Vec<(usize, u64)> = first.try_collect().await.unwrap();
    let refused_before = counts.get(|counts| &counts.refused);
    let rest = stream::iter(QUESTIONS / 2..QUESTIONS)
        .map(ask)
        .buffer_unordered(QUESTIONS);
    let rest: Vec<(usize, u64)> = rest.try_collect().await.unwrap();
    costs.extend(rest);

    let numbers: BTreeSet<usize> = costs.iter().map(|(number, _)| *number).collect();
    assert_eq!((numbers.len(), journal.len()), (QUESTIONS, QUESTIONS));
    assert!(
        counts.get(|counts| &counts.broken) > 20,
        "the storm was none"
    );

    let totals = client.totals();
    assert_eq!(totals.answers, counts.get(|counts| &counts.answers));
    assert_eq!(
        totals.usage.prompt_tokens,
        counts.get(|counts| &counts.prompt_tokens)
    );
    assert_eq!(
        totals.usage.completion_tokens,
        counts.get(|counts| &counts.completion_tokens)
    );
    let picos = totals.usage.prompt_tokens * 150_000 + totals.usage.completion_tokens * 600_000;
    let cost = totals.cost.unwrap();
    assert_eq!(
        (cost.picos, cost.price_file.as_str()),
        (picos, "prices.toml")
    );
    assert_eq!(costs.iter().map(|(_, picos)| picos).sum::<u64>(), picos);

    // The first half finds the limit; in the second, refusals are the price of looking for more.
    let refused = counts.get(|counts| &counts.refused) - refused_before;
    assert!(
        refused < QUESTIONS as u64 / 4,
        "{refused} refusals in the second half"
    );
    let bears = counts.bears.load(Ordering::SeqCst) as f64;
    let window = client.window();
    assert!(
        window > bears / 4.0 && window < bears * 1.5,
        "the window ended at {window}"
    );
}
