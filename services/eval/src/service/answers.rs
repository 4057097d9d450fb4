//! AnswerQuestions: questions in batches, answers in their order.

use std::sync::Arc;

use async_stream::try_stream;
use futures::Stream;
use proto::{
    dataset::v1::{Image, image::Content},
    eval::v1::{self as pb, answer_questions_response as answered},
};
use runtime::{item_failure, respond};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Eval;
use crate::{
    answering::{Ask, BATCH_SIZE, Model, Outcome, blocking},
    benchmark::Picture,
    error::Error,
    places::Places,
    spec::{self, ModelRef},
};

/// Pictures that one question may show.
const MAX_IMAGES_PER_ITEM: usize = 8;
/// Longest question, in bytes.
const MAX_TEXT_BYTES: usize = 16 << 10;

/// A checked request for answers.
pub(super) struct Questions {
    pub(super) model: ModelRef,
    items: Vec<pb::QuestionItem>,
    max_new_token_count: u32,
}

impl TryFrom<(pb::AnswerQuestionsRequest, u32)> for Questions {
    type Error = Error;

    fn try_from((request, max_items): (pb::AnswerQuestionsRequest, u32)) -> Result<Self, Error> {
        let pb::AnswerQuestionsRequest {
            model,
            items,
            max_new_token_count,
        } = request;
        if items.is_empty() || items.len() > max_items as usize {
            return Err(Error::invalid(
                "items",
                format!("there must be 1 to {max_items}"),
            ));
        }
        Ok(Self {
            model: spec::single_model("model", model)?,
            items,
            max_new_token_count: spec::new_token_count("max_new_token_count", max_new_token_count)?,
        })
    }
}

impl Eval {
    /// The answers as they come, until the caller has left.
    pub(super) fn stream(
        self,
        questions: Questions,
        model: Arc<Model>,
        cancelled: CancellationToken,
        permit: OwnedSemaphorePermit,
    ) -> impl Stream<Item = Result<pb::AnswerQuestionsResponse, Status>> {
        try_stream! {
            let _permit = permit;
            for batch in questions.items.chunks(BATCH_SIZE) {
                let (places, items) = (Arc::clone(&self.places), batch.to_vec());
                let asks = blocking(move || items.iter().map(|item| ask(&places, item)).collect::<Vec<_>>())
                    .await
                    .map_err(|error| respond(&error))?;
                let good = asks.iter().filter_map(|ask| ask.as_ref().ok().cloned()).collect();
                let outcomes = self.answering.answer(&model, good, questions.max_new_token_count, &cancelled).await;
                let mut outcomes = outcomes.map_err(|error| respond(&error))?.into_iter();
                for (item, ask) in batch.iter().zip(asks) {
                    let outcome = match ask {
                        Ok(_) => outcomes.next().unwrap_or_else(|| Err(Arc::new(Error::Cancelled))),
                        Err(error) => Err(Arc::new(error)),
                    };
                    yield response(&item.question_id, outcome);
                }
            }
        }
    }
}

/// An item with its pictures read.
fn ask(places: &Places, item: &pb::QuestionItem) -> Result<Ask, Error> {
    let pb::QuestionItem { images, text, .. } = item;
    if text.trim().is_empty() || text.len() > MAX_TEXT_BYTES {
        return Err(Error::invalid(
            "text",
            format!("must have 1 to {MAX_TEXT_BYTES} bytes"),
        ));
    }
    if images.len() > MAX_IMAGES_PER_ITEM {
        return Err(Error::invalid(
            "images",
            format!("there may be at most {MAX_IMAGES_PER_ITEM}"),
        ));
    }
    let pictures = images
        .iter()
        .enumerate()
        .map(|(index, image)| picture(places, index, image));
    Ok(Ask {
        pictures: pictures.collect::<Result<_, _>>()?,
        text: text.clone(),
    })
}

fn picture(places: &Places, index: usize, image: &Image) -> Result<Arc<Picture>, Error> {
    let field = format!("images[{index}]");
    let decoded = match &image.content {
        Some(Content::Data(bytes)) => Picture::decode(bytes),
        Some(Content::Artefact(artefact)) => {
            let path = places.roots().resolve(artefact)?;
            Picture::decode(&std::fs::read(&path).map_err(Error::io("read", &path))?)
        }
        None => Err("it has no content".into()),
    };
    Ok(Arc::new(
        decoded.map_err(|reason| Error::invalid(field, reason))?,
    ))
}

fn response(question_id: &str, outcome: Outcome) -> pb::AnswerQuestionsResponse {
    let result = match outcome {
        Ok(answer) => answered::Result::Answer(pb::Answer {
            text: answer.text,
            rendered_prompt: answer.rendered_prompt,
            token_count: answer.token_count,
        }),
        Err(error) => answered::Result::Failure(item_failure(error.as_ref())),
    };
    pb::AnswerQuestionsResponse {
        question_id: question_id.to_owned(),
        result: Some(result),
    }
}
