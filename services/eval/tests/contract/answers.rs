//! Questions answered and answers scored.

use futures::TryStreamExt as _;
use proto::{
    dataset::v1::QuestionKind,
    eval::v1::{
        AnswerQuestionsRequest, AnswerQuestionsResponse, BenchmarkQuestion, GetCapabilitiesRequest,
        QuestionItem, ScoreAnswersRequest, ScoredAnswer,
        answer_questions_response::Result as Answered,
    },
};

use crate::stage::{Stage, TINY, item, tiny};

async fn ask(stage: &Stage, items: Vec<QuestionItem>) -> Vec<AnswerQuestionsResponse> {
    let request = AnswerQuestionsRequest {
        model: Some(tiny("")),
        items,
        max_new_token_count: 8,
    };
    let stream = stage
        .client
        .clone()
        .answer_questions(request)
        .await
        .expect("accepted")
        .into_inner();
    stream.try_collect().await.expect("answered")
}

#[tokio::test]
async fn an_answer_is_the_same_alone_and_among_others_and_a_bad_item_fails_alone() {
    let stage = Stage::start().await;
    let mut broken = item("broken", 1);
    broken.images[0].content = Some(proto::dataset::v1::image::Content::Data(
        b"no picture".as_slice().into(),
    ));
    let silent = QuestionItem {
        text: " ".into(),
        ..item("silent", 1)
    };
    let among = ask(
        &stage,
        vec![item("a", 0), broken, item("b", 1), silent, item("c", 2)],
    )
    .await;
    let ids: Vec<&str> = among
        .iter()
        .map(|response| response.question_id.as_str())
        .collect();
    assert_eq!(ids, ["a", "broken", "b", "silent", "c"]);
    for (index, field) in [(1, "images[0]"), (3, "text")] {
        let Some(Answered::Failure(failure)) = &among[index].result else {
            panic!("{:?}", among[index])
        };
        assert!(
            failure.message.contains(field) && !failure.retryable,
            "{failure:?}"
        );
    }
    let Some(Answered::Answer(answer)) = &among[2].result else {
        panic!("{:?}", among[2])
    };
    assert!(
        answer
            .rendered_prompt
            .ends_with("USER: <image>\nWhat is in the picture? ASSISTANT:"),
        "{answer:?}"
    );
    assert!((1..=8).contains(&answer.token_count), "{answer:?}");

    // A service that has nothing in its cache, and one question alone.
    let alone = ask(&Stage::start().await, vec![item("b", 1)]).await;
    assert_eq!(alone[0], among[2]);
    assert_eq!(
        ask(&stage, vec![item("b", 1)]).await[0],
        among[2],
        "from the cache"
    );
}

#[tokio::test]
async fn capabilities_name_the_models_with_their_hashes() {
    let stage = Stage::start().await;
    let mut client = stage.client.clone();
    let capabilities = client
        .get_capabilities(GetCapabilitiesRequest {})
        .await
        .expect("said")
        .into_inner();
    let capabilities = capabilities.capabilities.expect("some");
    assert_eq!(capabilities.models[0].name, TINY);
    assert_eq!(capabilities.models[0].sha256.len(), 64);
    assert!(
        capabilities.models[0].parameter_count > 10_000,
        "{capabilities:?}"
    );
}

#[tokio::test]
async fn given_answers_are_scored_and_strangers_refused() {
    let stage = Stage::start().await;
    let mut client = stage.client.clone();
    let question = |id: &str, kind: QuestionKind, text: &str, answer: &str| BenchmarkQuestion {
        question_id: id.into(),
        ability: "animal".into(),
        kind: kind.into(),
        image: String::new(),
        text: text.into(),
        answers: vec![answer.into()],
    };
    let questions = vec![
        question("1", QuestionKind::YesNo, "Is it a fox?", "yes"),
        question("2", QuestionKind::Wh, "What is it?", "fox"),
        question("3", QuestionKind::EitherOr, "Is it a fox or a bear?", "fox"),
    ];
    let answer = |id: &str, text: &str| ScoredAnswer {
        question_id: id.into(),
        text: text.into(),
        ..ScoredAnswer::default()
    };
    let answers = vec![
        answer("3", "A fox."),
        answer("1", "Yes and no"),
        answer("2", "Two foxes"),
        answer("3", "fox or bear"),
    ];
    let request = ScoreAnswersRequest {
        questions: questions.clone(),
        answers,
    };
    let scored = client
        .score_answers(request)
        .await
        .expect("scored")
        .into_inner()
        .answers;
    assert_eq!(
        scored.iter().map(|answer| answer.score).collect::<Vec<_>>(),
        [1.0, 0.0, 1.0, 0.0]
    );

    let refusals = [
        (
            questions.clone(),
            vec![answer("4", "fox")],
            "answers[0]: there is no question \"4\"",
        ),
        (
            [questions.clone(), questions.clone()].concat(),
            vec![],
            "questions[3]: question_id \"1\" was given before",
        ),
    ];
    for (questions, answers, says) in refusals {
        let status = client
            .score_answers(ScoreAnswersRequest { questions, answers })
            .await
            .expect_err("refused");
        assert_eq!(
            (status.code(), status.message().contains(says)),
            (tonic::Code::InvalidArgument, true),
            "{status:?}"
        );
    }
}
