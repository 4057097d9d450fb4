//! What is refused, and with which sentence.

use std::fs;

use proto::eval::v1::{
    AnswerQuestionsRequest, BenchmarkRef, Candidate, CreateEvaluationJobRequest, EvaluationSpec,
    GetEvaluationJobRequest, ListEvaluationJobsRequest, benchmark_ref::Location, candidate::Model,
};
use tonic::Code;

use crate::stage::{Stage, TINY, item, tiny};

async fn refused(stage: &Stage, spec: EvaluationSpec) -> (Code, String) {
    let request = CreateEvaluationJobRequest {
        request_id: "r".into(),
        spec: Some(spec),
    };
    let status = stage
        .client
        .clone()
        .create_evaluation_job(request)
        .await
        .expect_err("refused");
    (status.code(), runtime::explain(&status))
}

#[tokio::test]
async fn an_evaluation_that_cannot_work_is_refused_before_it_begins() {
    let stage = Stage::start().await;
    let good = stage.spec(stage.benchmark("bench"), "out");
    let named = |model: Model| {
        vec![Candidate {
            name: "a".into(),
            model: Some(model),
            replicas: Vec::new(),
        }]
    };
    let builtin = |name: &str| {
        vec![BenchmarkRef {
            name: "b".into(),
            location: Some(Location::Builtin(name.into())),
        }]
    };
    let outside = proto::dataset::v1::Artefact {
        uri: "file:///etc/".into(),
        ..Default::default()
    };
    let cases = [
        (
            EvaluationSpec {
                candidates: vec![],
                ..good.clone()
            },
            Code::InvalidArgument,
            "spec.candidates: there must be 1 to",
        ),
        (
            EvaluationSpec {
                candidates: vec![tiny("a"), tiny("a")],
                ..good.clone()
            },
            Code::InvalidArgument,
            "\"a\" is given twice",
        ),
        (
            EvaluationSpec {
                candidates: vec![tiny("a/b")],
                ..good.clone()
            },
            Code::InvalidArgument,
            "spec.candidates[0].name",
        ),
        (
            EvaluationSpec {
                candidates: named(Model::ModelName("giant".into())),
                ..good.clone()
            },
            Code::NotFound,
            "there is no model \"giant\"; this service has tiny",
        ),
        (
            EvaluationSpec {
                candidates: named(Model::Checkpoint(stage.folder("nowhere"))),
                ..good.clone()
            },
            Code::NotFound,
            "does not exist",
        ),
        (
            EvaluationSpec {
                candidates: named(Model::Checkpoint(outside.clone())),
                ..good.clone()
            },
            Code::InvalidArgument,
            "does not lie under an artefact root",
        ),
        (
            EvaluationSpec {
                benchmarks: vec![],
                ..good.clone()
            },
            Code::InvalidArgument,
            "spec.benchmarks: there must be 1 to",
        ),
        (
            EvaluationSpec {
                benchmarks: builtin("builtin:moon"),
                ..good.clone()
            },
            Code::NotFound,
            "there is no benchmark \"builtin:moon\"",
        ),
        (
            EvaluationSpec {
                output: Some(outside),
                ..good.clone()
            },
            Code::InvalidArgument,
            "does not lie under",
        ),
        (
            EvaluationSpec {
                output: None,
                ..good.clone()
            },
            Code::InvalidArgument,
            "spec.output: must be given",
        ),
        (
            EvaluationSpec {
                max_new_token_count: 1_000_000,
                ..good.clone()
            },
            Code::InvalidArgument,
            "spec.max_new_token_count: must be at most",
        ),
        (
            EvaluationSpec {
                resample_count: u32::MAX,
                ..good
            },
            Code::InvalidArgument,
            "spec.resample_count",
        ),
    ];
    for (spec, code, says) in cases {
        let (actual, sentence) = refused(&stage, spec).await;
        assert_eq!(
            (actual, sentence.contains(says)),
            (code, true),
            "{sentence:?} should say {says:?}"
        );
    }
}

#[tokio::test]
async fn a_broken_benchmark_is_refused_with_file_and_line() {
    let stage = Stage::start().await;
    let good = stage.spec(stage.benchmark("bench"), "out");
    let file = stage.path("bench/questions.jsonl");
    let lines = fs::read_to_string(&file).expect("read");
    for (content, says) in [
        (String::new(), "has no questions".to_owned()),
        (
            lines.replace("\"q2\"", "2,"),
            "questions.jsonl, line 3".to_owned(),
        ),
        (
            lines.replace("3.png", "moon.png"),
            "line 5: picture moon.png".to_owned(),
        ),
        (
            lines.replace("3.png", "../checkpoint/config.json"),
            "is no file of the benchmark's folder".to_owned(),
        ),
    ] {
        fs::write(&file, content).expect("written");
        let (code, sentence) = refused(&stage, good.clone()).await;
        assert_eq!(
            (code, sentence.contains(&says)),
            (Code::InvalidArgument, true),
            "{sentence:?} should say {says:?}"
        );
    }
    fs::remove_file(&file).expect("removed");
    assert_eq!(refused(&stage, good).await.0, Code::InvalidArgument);
}

#[tokio::test]
async fn full_queues_refuse_at_once() {
    let stage = Stage::with(|options| {
        options.queue_capacity = 0;
        options.max_streams = 0;
    })
    .await;
    let spec = stage.spec(stage.benchmark("bench"), "out");
    assert_eq!(refused(&stage, spec).await.0, Code::ResourceExhausted);
    let request = AnswerQuestionsRequest {
        model: Some(tiny("")),
        items: vec![item("a", 0)],
        max_new_token_count: 0,
    };
    let status = stage
        .client
        .clone()
        .answer_questions(request)
        .await
        .expect_err("refused");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(runtime::error::retry_after(&status).is_some());
}

#[tokio::test]
async fn questions_without_items_or_model_and_jobs_that_are_none_are_refused() {
    let stage = Stage::with(|options| options.max_items = 2).await;
    let mut client = stage.client.clone();
    let unknown = Candidate {
        model: Some(Model::ModelName("giant".into())),
        ..Candidate::default()
    };
    for (model, count, code, says) in [
        (
            Some(tiny("")),
            0,
            Code::InvalidArgument,
            "items: there must be 1 to 2",
        ),
        (
            Some(tiny("")),
            3,
            Code::InvalidArgument,
            "items: there must be 1 to 2",
        ),
        (None, 1, Code::InvalidArgument, "say which model"),
        (Some(unknown), 1, Code::NotFound, TINY),
    ] {
        let request = AnswerQuestionsRequest {
            model,
            items: vec![item("a", 0); count],
            max_new_token_count: 0,
        };
        let status = client.answer_questions(request).await.expect_err("refused");
        assert_eq!(
            (status.code(), status.message().contains(says)),
            (code, true),
            "{status:?}"
        );
    }
    let status = client
        .get_evaluation_job(GetEvaluationJobRequest { id: "x".into() })
        .await
        .expect_err("refused");
    assert_eq!(status.code(), Code::NotFound);
    let page = ListEvaluationJobsRequest {
        page_token: "x".into(),
        ..Default::default()
    };
    assert_eq!(
        client
            .list_evaluation_jobs(page)
            .await
            .expect_err("refused")
            .code(),
        Code::InvalidArgument
    );
}
