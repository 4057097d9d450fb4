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
    benchmark::{self, Picture},
    error::Error,
    places::Places,
    spec::{self, ModelRef},
};

/// Pictures that one question may show.
const MAX_IMAGES_PER_ITEM: usize = 8;
/// Pixels of all pictures of one question: 96 MiB when they are decoded.
const MAX_ITEM_PIXELS: u64 = 32 << 20;
/// A batch that has so many pixels takes no further question: a few bytes can decode to 48 MiB. What
/// a stream holds decoded stays below this and one question more.
const FULL_BATCH_PIXELS: u64 = 32 << 20;
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
            let all: Arc<[pb::QuestionItem]> = questions.items.into();
            let mut done = 0;
            while done < all.len() {
                let (places, items) = (Arc::clone(&self.places), Arc::clone(&all));
                let asks = blocking(move || batch(&places, &items[done..]))
                    .await
                    .map_err(|error| respond(&error))?;
                let items = &all[done..done + asks.len()];
                done += asks.len();
                let good = asks.iter().filter_map(|ask| ask.as_ref().ok().cloned()).collect();
                let outcomes = self.answering.answer(&model, good, questions.max_new_token_count, &cancelled).await;
                let mut outcomes = outcomes.map_err(|error| respond(&error))?.into_iter();
                for (item, ask) in items.iter().zip(asks) {
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

/// The first of these items, as many as are asked together, with their pictures read.
fn batch(places: &Places, items: &[pb::QuestionItem]) -> Vec<Result<Ask, Error>> {
    let mut asks = Vec::new();
    let mut pixel_count = 0;
    for item in items.iter().take(BATCH_SIZE) {
        let ask = ask(places, item);
        pixel_count += ask.as_ref().map_or(0, Ask::pixel_count);
        asks.push(ask);
        if pixel_count >= FULL_BATCH_PIXELS {
            break;
        }
    }
    asks
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
    let mut ask = Ask {
        pictures: Vec::with_capacity(images.len()),
        text: text.clone(),
    };
    for (index, image) in images.iter().enumerate() {
        ask.pictures.push(picture(places, index, image)?);
        if ask.pixel_count() > MAX_ITEM_PIXELS {
            let rule = format!("may have at most {MAX_ITEM_PIXELS} pixels together");
            return Err(Error::invalid("images", rule));
        }
    }
    Ok(ask)
}

fn picture(places: &Places, index: usize, image: &Image) -> Result<Arc<Picture>, Error> {
    let field = format!("images[{index}]");
    let decoded = match &image.content {
        Some(Content::Data(bytes)) => {
            Picture::decode(bytes).map_err(|reason| Error::invalid(field, reason))
        }
        Some(Content::Artefact(artefact)) => {
            // Before the hash is compared, for which all of the file is read.
            let path = places.roots().locate(&artefact.uri)?;
            Picture::check_file(&path).map_err(|error| refused(&field, error))?;
            let path = places.roots().resolve(artefact)?;
            Picture::read(&path).map_err(|error| refused(&field, error))
        }
        None => Err(Error::invalid(field, "it has no content")),
    };
    Ok(Arc::new(decoded?))
}

/// What is wrong with the file of a field.
fn refused(field: &str, error: benchmark::Error) -> Error {
    match error {
        benchmark::Error::Read { path, source } => Error::io("read", path)(source),
        benchmark::Error::Picture { reason, .. } => Error::invalid(field, reason),
        other => Error::invalid(field, other.to_string()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    /// A question that shows grey pictures of these sizes.
    fn item(sizes_px: &[(u32, u32)]) -> pb::QuestionItem {
        let image = |&(width_px, height_px): &(u32, u32)| {
            let mut file = std::io::Cursor::new(Vec::new());
            image::GrayImage::new(width_px, height_px)
                .write_to(&mut file, image::ImageFormat::Png)
                .expect("encodes");
            Image {
                content: Some(Content::Data(file.into_inner().into())),
                ..Image::default()
            }
        };
        pb::QuestionItem {
            question_id: "q".into(),
            images: sizes_px.iter().map(image).collect(),
            text: "What is it?".into(),
        }
    }

    #[test]
    fn a_batch_ends_where_its_pixels_do_and_a_question_with_too_many_is_refused() {
        let places = Places::open(&Options::default()).expect("none");
        // 12 megapixels in a small file.
        let large = item(&[(4096, 3072)]);
        let Some(Content::Data(bytes)) = &large.images[0].content else {
            panic!("no data")
        };
        assert!(bytes.len() < 1_000_000, "{}", bytes.len());
        let asks = batch(&places, &vec![large; 32]);
        assert_eq!(asks.len(), 3);
        assert!(asks.iter().all(Result::is_ok));
        let small = item(&[(32, 32); 2]);
        assert_eq!(batch(&places, &vec![small; 40]).len(), BATCH_SIZE);

        for (sizes_px, says) in [
            (&[(4096, 3072); 3][..], "images: may have at most"),
            (
                &[(32, 32), (8192, 2049)][..],
                "images[1]: 8192 x 2049 pixels",
            ),
        ] {
            let refused = ask(&places, &item(sizes_px)).expect_err("refused");
            assert!(refused.to_string().starts_with(says), "{refused}");
            let kind = runtime::ServiceError::kind(&refused);
            assert!(
                matches!(kind, runtime::Kind::InvalidArgument(_)),
                "{kind:?}"
            );
        }
    }
}
