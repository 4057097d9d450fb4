//! Provider batches against a provider of our own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

mod server;

use std::{sync::Mutex, time::Duration};

use llm::{Chat, Client, Error, Message, Options, batch::Questions};
use serde_json::{Value, json};
use server::{Reply, Server, completion, refusal};

fn whole(value: &Value) -> Reply {
    Reply::Whole(200, Vec::new(), value.to_string())
}

/// Loses the question `lost`, refuses `refused`, and answers the rest. Fails once at the upload and
/// once in the middle of the file of answers.
fn provider() -> impl Fn(&server::Asked) -> Reply + Send + Sync + 'static {
    let uploaded = Mutex::new(String::new());
    let looks = Mutex::new((0, 0));
    move |asked| match asked.path.as_str() {
        "/v1/files" if asked.number == 0 => refusal(500, "try again"),
        "/v1/files" => {
            *uploaded.lock().unwrap() = String::from_utf8(asked.bytes.to_vec()).unwrap();
            whole(&json!({"id": "file-in"}))
        }
        "/v1/batches" => {
            assert_eq!(asked.body["input_file_id"], "file-in");
            whole(&json!({"id": "batch_1", "status": "validating"}))
        }
        "/v1/batches/batch_1" => {
            let mut looks = looks.lock().unwrap();
            looks.0 += 1;
            match looks.0 {
                1 => whole(&json!({"id": "batch_1", "status": "in_progress"})),
                _ => whole(&json!({
                    "id": "batch_1", "status": "completed", "output_file_id": "file-out",
                    "error_file_id": "file-bad",
                    "request_counts": {"total": 4, "completed": 2, "failed": 1},
                })),
            }
        }
        "/v1/files/file-out/content" => {
            let questions = uploaded.lock().unwrap();
            let lines = questions.lines().filter(|line| line.starts_with('{')).map(|line| {
                let line: Value = serde_json::from_str(line).unwrap();
                assert_eq!(line["url"], "/v1/chat/completions");
                let text = line["body"]["messages"][0]["content"].as_str().unwrap();
                let body = completion(&format!("{text}!"), "stop", 10, 2);
                json!({"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}, "error": null})
            });
            let kept = lines
                .filter(|line| !["lost", "refused"].contains(&line["custom_id"].as_str().unwrap()));
            // Providers answer in any order.
            let mut kept: Vec<String> = kept.map(|line| format!("{line}\n")).collect();
            kept.reverse();
            let mut looks = looks.lock().unwrap();
            looks.1 += 1;
            let end = match looks.1 {
                1 => server::End::Cut,
                _ => server::End::Well,
            };
            Reply::Pieces("application/jsonl", kept, end)
        }
        "/v1/files/file-bad/content" => {
            let body = json!({"error": {"message": "too long"}});
            whole(&json!({"custom_id": "refused", "response": {"status_code": 400, "body": body}}))
        }
        other => refusal(404, other),
    }
}

#[tokio::test]
async fn every_question_of_a_batch_gets_its_answer_or_an_error_and_the_cheaper_price() {
    let server = Server::start(provider()).await;
    let folder = tempfile::tempdir().unwrap();
    let prices = folder.path().join("prices.toml");
    let text = "[models.toy]\ninput_per_million = 1\noutput_per_million = 2\nbatch_factor = 0.5\ncurrency = \"EUR\"\n";
    std::fs::write(&prices, text).unwrap();
    let options = Options {
        url: Some(server.url.clone()),
        model: Some("toy".to_owned()),
        first_delay_ms: 1,
        price_file: Some(prices),
        ..Options::default()
    };
    let client = Client::new(&options).unwrap();
    let questions: Questions = ["first", "lost", "refused", "second"]
        .map(|name| {
            (
                name.to_owned(),
                Chat::new(vec![Message::user(format!("{name}?"))]),
            )
        })
        .into();
    let id = client.submit_batch(&questions).await.unwrap();
    let state = client.batch(&id).await.unwrap();
    let early = client.collect_batch(&state, &questions).await.unwrap_err();
    assert!(early.to_string().contains("in_progress"), "{early}");
    let limit = Duration::from_secs(30);
    let state = client
        .wait_for_batch(&id, Duration::from_millis(1), limit)
        .await
        .unwrap();
    assert_eq!(state.counts.total, 4);

    let answers = client.collect_batch(&state, &questions).await.unwrap();
    assert_eq!(answers.len(), 4);
    for name in ["first", "second"] {
        let answer = answers[name].as_ref().unwrap();
        assert_eq!(answer.text, format!("{name}?!"));
        assert_eq!(
            answer.request_sha256,
            client.request_sha256(&questions[name])
        );
        assert_eq!(answer.cost.as_ref().unwrap().picos, 7_000_000);
    }
    let refused = answers["refused"].as_ref().unwrap_err();
    assert!(
        matches!(refused, Error::Refused { status: 400, .. }),
        "{refused}"
    );
    let lost = answers["lost"].as_ref().unwrap_err();
    assert!(
        lost.to_string().contains("`lost` was not answered"),
        "{lost}"
    );
    assert_eq!(client.totals().cost.unwrap().picos, 14_000_000);
}

#[tokio::test]
async fn a_batch_that_may_have_been_made_is_not_handed_in_twice() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/v1/files" => whole(&json!({"id": "file-in"})),
        _ => refusal(500, "perhaps"),
    })
    .await;
    let options = Options {
        url: Some(server.url.clone()),
        model: Some("toy".to_owned()),
        ..Options::default()
    };
    let client = Client::new(&options).unwrap();
    let questions = Questions::from([("a".to_owned(), Chat::new(vec![Message::user("?")]))]);
    let error = client.submit_batch(&questions).await.unwrap_err();
    assert!(
        error.to_string().contains("may have been made or not"),
        "{error}"
    );
    assert_eq!(server.served(), 2);
    assert!(client.submit_batch(&Questions::new()).await.is_err());
    let error = client.batch("../models").await.unwrap_err();
    assert!(error.to_string().contains("no id"), "{error}");
}
