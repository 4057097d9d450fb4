//! One client against servers that misbehave on purpose, over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

mod server;

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use llm::{Ask as _, Chat, Client, Error, FinishReason, Message, Options};
use serde_json::json;
use server::{End, Reply, Server, answer, completion, events, refusal};

fn options(server: &Server) -> Options {
    Options {
        url: Some(server.url.clone()),
        model: Some("toy".to_owned()),
        first_delay_ms: 1,
        max_delay_ms: 4,
        ..Options::default()
    }
}

fn client(server: &Server) -> Client {
    Client::new(&options(server)).unwrap()
}

fn chat() -> Chat {
    Chat::new(vec![Message::system("Be brief."), Message::user("Hello?")]).with_seed(3)
}

/// Misbehaves for the first `count` requests, then answers.
fn at_first(count: usize, reply: impl Fn() -> Reply) -> impl Fn(&server::Asked) -> Reply {
    move |asked| match asked.number < count {
        true => reply(),
        false => answer("fine", 10, 2),
    }
}

#[tokio::test]
async fn the_question_arrives_as_asked_and_the_answer_says_what_it_took() {
    let server = Server::start(|asked| {
        assert_eq!(asked.path, "/v1/chat/completions");
        assert_eq!(asked.body["model"], "toy");
        assert_eq!(asked.body["seed"], 3);
        assert_eq!(asked.body["max_tokens"], 1024);
        assert_eq!(asked.body["messages"][0]["role"], "system");
        assert!(asked.body.get("response_format").is_none());
        assert!(asked.headers.get("authorization").is_none());
        answer("Hi.", 10, 2)
    })
    .await;
    let client = client(&server);
    let completion = client.complete(&chat()).await.unwrap();
    assert_eq!(
        (completion.text.as_str(), completion.model.as_str()),
        ("Hi.", "toy-1")
    );
    assert_eq!(completion.finish_reason, FinishReason::Stop);
    assert_eq!(
        (
            completion.usage.prompt_tokens,
            completion.usage.completion_tokens
        ),
        (10, 2)
    );
    assert_eq!(completion.request_sha256, client.request_sha256(&chat()));
    assert_eq!(completion.cost, None);
}

#[tokio::test]
async fn too_many_requests_are_waited_out_and_an_empty_account_is_not() {
    let times = Mutex::new(Vec::new());
    let times: &'static Mutex<Vec<Instant>> = Box::leak(Box::new(times));
    let server = Server::start(move |asked| {
        times.lock().unwrap().push(Instant::now());
        match asked.number {
            0 => Reply::Whole(
                429,
                vec![("retry-after-ms", "80".to_owned())],
                String::new(),
            ),
            1..20 => refusal(429, "slow down"),
            20 => Reply::Whole(
                503,
                vec![("retry-after", "0".to_owned())],
                "loading".to_owned(),
            ),
            _ => answer("fine", 10, 2),
        }
    })
    .await;
    // Far more refusals than attempts: overload is no failure.
    let client = client(&server);
    assert_eq!(client.complete(&chat()).await.unwrap().text, "fine");
    let waited = {
        let times = times.lock().unwrap();
        times[1] - times[0]
    };
    assert!(waited >= Duration::from_millis(80), "{waited:?}");
    assert_eq!(client.totals().overloaded_attempts, 21);
    assert!(client.window() < 1.0, "{}", client.window());

    let body = json!({"error": {"message": "pay first", "code": "insufficient_quota"}});
    let server = Server::start(move |_| Reply::Whole(429, Vec::new(), body.to_string())).await;
    let error = self::client(&server).complete(&chat()).await.unwrap_err();
    assert!(matches!(error, Error::OutOfCredit { .. }), "{error}");
    assert_eq!(server.served(), 1);
}

#[tokio::test]
async fn a_wait_beyond_the_deadline_is_not_waited_for() {
    let quiet = || Reply::Whole(429, vec![("retry-after", "3600".to_owned())], String::new());
    let server = Server::start(move |_| quiet()).await;
    let options = Options {
        deadline_seconds: 20,
        ..options(&server)
    };
    let started = Instant::now();
    let error = Client::new(&options)
        .unwrap()
        .complete(&chat())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Deadline { last, .. } if last.contains("429") && last.contains("s of quiet")),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(server.served(), 1);
}

#[tokio::test]
async fn a_wait_beyond_the_deadline_silences_no_later_call() {
    let quiet = || Reply::Whole(429, vec![("retry-after", "3600".to_owned())], String::new());
    let server = Server::start(at_first(1, quiet)).await;
    let options = Options {
        deadline_seconds: 20,
        ..options(&server)
    };
    let client = Client::new(&options).unwrap();
    let started = Instant::now();
    assert!(client.complete(&chat()).await.is_err());
    assert_eq!(client.complete(&chat()).await.unwrap().text, "fine");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_key_that_a_good_answer_quotes_is_blotted_out_of_it() {
    const KEY: &str = "sk-very-secret";
    let server = Server::start(|asked| match asked.number {
        0 => answer(&format!("my key is {KEY}, yes"), 1, 1),
        1 => Reply::Whole(200, Vec::new(), json!({"key": KEY}).to_string()),
        _ => Reply::Whole(
            200,
            Vec::new(),
            json!({"error": {"message": KEY}}).to_string(),
        ),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, KEY).unwrap();
    let options = Options {
        key_file: Some(path),
        max_attempts: 1,
        ..options(&server)
    };
    let client = Client::new(&options).unwrap();
    let file = folder.path().join("answers.jsonl");
    let journal = llm::Journal::open(&file).await.unwrap();
    let answer = client.journaled(&journal, "sample").complete(&chat()).await;
    assert_eq!(answer.unwrap().text, "my key is [key], yes");
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.contains("[key]") && !kept.contains(KEY), "{kept}");
    for _ in 0..2 {
        let error = client.complete(&chat()).await.unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("[key]") && !shown.contains(KEY), "{shown}");
    }
}

#[tokio::test]
async fn failures_of_all_kinds_are_tried_again() {
    let half = || {
        Reply::Whole(
            200,
            Vec::new(),
            completion("fine", "stop", 1, 1).to_string()[..40].to_owned(),
        )
    };
    let shape = || Reply::Whole(200, Vec::new(), json!({"choices": []}).to_string());
    let other = || Reply::Whole(200, Vec::new(), json!({"choices": "none"}).to_string());
    let cut = || {
        Reply::Pieces(
            "application/json",
            vec!["{\"choices\": [".to_owned()],
            End::Cut,
        )
    };
    let proxy = || Reply::Whole(502, Vec::new(), "<html>bad gateway</html>".to_owned());
    let kinds: [fn() -> Reply; 6] = [half, shape, other, cut, proxy, || refusal(500, "oops")];
    for (kind, reply) in kinds.into_iter().enumerate() {
        let server = Server::start(at_first(3, reply)).await;
        let client = client(&server);
        let completion = client.complete(&chat()).await;
        assert_eq!(
            completion
                .unwrap_or_else(|error| panic!("kind {kind}: {error}"))
                .text,
            "fine"
        );
        assert_eq!(
            (server.served(), client.totals().failed_attempts),
            (4, 3),
            "kind {kind}"
        );
    }
    let server = Server::start(|_| refusal(500, "oops")).await;
    let error = client(&server).complete(&chat()).await.unwrap_err();
    assert!(
        matches!(error, Error::Server { status: 500, .. }),
        "{error}"
    );
    assert_eq!(server.served(), 6);
}

#[tokio::test]
async fn what_cannot_succeed_is_asked_once_and_says_what_to_do() {
    for (status, advice) in [
        (400, "refused the request"),
        (401, "DIPTYCH_LLM_KEY"),
        (404, "--llm-model (now `toy`)"),
        (413, "refused the request"),
        (302, "refused the request"),
    ] {
        let server = Server::start(move |_| refusal(status, "no")).await;
        let error = client(&server).complete(&chat()).await.unwrap_err();
        assert!(error.to_string().contains(advice), "{status}: {error}");
        assert_eq!(server.served(), 1, "{status}");
        assert!(!error.is_retryable());
    }
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", closed.local_addr().unwrap());
    drop(closed);
    let options = Options {
        url: Some(url),
        model: Some("toy".to_owned()),
        max_attempts: 1,
        ..Options::default()
    };
    let error = Client::new(&options)
        .unwrap()
        .complete(&chat())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("correct --llm-url"), "{error}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_left_and_a_caller_who_leaves_ends_the_request() {
    let server = Server::start(at_first(2, || Reply::Never)).await;
    let patient = Options {
        timeout_ms: 500,
        ..options(&server)
    };
    let client = Client::new(&patient).unwrap();
    assert_eq!(client.complete(&chat()).await.unwrap().text, "fine");
    assert_eq!(client.totals().unmetered_attempts, 2);

    let server = Server::start(|_| Reply::Never).await;
    let client = self::client(&server);
    let asking = chat();
    let mut call = Box::pin(client.complete(&asking));
    while server.served() == 0 {
        assert!(futures::poll!(&mut call).is_pending());
        tokio::task::yield_now().await;
    }
    drop(call);
    tokio::time::timeout(Duration::from_secs(10), server.left.notified())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_huge_answer_is_not_read_to_its_end() {
    let piece = "x".repeat(1 << 16);
    let endless =
        move |kind: &'static str| Reply::Pieces(kind, vec![piece.clone(); 64], End::Never);
    let one = endless.clone();
    let server = Server::start(move |_| one("application/json")).await;
    let small = Options {
        max_answer_bytes: 1 << 20,
        ..options(&server)
    };
    let error = Client::new(&small)
        .unwrap()
        .complete(&chat())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLarge {
                limit_bytes: 1_048_576
            }
        ),
        "{error}"
    );

    let server = Server::start(move |_| endless("text/event-stream")).await;
    let small = Options {
        max_answer_bytes: 1 << 20,
        stream: true,
        ..options(&server)
    };
    let error = Client::new(&small)
        .unwrap()
        .complete(&chat())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    assert_eq!(server.served(), 1);

    let essay = "no ".repeat(1 << 20);
    let server = Server::start(move |_| refusal(400, &essay)).await;
    let error = client(&server)
        .complete(&chat())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.len() < 1_000, "{} bytes", error.len());
}

#[tokio::test]
async fn an_answer_that_is_not_whole_is_an_error_and_is_paid_for() {
    let server = Server::start(|asked| {
        let body = match asked.number {
            0 => completion("half a sen", "length", 10, 5),
            1 => completion("", "content_filter", 10, 0),
            2 => completion("  ", "stop", 10, 1),
            _ => {
                let mut body = completion("", "stop", 10, 1);
                body["choices"][0]["message"] =
                    json!({"content": null, "refusal": "I would rather not."});
                body
            }
        };
        Reply::Whole(200, Vec::new(), body.to_string())
    })
    .await;
    let client = client(&server);
    let error = client.complete(&chat()).await.unwrap_err();
    let Error::Truncated { completion, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(completion.text, "half a sen");
    assert!(error.to_string().contains("--llm-max-tokens"), "{error}");
    let error = client.complete(&chat()).await.unwrap_err();
    assert!(matches!(error, Error::Declined { .. }), "{error}");
    let error = client.complete(&chat()).await.unwrap_err();
    assert!(matches!(error, Error::Empty), "{error}");
    let error = client.complete(&chat()).await.unwrap_err();
    assert!(error.to_string().contains("rather not"), "{error}");
    assert_eq!(client.totals().usage.total_tokens(), 15 + 10 + 11 + 11);
    assert_eq!(server.served(), 4);
}

#[tokio::test]
async fn a_stream_comes_word_by_word_and_a_cut_one_is_an_error() {
    let server = Server::start(|asked| {
        assert_eq!(asked.body["stream_options"]["include_usage"], true);
        let mut pieces = events(&["Grün", "e ", "Füchse"], 7, 3);
        match asked.number {
            // Cut into bytes where they fall, in the middle of a letter too.
            0 => {
                let whole = format!(": keep-alive\n\n{}", pieces.concat());
                Reply::Pieces(
                    "text/event-stream",
                    whole.chars().map(String::from).collect(),
                    End::Well,
                )
            }
            1 => {
                pieces.truncate(2);
                Reply::Pieces("text/event-stream", pieces, End::Well)
            }
            2 => {
                pieces.truncate(2);
                Reply::Pieces("text/event-stream", pieces, End::Cut)
            }
            3 => {
                let error = json!({"error": {"message": "engine died"}});
                pieces.insert(1, format!("data: {error}\n\n"));
                Reply::Pieces("text/event-stream", pieces, End::Well)
            }
            4 => {
                pieces.truncate(2);
                Reply::Pieces("text/event-stream", pieces, End::Never)
            }
            _ => Reply::Pieces("text/event-stream", pieces, End::Well),
        }
    })
    .await;
    let streaming = Options {
        stream: true,
        idle_timeout_ms: 1_000,
        ..options(&server)
    };
    let client = Client::new(&streaming).unwrap();

    let mut stream = client.stream(&chat()).await.unwrap();
    let mut words = Vec::new();
    while let Some(word) = stream.next().await.unwrap() {
        words.push(word);
    }
    assert_eq!(words, ["Grün", "e ", "Füchse"]);
    let completion = stream.finish().await.unwrap();
    assert_eq!(
        (completion.text.as_str(), completion.usage.total_tokens()),
        ("Grüne Füchse", 10)
    );
    assert!(!completion.usage.is_estimated);

    let error = client
        .stream(&chat())
        .await
        .unwrap()
        .finish()
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Cut { .. }), "{error}");
    // Whoever wants the whole gets it, after a cut, an error and a stall.
    let completion = client.complete(&chat()).await.unwrap();
    assert_eq!(completion.text, "Grüne Füchse");
    assert_eq!((server.served(), client.totals().failed_attempts), (6, 4));
}

#[tokio::test]
async fn a_key_is_sent_named_in_errors_and_never_shown() {
    const KEY: &str = "sk-very-secret";
    let server = Server::start(|asked| match asked.headers.get("authorization") {
        Some(value) if value == "Bearer sk-fresh" => answer("fine", 1, 1),
        Some(value) => refusal(401, &format!("bad key {}", value.to_str().unwrap())),
        None => refusal(401, "no key"),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, format!("{KEY}\n")).unwrap();
    let with_key = Options {
        key_file: Some(path.clone()),
        ..options(&server)
    };
    let client = Client::new(&with_key).unwrap();
    let error = client.complete(&chat()).await.unwrap_err();
    let shown = format!("{error} {error:?} {client:?}");
    assert!(!shown.contains(KEY), "{shown}");
    assert!(
        shown.contains("[key]") && shown.contains(path.to_str().unwrap()),
        "{shown}"
    );

    std::fs::write(&path, "sk-fresh").unwrap();
    assert_eq!(client.complete(&chat()).await.unwrap().text, "fine");
    std::fs::remove_file(&path).unwrap();
    let error = client.complete(&chat()).await.unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error}");

    let absent = Options {
        key_env: Some("DIPTYCH_TEST_NO_SUCH_KEY".to_owned()),
        ..options(&server)
    };
    let error = Client::new(&absent).unwrap_err().to_string();
    assert!(error.contains("DIPTYCH_TEST_NO_SUCH_KEY"), "{error}");
}
