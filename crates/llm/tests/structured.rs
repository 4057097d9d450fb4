//! Values from servers that help with JSON, and from those that do not.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

mod server;

use std::sync::Arc;

use llm::{Ask as _, Chat, Client, Error, Message, Options, Schema};
use serde_json::json;
use server::{Server, answer, refusal};

#[derive(Debug, PartialEq, serde::Deserialize)]
struct Toy {
    colour: String,
    count: u32,
}

fn schema() -> Arc<Schema> {
    let document = json!({
        "type": "object",
        "properties": {"colour": {"type": "string"}, "count": {"type": "integer", "minimum": 0}},
        "required": ["colour", "count"],
        "additionalProperties": false,
    });
    Arc::new(Schema::new("toy", document).unwrap())
}

fn client(server: &Server) -> Client {
    let options = Options {
        url: Some(server.url.clone()),
        model: Some("toy".to_owned()),
        first_delay_ms: 1,
        ..Options::default()
    };
    Client::new(&options).unwrap()
}

fn chat() -> Chat {
    Chat::new(vec![Message::user("A toy, please.")])
}

const GOOD: &str = r#"{"colour": "red", "count": 2}"#;

#[tokio::test]
async fn a_wrong_answer_is_repaired_by_saying_what_is_wrong() {
    let server = Server::start(|asked| {
        let format = &asked.body["response_format"];
        assert_eq!(format["json_schema"]["schema"]["required"][1], "count");
        match asked.number {
            0 => answer(r#"{"colour": "red", "count": -1}"#, 10, 5),
            1 => {
                assert_eq!(asked.text(1), r#"{"colour": "red", "count": -1}"#);
                assert!(asked.text(0).contains("\"minimum\":0"), "{}", asked.text(0));
                assert!(asked.text(0).contains("/count"), "{}", asked.text(0));
                answer(r#"{"colour": "red""#, 20, 5)
            }
            _ => {
                assert!(
                    asked.text(0).contains("not valid JSON"),
                    "{}",
                    asked.text(0)
                );
                answer(GOOD, 30, 5)
            }
        }
    })
    .await;
    let found = client(&server)
        .structured::<Toy>(&chat(), &schema())
        .await
        .unwrap();
    let red = Toy {
        colour: "red".to_owned(),
        count: 2,
    };
    assert_eq!((found.value, found.repairs), (red, 2));
    assert_eq!(
        (found.usage.prompt_tokens, found.usage.completion_tokens),
        (60, 15)
    );

    let server = Server::start(|_| answer("no JSON today", 10, 5)).await;
    let error = client(&server)
        .structured::<Toy>(&chat(), &schema())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Schema { repairs: 2, .. }), "{error}");
    assert_eq!(server.served(), 3);
}

#[tokio::test]
async fn a_server_without_schemas_is_told_in_words_and_refuses_each_variant_once() {
    let server = Server::start(
        |asked| match asked.body["response_format"]["type"].as_str() {
            Some(kind) => refusal(400, &format!("response_format {kind} is not supported")),
            None if asked.body.get("max_tokens").is_some() => refusal(
                400,
                "'max_tokens' is not supported; use 'max_completion_tokens'",
            ),
            None => {
                assert!(asked.text(0).contains("\"required\""), "{}", asked.text(0));
                answer(&format!("Sure!\n```json\n{GOOD}\n```"), 10, 5)
            }
        },
    )
    .await;
    let client = client(&server);
    for _ in 0..3 {
        let found = client.structured::<Toy>(&chat(), &schema()).await.unwrap();
        assert_eq!((found.value.count, found.repairs), (2, 0));
    }
    // Three refusals to learn from, and three answers.
    assert_eq!(server.served(), 6);
}

#[tokio::test]
async fn a_refusal_about_something_else_changes_nothing() {
    let server = Server::start(|_| refusal(400, "the prompt is too long")).await;
    let error = client(&server)
        .structured::<Toy>(&chat(), &schema())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(server.served(), 1);
}
