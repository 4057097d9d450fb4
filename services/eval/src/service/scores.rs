//! ScoreAnswers: whether answers are right, with no model asked.

use std::collections::HashMap;

use proto::eval::v1 as pb;

use crate::{benchmark::Question, error::Error, scoring::judge};

/// Scores answers to the questions beside them.
///
/// # Errors
/// A question that is damaged or given twice, an answer to none.
pub(super) fn score(request: pb::ScoreAnswersRequest) -> Result<Vec<pb::ScoredAnswer>, Error> {
    let pb::ScoreAnswersRequest { questions, answers } = request;
    let mut known = HashMap::new();
    for (index, question) in questions.into_iter().enumerate() {
        let field = format!("questions[{index}]");
        let question =
            Question::try_from(question).map_err(|reason| Error::invalid(&field, reason))?;
        if let Some(earlier) = known.insert(question.question_id.clone(), question) {
            return Err(Error::invalid(
                field,
                format!("question_id {:?} was given before", earlier.question_id),
            ));
        }
    }
    let judged = answers.into_iter().enumerate().map(|(index, answer)| {
        let question = known.get(&answer.question_id).ok_or_else(|| {
            Error::invalid(
                format!("answers[{index}]"),
                format!("there is no question {:?}", answer.question_id),
            )
        })?;
        Ok(pb::ScoredAnswer {
            score: judge(question, &answer.text).score(),
            ..answer
        })
    });
    judged.collect()
}

impl TryFrom<pb::BenchmarkQuestion> for Question {
    type Error = String;

    fn try_from(question: pb::BenchmarkQuestion) -> Result<Self, String> {
        let kind = question.kind();
        let pb::BenchmarkQuestion {
            question_id,
            ability,
            image,
            text,
            answers,
            ..
        } = question;
        if question_id.is_empty() {
            return Err("question_id is empty".into());
        }
        if answers.iter().all(|answer| answer.trim().is_empty()) {
            return Err("answers is empty: no answer could be right".into());
        }
        Ok(Self {
            question_id,
            ability,
            kind,
            image,
            text,
            answers,
        })
    }
}
