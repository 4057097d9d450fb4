//! Rules of `diptych.eval.v1.EvalService`, from the comments in its schema.

use std::{fs, path::Path};

use proto::{
    dataset::v1::{Capabilities, Image, QuestionKind},
    eval::v1 as pb,
    eval::v1::{
        answer_questions_response::Result as Outcome, benchmark_ref::Location, candidate::Model,
        eval_service_client::EvalServiceClient,
    },
};
use runtime::Channel;
use tonic::Status;

use super::{
    Case, Subject, client,
    jobs::{self, Slip, Trials, desk, scratch},
    ledger::{Ledger, Miss, Refusal, Rule, Seen, collect, holds},
    manners, pictures,
};
use crate::jobs::artefact;

/// Longest answer asked for, in tokens.
const MAX_NEW_TOKENS: u32 = 4;
/// Questions of a benchmark that is to last.
const QUESTIONS: usize = 400;

pub(super) async fn judge(case: &Case, channel: &Channel, ledger: &mut Ledger) {
    let client = client!(EvalServiceClient, channel);
    let told = capabilities(&client);
    let told = manners::capabilities(ledger, Subject::Eval, told)
        .await
        .unwrap_or_default();
    let model = told.models.first().map(|model| model.name.clone());
    let stage = Stage {
        client: client.clone(),
        model,
    };
    stage.scores(ledger).await;
    stage.refusals(ledger).await;
    stage.answers(ledger).await;
    let scratch = scratch(case);
    let folder = scratch
        .as_ref()
        .map(tempfile::TempDir::path)
        .map_err(Clone::clone);
    let trials = folder.and_then(|folder| trials(folder, stage.model.clone()));
    let name = jobs::name(&scratch);
    jobs::judge(ledger, &Evaluations(client.clone()), &name, trials).await;
    let why = Miss::not_judged("needs a dataset with held-out prompts: `diptych run` makes one");
    jobs::judge(ledger, &Benchmarks(client), &name, Err(why)).await;
}

async fn capabilities(client: &EvalServiceClient<Channel>) -> Result<Option<Capabilities>, Status> {
    let reply = client
        .clone()
        .get_capabilities(pb::GetCapabilitiesRequest {})
        .await?;
    Ok(reply.into_inner().capabilities)
}

struct Evaluations(EvalServiceClient<Channel>);

desk!(Evaluations, "evaluation", EvaluationSpec, EvaluationJob, |job: pb::EvaluationJob| Slip {
    result: job.result.and_then(|result| result.answers),
    job: job.job.unwrap_or_default(),
}, [
    create_evaluation_job CreateEvaluationJobRequest, get_evaluation_job GetEvaluationJobRequest,
    list_evaluation_jobs ListEvaluationJobsRequest,
    cancel_evaluation_job CancelEvaluationJobRequest,
    watch_evaluation_job WatchEvaluationJobRequest
]);

struct Benchmarks(EvalServiceClient<Channel>);

desk!(Benchmarks, "benchmark", BenchmarkSpec, BenchmarkJob, |job: pb::BenchmarkJob| Slip {
    result: job.result.and_then(|result| result.benchmark),
    job: job.job.unwrap_or_default(),
}, [
    create_benchmark_job CreateBenchmarkJobRequest, get_benchmark_job GetBenchmarkJobRequest,
    list_benchmark_jobs ListBenchmarkJobsRequest, cancel_benchmark_job CancelBenchmarkJobRequest,
    watch_benchmark_job WatchBenchmarkJobRequest
]);

struct Stage {
    client: EvalServiceClient<Channel>,
    /// The first that the capabilities name.
    model: Option<String>,
}

impl Stage {
    async fn ask(
        &self,
        model: &str,
        items: Vec<pb::QuestionItem>,
    ) -> Result<Vec<pb::AnswerQuestionsResponse>, Status> {
        let model = pb::Candidate {
            model: Some(Model::ModelName(model.to_owned())),
            ..Default::default()
        };
        let request = pb::AnswerQuestionsRequest {
            model: Some(model),
            items,
            max_new_token_count: MAX_NEW_TOKENS,
        };
        collect(self.client.clone().answer_questions(request).await).await
    }

    async fn score(
        &self,
        questions: Vec<pb::BenchmarkQuestion>,
        answers: Vec<pb::ScoredAnswer>,
    ) -> Result<Vec<pb::ScoredAnswer>, Status> {
        let request = pb::ScoreAnswersRequest { questions, answers };
        Ok(self
            .client
            .clone()
            .score_answers(request)
            .await?
            .into_inner()
            .answers)
    }

    async fn scores(&self, ledger: &mut Ledger) {
        let rule = Rule::must(
            "scores_are_right",
            "ScoreAnswers gives 1 to a right answer and 0 to a wrong one, in the order of the request.",
            "match accepted answers as whole words, and `yes` or `no` for yes/no questions",
        );
        ledger
            .judge(rule, async {
                let questions = vec![
                    question("q1", QuestionKind::Wh, "fox"),
                    question("q2", QuestionKind::YesNo, "yes"),
                ];
                let given = [
                    ("q2", "Yes, it is.", 1.0),
                    ("q1", "It is a cat.", 0.0),
                    ("q1", "It is a fox.", 1.0),
                    ("q2", "No.", 0.0),
                ];
                let answers = given.map(|(id, text, _)| answer(id, text)).to_vec();
                let scored = self.score(questions, answers).await?;
                let got: Vec<(&str, &str, f64)> = scored
                    .iter()
                    .map(|one| (one.question_id.as_str(), one.text.as_str(), one.score))
                    .collect();
                holds(got == given, format!("{got:?}"))?;
                Ok("2 right, 2 wrong, in order".to_owned())
            })
            .await;
        let fox = || question("q1", QuestionKind::Wh, "fox");
        let refusal = Refusal::invalid(
            "answer_without_question",
            "An answer to no question",
            "answers",
        );
        ledger
            .refused(refusal, self.score(vec![fox()], vec![answer("q9", "fox")]))
            .await;
        let refusal = Refusal::invalid(
            "question_twice",
            "A question that is given twice",
            "questions",
        );
        ledger
            .refused(refusal, self.score(vec![fox(), fox()], Vec::new()))
            .await;
    }

    async fn refusals(&self, ledger: &mut Ledger) {
        let unknown = "no such model";
        let refusal = Refusal::not_found("unknown_model", "A model that is not served");
        ledger.refused(refusal, self.ask(unknown, items(1))).await;
        let refusal = Refusal::invalid("no_item", "A request without items", "items");
        let model = self.model.clone().unwrap_or_default();
        ledger.refused(refusal, self.ask(&model, Vec::new())).await;
        let request = pb::AnswerQuestionsRequest {
            model: None,
            items: items(1),
            max_new_token_count: 1,
        };
        let refusal = Refusal::invalid("no_model", "A request that names no model", "model");
        let call = async { collect(self.client.clone().answer_questions(request).await).await };
        ledger.refused(refusal, call).await;
    }

    async fn answers(&self, ledger: &mut Ledger) {
        let rule = Rule::must(
            "answers_in_order",
            "Each question has one answer, in the order of the request, within its tokens, beside the prompt as the model saw it.",
            "stream one answer or failure per question, in order, and fill rendered_prompt and token_count",
        );
        ledger.judge(rule, self.in_order()).await;
        let rule = Rule::must(
            "greedy_answers_repeat",
            "The same question gives the same answer, alone and among others.",
            "decode greedily, and mask what pads the shorter questions",
        );
        ledger.judge(rule, self.repeated()).await;
        let rule = Rule::must(
            "damaged_image_fails_alone",
            "A question whose image does not decode fails with a reason, and the others are answered.",
            "send an ItemFailure for the one and go on with the others",
        );
        ledger.judge(rule, self.damaged()).await;
    }

    async fn told(
        &self,
        items: Vec<pb::QuestionItem>,
    ) -> Result<Vec<(String, Option<Outcome>)>, Miss> {
        let model = self
            .model
            .as_ref()
            .ok_or_else(|| Miss::not_judged("the capabilities name no model"))?;
        let replies = self.ask(model, items).await?;
        Ok(replies
            .into_iter()
            .map(|reply| (reply.question_id, reply.result))
            .collect())
    }

    async fn in_order(&self) -> Seen {
        let told = self.told(items(3)).await?;
        let ids: Vec<&str> = told.iter().map(|(id, _)| id.as_str()).collect();
        holds(ids == ["q0", "q1", "q2"], format!("{ids:?}"))?;
        let mut words = Vec::new();
        for (id, result) in &told {
            let Some(Outcome::Answer(answer)) = result else {
                return Err(Miss::broken(format!("{id}: {result:?}")));
            };
            let bounded = (1..=MAX_NEW_TOKENS).contains(&answer.token_count);
            holds(
                bounded,
                format!("{} tokens of {MAX_NEW_TOKENS}", answer.token_count),
            )?;
            holds(
                answer.rendered_prompt.contains(QUESTION),
                format!("rendered as {:?}", answer.rendered_prompt),
            )?;
            words.push(answer.text.clone());
        }
        Ok(format!("{words:?}"))
    }

    async fn repeated(&self) -> Seen {
        let among = self.told(items(3)).await?;
        let alone = self.told(items(3).split_off(2)).await?;
        holds(among.get(2) == alone.first(), "the answers differ")?;
        Ok("question 2 as among 3".to_owned())
    }

    async fn damaged(&self) -> Seen {
        let mut items = items(2);
        items[0].images = vec![pictures::damaged()];
        match self.told(items).await?.as_slice() {
            [
                (_, Some(Outcome::Failure(failure))),
                (_, Some(Outcome::Answer(_))),
            ] => Ok(format!("{}: {}", failure.reason, failure.message)),
            other => Err(Miss::broken(format!("{other:?}"))),
        }
    }
}

const QUESTION: &str = "What color is the disc?";

fn items(count: usize) -> Vec<pb::QuestionItem> {
    let image: Vec<Image> = pictures::drawn([200, 20, 20]).into_iter().collect();
    let item = |index: usize| pb::QuestionItem {
        question_id: format!("q{index}"),
        images: image.clone(),
        text: QUESTION.to_owned(),
    };
    (0..count).map(item).collect()
}

fn question(id: &str, kind: QuestionKind, accepted: &str) -> pb::BenchmarkQuestion {
    pb::BenchmarkQuestion {
        question_id: id.to_owned(),
        ability: "animal".to_owned(),
        kind: kind.into(),
        image: "disc.png".to_owned(),
        text: "What animal is it?".to_owned(),
        answers: vec![accepted.to_owned()],
    }
}

fn answer(id: &str, text: &str) -> pb::ScoredAnswer {
    pb::ScoredAnswer {
        question_id: id.to_owned(),
        text: text.to_owned(),
        ..Default::default()
    }
}

fn trials(folder: &Path, model: Option<String>) -> Result<Trials<pb::EvaluationSpec>, Miss> {
    let model =
        model.ok_or_else(|| Miss::not_judged("the capabilities name no model to evaluate"))?;
    let unfit = |error: anyhow::Error| Miss::not_judged(format!("no benchmark: {error:#}"));
    let (few, many) = (folder.join("few"), folder.join("many"));
    benchmark(&few, 2)?;
    benchmark(&many, QUESTIONS)?;
    let place = |path: &Path| artefact(path, true).map_err(unfit);
    let spec = |model: &str, benchmark: &Path, output: &Path| {
        Ok::<_, Miss>(pb::EvaluationSpec {
            candidates: vec![pb::Candidate {
                name: "candidate".to_owned(),
                model: Some(Model::ModelName(model.to_owned())),
                replicas: Vec::new(),
            }],
            benchmarks: vec![pb::BenchmarkRef {
                name: "conformance".to_owned(),
                location: Some(Location::Folder(place(benchmark)?)),
            }],
            max_new_token_count: MAX_NEW_TOKENS,
            resample_count: 100,
            seed: 1,
            output: Some(place(output)?),
            // Its one picture cannot change places with another.
            skip_shuffled: true,
            ..pb::EvaluationSpec::default()
        })
    };
    let short = spec(&model, &few, &folder.join("short"))?;
    Ok(Trials {
        other: pb::EvaluationSpec {
            seed: 2,
            ..short.clone()
        },
        short,
        long: spec(&model, &many, &folder.join("long"))?,
        unknown_model: spec("no such model", &few, &folder.join("unknown"))?,
        outside: spec(&model, &few, Path::new("/nobody/named/this"))?,
    })
}

/// Writes a benchmark folder: as many questions about one picture.
fn benchmark(folder: &Path, question_count: usize) -> Result<(), Miss> {
    let picture = pictures::drawn([200, 20, 20])?;
    let line = |index: usize| {
        let line = serde_json::json!({
            "question_id": format!("color-{index}"), "ability": "color", "kind": "wh",
            "image": "disc.png", "text": QUESTION, "answers": ["red"],
        });
        format!("{line}\n")
    };
    let lines: String = (0..question_count).map(line).collect();
    let picture = pictures::inline(&picture)?;
    let written = fs::create_dir(folder)
        .and_then(|()| fs::write(folder.join("disc.png"), picture))
        .and_then(|()| fs::write(folder.join("questions.jsonl"), lines));
    written.map_err(|error| Miss::not_judged(format!("no benchmark: {error}")))
}
