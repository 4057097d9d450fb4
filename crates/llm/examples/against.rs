//! Asks a real server, and says what came of it. `scripts/llm_against_transformers.sh` runs it
//! against `transformers serve`; any other OpenAI-compatible server does as well:
//!
//! ```text
//! cargo run -p llm --release --example against -- \
//!     --llm-url http://127.0.0.1:11434/v1 --llm-model qwen3 --journal answers.jsonl --count 40
//! ```
//!
//! Run again with the same journal it asks nothing twice.

#![allow(clippy::print_stdout, reason = "it reports to a person or a script")]

use std::{path::PathBuf, sync::Arc};

use clap::Parser;
use futures::{StreamExt as _, stream};
use llm::{Ask as _, Chat, Client, Error, Journal, Message, Options, Schema};
use serde_json::{Value, json};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Where answers are kept.
    #[arg(long)]
    journal: PathBuf,
    /// Questions, asked all at once.
    #[arg(long, default_value_t = 40)]
    count: usize,
    /// Only the questions: for a run that is killed, and the one after it.
    #[arg(long)]
    only_questions: bool,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let client = Client::new(&arguments.options)?;
    let journal = Journal::open(&arguments.journal).await?;
    questions(&client, &journal, arguments.count).await?;
    if !arguments.only_questions {
        println!("models: {:?}", client.models().await?);
        one_stream(&client).await?;
        one_value(&client).await?;
        one_truncated(&client).await;
    }
    println!("totals: {}", json!(client.totals()));
    Ok(())
}

async fn questions(client: &Client, journal: &Journal, count: usize) -> Result<(), Error> {
    let ask = async |number: usize| {
        let chat = Chat::new(vec![Message::user(format!("Toy number {number}?"))]);
        let journaled = client.journaled(journal, format!("toy {number}"));
        journaled.ask(&chat.with_seed(number as u64)).await
    };
    let answers: Vec<_> = stream::iter(0..count)
        .map(ask)
        .buffer_unordered(count.max(1))
        .collect()
        .await;
    let mut replayed = 0;
    let mut failed = 0;
    for answer in &answers {
        match answer {
            Ok(answer) => replayed += usize::from(answer.is_replayed),
            Err(error) => {
                failed += 1;
                println!("failed: {error}");
            }
        }
    }
    println!(
        "questions: {count}, failed {failed}, replayed {replayed}, in the journal {}, window {:.2}",
        journal.len(),
        client.window()
    );
    Ok(())
}

async fn one_stream(client: &Client) -> Result<(), Error> {
    let chat = Chat::new(vec![Message::user("A toy, please.")]);
    let mut stream = client.stream(&chat).await?;
    let mut pieces = 0;
    while stream.next().await?.is_some() {
        pieces += 1;
    }
    let answer = stream.finish().await?;
    println!(
        "stream: {pieces} pieces, {:?}, {:?}",
        answer.text, answer.usage
    );
    Ok(())
}

async fn one_value(client: &Client) -> Result<(), Error> {
    let document = json!({
        "type": "object",
        "properties": {"colour": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["colour", "count"],
        "additionalProperties": false,
    });
    let schema = Arc::new(Schema::new("toy", document)?);
    let chat = Chat::new(vec![Message::user("A toy, please.")]);
    match client.structured::<Value>(&chat, &schema).await {
        Ok(found) => println!("value: {} after {} repairs", found.value, found.repairs),
        Err(error) => println!("value: none; {error}"),
    }
    Ok(())
}

async fn one_truncated(client: &Client) {
    let chat = Chat::new(vec![Message::user("A toy, please.")]).with_max_tokens(3);
    match client.complete(&chat).await {
        Ok(answer) => println!("truncated: no, {:?}", answer.text),
        Err(error) => println!("truncated: {error}"),
    }
}
