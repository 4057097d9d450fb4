//! A model in this process, of random weights: what it answers is nonsense in the right form.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

mod tiny_model;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use llm::{Error, LanguageModel as _, Local, LocalOptions, Message, Picture, Question, Schema};
use metrics::{
    Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use serde_json::{Value, json};
use tokio::time::timeout;

fn options(path: &Path) -> LocalOptions {
    LocalOptions {
        path: Some(path.to_owned()),
        ..LocalOptions::default()
    }
}

async fn open(options: &LocalOptions) -> Result<Local, Error> {
    Local::open(options, 0.9).await
}

fn question(text: &str, document: Value, seed: u64) -> Question {
    Question {
        key: "sample".to_owned(),
        messages: vec![
            Message::system("You look at pictures."),
            Message::user(text),
        ],
        schema: Arc::new(Schema::new("answer", document).unwrap()),
        seed,
    }
}

fn caption() -> Value {
    json!({
        "type": "object",
        "properties": {
            "caption": {"type": "string", "minLength": 1, "maxLength": 40},
            "count": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["caption", "count"],
        "additionalProperties": false,
    })
}

#[tokio::test]
async fn a_question_has_one_answer_that_fits_its_schema_whoever_asks_when() {
    let folder = tiny_model::wide(2048);
    let model = open(&options(folder.path())).await.unwrap();
    model.warm_up().await.unwrap();
    assert!(model.is_seeded());
    let weights = model.weights().unwrap();
    assert_eq!(weights.architecture, "LlamaForCausalLM");
    // (448 + 448) x 64 of tables and head, 2 layers of 31,296, and the last norm of 64.
    assert_eq!(weights.parameter_count, 120_000);
    assert_eq!(weights.sha256.len(), 64);
    assert!(model.name().starts_with("tiny-llama-"), "{}", model.name());

    let one = question("What is there?", caption(), 1);
    let first = model.answer(&one).await.unwrap();
    let words = first.value["caption"].as_str().unwrap();
    assert!((1..=40).contains(&words.chars().count()), "{words}");
    let spent = first.spent.parameters();
    assert_eq!(spent["tokens_are_estimated"], "false");
    assert_eq!(spent["request_sha256"].len(), 64);

    let other = question("What is there?", caption(), 2);
    let other_again = other.clone();
    let (left, right) = tokio::join!(model.answer(&other), model.answer(&one));
    assert_ne!(left.unwrap().text, first.text, "the seed decides");
    assert_eq!(right.unwrap().text, first.text);
    let again = open(&options(folder.path())).await.unwrap();
    assert_eq!(again.answer(&one).await.unwrap().text, first.text);
    assert_eq!(again.fingerprint(), model.fingerprint());
    let text = again.answer(&other_again).await.unwrap().text;
    assert_ne!(text, first.text);
}

/// A hundred thousand words: minutes of work.
fn endless() -> Value {
    let word = json!({"type": "string", "minLength": 100, "maxLength": 100});
    json!({"type": "array", "items": word, "minItems": 900, "maxItems": 900})
}

#[tokio::test]
async fn a_caller_that_leaves_frees_the_model_within_one_step_and_a_full_line_is_refused() {
    metrics::set_global_recorder(Listener).unwrap();
    let folder = tiny_model::wide(1 << 18);
    let options = LocalOptions {
        max_tokens: 200_000,
        max_waiting: 0,
        ..options(folder.path())
    };
    let model = Arc::new(open(&options).await.unwrap());
    let asker = Arc::clone(&model);
    let long = question("Tell me everything.", endless(), 1);
    let asking = tokio::spawn(async move {
        while let Err(error) = asker.answer(&long).await {
            assert!(matches!(error, Error::Full { .. }), "{error}");
            tokio::task::yield_now().await;
        }
    });
    let short = question("What is there?", caption(), 1);
    let refused = async {
        loop {
            match model.answer(&short).await {
                // The other has not begun yet.
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => return error,
            }
        }
    };
    let error = timeout(Duration::from_secs(30), refused).await.unwrap();
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert!(!asking.is_finished());

    asking.abort();
    let answered = async {
        while let Err(error) = model.answer(&short).await {
            assert!(matches!(error, Error::Full { .. }), "{error}");
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(30), answered).await.unwrap();
    // It was freed, and did not just come to the end of the long answer: that one would be counted. A short
    // one has some fifty characters, so fewer tokens, however often it was asked.
    let short_answers = LONGEST.counts.load(Ordering::Relaxed);
    assert!(short_answers > 0, "nothing was counted");
    let longest = LONGEST.tokens.load(Ordering::Relaxed);
    assert!(longest < 1_000, "an answer of {longest} tokens was written");
}

/// The longest answer that any model of this program has counted, as a recorder of metrics hears it.
#[derive(Debug)]
struct Longest {
    counts: AtomicU64,
    tokens: AtomicU64,
}

static LONGEST: Longest = Longest {
    counts: AtomicU64::new(0),
    tokens: AtomicU64::new(0),
};

impl CounterFn for &'static Longest {
    fn increment(&self, tokens: u64) {
        self.counts.fetch_add(1, Ordering::Relaxed);
        self.tokens.fetch_max(tokens, Ordering::Relaxed);
    }

    fn absolute(&self, _: u64) {}
}

/// Listens to `diptych_llm_tokens_total{kind="completion"}` alone.
struct Listener;

impl Recorder for Listener {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let is_of_answers = key.labels().any(|label| label.value() == "completion");
        match is_of_answers && key.name() == "diptych_llm_tokens_total" {
            true => Counter::from_arc(Arc::new(&LONGEST)),
            false => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_name_and_fails_alone() {
    use runtime::{Kind, ServiceError as _};
    let model = open(&options(&tiny_model::narrow())).await.unwrap();
    let long = question(&"word ".repeat(1000), caption(), 1);
    let error = model.answer(&long).await.unwrap_err();
    let words = error.to_string();
    assert!(
        words.contains("`llama`") && words.contains("640 positions"),
        "{words}"
    );
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert_eq!(error.reason(), "LANGUAGE_MODEL_CONTEXT_FULL");
    assert!(!error.ends_request());

    let tight = LocalOptions {
        max_tokens: 3,
        ..options(&tiny_model::narrow())
    };
    let model = open(&tight).await.unwrap();
    let error = model.answer(&question("?", caption(), 1)).await;
    let words = error.unwrap_err().to_string();
    assert!(words.contains("--language-model-max-tokens"), "{words}");

    let png = [0x89, b'P', b'N', b'G'].to_vec();
    let mut seen = question("?", caption(), 1);
    seen.messages[1] = Message::user("?").with_picture(Picture::new(png).unwrap());
    let words = model.answer(&seen).await.unwrap_err().to_string();
    assert!(words.contains("pictures"), "{words}");
}

#[tokio::test]
async fn a_model_that_is_absent_damaged_or_cannot_converse_is_refused_at_the_start() {
    let folder = tiny_model::wide(640);
    let refusal = async |options: LocalOptions| {
        let error = open(&options).await.unwrap_err();
        runtime::error::chain(&error)
    };
    let nameless = refusal(LocalOptions::default()).await;
    assert!(nameless.contains("--language-model"), "{nameless}");
    assert!(nameless.contains("DIPTYCH_LANGUAGE_MODEL"), "{nameless}");
    for absent in ["nowhere", "nowhere.gguf"] {
        let words = refusal(options(&folder.path().join(absent))).await;
        assert!(
            words.contains(absent) && words.contains("DIPTYCH_LANGUAGE_MODEL"),
            "{words}"
        );
    }
    let hot = LocalOptions {
        top_p: 7.0,
        ..options(folder.path())
    };
    let words = refusal(hot).await;
    assert!(words.contains("top_p"), "{words}");

    let settings = folder.path().join("tokenizer_config.json");
    let silent = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, silent.replace("chat_template", "cat_template")).unwrap();
    let words = refusal(options(folder.path())).await;
    assert!(words.contains("no chat template"), "{words}");
    let weights = folder.path().join("model-00002-of-00002.safetensors");
    std::fs::write(weights, b"damage").unwrap();
    let words = refusal(options(folder.path())).await;
    assert!(
        words.contains("model-00002-of-00002.safetensors"),
        "{words}"
    );
}
