//! Answers are kept before they are used, and nothing that was kept is asked again.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

mod server;

use std::{io::Write as _, sync::Arc};

use llm::{Ask as _, Chat, Client, Error, Journal, Message, Options, Schema};
use serde_json::json;
use server::{Server, answer, completion};

fn client(server: &Server) -> Client {
    let options = Options {
        url: Some(server.url.clone()),
        model: Some("toy".to_owned()),
        ..Options::default()
    };
    Client::new(&options).unwrap()
}

fn chat(text: &str) -> Chat {
    Chat::new(vec![Message::user(text)])
}

#[tokio::test]
async fn samples_never_share_an_answer_and_a_run_that_comes_back_asks_nothing_twice() {
    let server = Server::start(|asked| answer(&format!("answer {}\n", asked.number), 10, 2)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.jsonl");
    let first = client(&server);
    let journal = Journal::open(&path).await.unwrap();
    let ask = async |client: &Client, journal: &Journal, key: &str| {
        let journaled = client.journaled(journal, key);
        journaled
            .complete(&chat("the same question"))
            .await
            .unwrap()
    };
    let one = ask(&first, &journal, "sample 1, attempt 0").await;
    let two = ask(&first, &journal, "sample 2, attempt 0").await;
    let again = ask(&first, &journal, "sample 1, attempt 1").await;
    assert!(one.text != two.text && one.text != again.text && two.text != again.text);
    let other = chat("another question");
    first
        .journaled(&journal, "sample 1, attempt 0")
        .complete(&other)
        .await
        .unwrap();
    assert_eq!((server.served(), journal.len()), (4, 4));

    let error = Journal::open(&path).await.unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    drop(journal);
    let journal = Journal::open(&path).await.unwrap();
    let second = client(&server);
    let replayed = ask(&second, &journal, "sample 1, attempt 0").await;
    assert!(replayed.is_replayed && !one.is_replayed);
    assert_eq!((&replayed.text, replayed.usage), (&one.text, one.usage));
    assert_eq!(
        ask(&second, &journal, "sample 2, attempt 0").await.text,
        two.text
    );
    assert_eq!((server.served(), second.totals().answers), (4, 0));
    assert!(
        second
            .journaled(&journal, "")
            .complete(&other)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn answers_in_journals_beside_it_are_found_where_they_lie() {
    let server = Server::start(|asked| answer(&format!("answer {}", asked.number), 10, 2)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let client = client(&server);
    let ask = async |journal: &Journal, key: &str| {
        let journaled = client.journaled(journal, key);
        journaled.complete(&chat("?")).await.unwrap().text
    };
    let other = Journal::open(path("other.jsonl")).await.unwrap();
    let known = [ask(&other, "a").await, ask(&other, "b").await];
    // Somebody is at its third line.
    let mut file = std::fs::OpenOptions::new();
    let mut file = file.append(true).open(path("other.jsonl")).unwrap();
    file.write_all(b"{\"key\":\"c\"").unwrap();

    std::fs::write(path("own.jsonl.beside"), "other.jsonl\n").unwrap();
    for _ in 0..2 {
        let own = Journal::open(path("own.jsonl")).await.unwrap();
        assert_eq!([ask(&own, "a").await, ask(&own, "b").await], known);
        ask(&own, "c").await;
        assert_eq!((server.served(), own.len()), (3, 3));
    }
    let lines = std::fs::read_to_string(path("own.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 1, "nothing was copied");

    std::fs::write(path("own.jsonl.beside"), "gone.jsonl\n").unwrap();
    let error = Journal::open(path("own.jsonl")).await.unwrap_err();
    assert!(error.to_string().contains("gone.jsonl"), "{error}");
}

#[tokio::test]
async fn what_another_writes_after_the_opening_is_found_and_what_it_takes_back_is_not() {
    let server = Server::start(|asked| answer(&format!("answer {}", asked.number), 10, 2)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let client = client(&server);
    let ask = async |journal: &Journal, key: &str| {
        let journaled = client.journaled(journal, key);
        journaled.complete(&chat("?")).await.unwrap().text
    };
    let other = Journal::open(path("other.jsonl")).await.unwrap();
    ask(&other, "a").await;
    std::fs::write(path("own.jsonl.beside"), "other.jsonl\n").unwrap();
    let own = Journal::open(path("own.jsonl")).await.unwrap();
    let before_bytes = std::fs::metadata(path("other.jsonl")).unwrap().len();
    let later = ask(&other, "b").await;
    assert_eq!((ask(&own, "b").await, server.served()), (later, 2));

    // Its owner could not sync that line, cut it back, and wrote a longer one.
    drop(other);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(path("other.jsonl"));
    file.unwrap().set_len(before_bytes).unwrap();
    let other = Journal::open(path("other.jsonl")).await.unwrap();
    let longer = ask(&other, "a key that is longer").await;
    assert_eq!(ask(&own, "a key that is longer").await, longer);
    assert_eq!(server.served(), 3);
    ask(&own, "b").await;
    assert_eq!(server.served(), 4, "another's answer was taken for it");
}

#[tokio::test]
async fn a_damaged_line_in_a_journal_beside_is_an_error_that_names_it() {
    let server = Server::start(|asked| answer(&format!("answer {}", asked.number), 10, 2)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let client = client(&server);
    let other = Journal::open(path("other.jsonl")).await.unwrap();
    for key in ["a", "b"] {
        let journaled = client.journaled(&other, key);
        journaled.complete(&chat("?")).await.unwrap();
    }
    drop(other);
    std::fs::write(path("own.jsonl.beside"), "other.jsonl\n").unwrap();
    let whole = std::fs::read(path("other.jsonl")).unwrap();
    let mut damaged = whole.clone();
    damaged[5] = b'!';
    std::fs::write(path("other.jsonl"), &damaged).unwrap();
    let error = Journal::open(path("own.jsonl")).await.unwrap_err();
    let words = error.to_string();
    assert!(words.contains("other.jsonl: line 1 is damaged"), "{words}");

    // The same where it comes to be while this one is open.
    std::fs::write(path("other.jsonl"), &whole).unwrap();
    let own = Journal::open(path("own.jsonl")).await.unwrap();
    std::fs::write(path("other.jsonl"), [&whole[..], b"{}\n"].concat()).unwrap();
    let asked = client.journaled(&own, "c").complete(&chat("?")).await;
    let words = asked.unwrap_err().to_string();
    assert!(words.contains("other.jsonl: line 3 is damaged"), "{words}");
    assert_eq!(server.served(), 2);
}

#[tokio::test]
async fn a_torn_last_line_is_dropped_and_damage_elsewhere_is_an_error() {
    let server = Server::start(|asked| answer(&format!("answer {}", asked.number), 10, 2)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.jsonl");
    let client = client(&server);
    let journal = Journal::open(&path).await.unwrap();
    for key in ["a", "b", "c"] {
        client
            .journaled(&journal, key)
            .complete(&chat("?"))
            .await
            .unwrap();
    }
    drop(journal);
    let whole = std::fs::read(&path).unwrap();
    let last = whole[..whole.len() - 1]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .unwrap()
        + 1;
    // Killed after any byte of the last line: two answers stay, and the third is asked again.
    for torn in [last + 1, last + 20, whole.len() - 1] {
        std::fs::write(&path, &whole[..torn]).unwrap();
        let journal = Journal::open(&path).await.unwrap();
        assert_eq!(journal.len(), 2, "torn at {torn}");
        let before = server.served();
        for key in ["a", "b", "c"] {
            client
                .journaled(&journal, key)
                .complete(&chat("?"))
                .await
                .unwrap();
        }
        assert_eq!((server.served() - before, journal.len()), (1, 3));
        drop(journal);
        assert_eq!(Journal::open(&path).await.unwrap().len(), 3);
    }
    for (at, line) in [(5, "line 1"), (last + 5, "line 3")] {
        let mut damaged = whole.clone();
        damaged[at] = b'!';
        std::fs::write(&path, &damaged).unwrap();
        let error = Journal::open(&path).await.unwrap_err();
        assert!(
            matches!(&error, Error::Journal { reason, .. } if reason.contains(line)),
            "{error}"
        );
        assert!(error.to_string().contains("answers.jsonl"), "{error}");
        assert_eq!(
            std::fs::read(&path).unwrap(),
            damaged,
            "what is damaged is left for whoever mends it"
        );
    }
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(b"").unwrap();
    assert!(Journal::open(&path).await.unwrap().is_empty());
}

#[tokio::test]
async fn wrong_and_truncated_answers_are_kept_too_since_they_were_paid_for() {
    let server = Server::start(|asked| match asked.number {
        0 => answer("no JSON", 10, 2),
        1 => answer(r#"{"n": 4}"#, 10, 2),
        _ => {
            let body = completion("half", "length", 10, 2);
            server::Reply::Whole(200, Vec::new(), body.to_string())
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.jsonl");
    let client = client(&server);
    let document = json!({"type": "object", "required": ["n"]});
    let schema = Arc::new(Schema::new("n", document).unwrap());
    for _ in 0..2 {
        let journal = Journal::open(&path).await.unwrap();
        let journaled = client.journaled(&journal, "a");
        let question = chat("?");
        let found = journaled.structured::<serde_json::Value>(&question, &schema);
        let found = found.await.unwrap();
        assert_eq!((found.value["n"].as_u64(), found.repairs), (Some(4), 1));
        let error = journaled.complete(&chat("!")).await.unwrap_err();
        assert!(matches!(error, Error::Truncated { .. }), "{error}");
    }
    assert_eq!(server.served(), 3);
}
