//! The calls of synthesis, one function per stage. Each asks for a set of items, takes what the
//! stream gives, and asks again for what is missing, so that a service that was restarted
//! midway costs only the items it had not sent.

mod calls;

use anyhow::{Context as _, Result, anyhow};
use prost::Message as _;
use proto::{
    dataset::v1::{Ability, Conversation, Image, ItemFailure, Prompt},
    dialogue::v1::{
        CheckDialogueRequest, DialogueItem, WriteDialoguesRequest, write_dialogues_response,
    },
    diffusion::v1::{
        GenerateImagesRequest, ImageItem, SafetyVerdict, SamplingSettings, ScoreImagesRequest,
        ScoreItem, ScoreMeasure, generate_images_response,
    },
    promptgen::v1::{
        EmbedTextsRequest, GeneratePromptsRequest, GetAbilityRequest, PromptItem,
        generate_prompts_response,
    },
};
use tonic::{Code, Status};

pub(crate) use self::calls::Outcomes;
use self::calls::{Message, collect};
pub(super) use self::calls::{is_unimplemented, is_worth_retrying, unary};
use crate::{
    recipe::{DialogueSettings, ImageSettings, MeasuringModels, PromptSyntax},
    suite::Suite,
};

/// A picture and what the checkpoint's own safety checker said of it.
pub(crate) struct Rendered {
    pub(crate) image: Image,
    pub(super) safety: SafetyVerdict,
}

/// Prompts in one request: a partition of samples with several pictures asks for more than a service
/// of somebody else's may take.
const MAX_PROMPTS: usize = 64;
/// Pictures in one request: services take 256, and a foreign one may take fewer than a partition
/// with several seeds per prompt has.
const MAX_IMAGES: usize = 64;
/// Bytes of pictures in one request for dialogues; services take messages of 16 MiB.
const MAX_DIALOGUE_BYTES: usize = 8 << 20;

/// What promptgen says of an ability; nothing where it does not know it, which it says itself when it
/// is asked for prompts.
pub(crate) async fn ability(suite: &Suite, name: &str) -> Result<Ability> {
    let request = GetAbilityRequest {
        name: name.to_owned(),
    };
    let reply = unary("promptgen", || {
        let (mut client, request) = (suite.promptgen.clone(), request.clone());
        async move {
            let reply = client.get_ability(request).await;
            let is_unknown =
                |status: &Status| matches!(status.code(), Code::NotFound | Code::Unimplemented);
            match reply {
                Err(status) if is_unknown(&status) => Ok(tonic::Response::new(Default::default())),
                reply => reply,
            }
        }
    })
    .await?;
    Ok(reply.ability.unwrap_or_default())
}

/// Pictures of one sample of an ability, 1 or more.
pub(super) async fn picture_count(suite: &Suite, name: &str) -> Result<u32> {
    Ok(ability(suite, name).await?.images_per_sample.max(1))
}

/// Asks promptgen for prompts, in requests that services take.
pub(crate) async fn prompts(
    suite: &Suite,
    request: GeneratePromptsRequest,
) -> Result<Outcomes<Prompt>> {
    let mut outcomes = Outcomes::new();
    for some in request.items.chunks(MAX_PROMPTS) {
        outcomes.extend(some_prompts(suite, &request, some.to_vec()).await?);
    }
    Ok(outcomes)
}

async fn some_prompts(
    suite: &Suite,
    request: &GeneratePromptsRequest,
    items: Vec<PromptItem>,
) -> Result<Outcomes<Prompt>> {
    collect(
        "promptgen",
        items,
        |item| &item.sample_id,
        |items| {
            let mut client = suite.promptgen.clone();
            let request = GeneratePromptsRequest {
                items,
                ..request.clone()
            };
            async move {
                client
                    .generate_prompts(request)
                    .await
                    .map(tonic::Response::into_inner)
            }
        },
        |message| match message.result {
            Some(generate_prompts_response::Result::Prompt(prompt)) => {
                Message::Done(message.sample_id, Ok(prompt))
            }
            Some(generate_prompts_response::Result::Failure(failure)) => {
                Message::Done(message.sample_id, Err(failure))
            }
            None => Message::Pending,
        },
    )
    .await
}

/// Asks diffusion for pictures, and tells `on_done` of each that came.
pub(crate) async fn images(
    suite: &Suite,
    settings: &ImageSettings,
    items: Vec<ImageItem>,
    on_done: impl Fn() + Copy,
) -> Result<Outcomes<Rendered>> {
    let mut outcomes = Outcomes::new();
    for some in items.chunks(MAX_IMAGES) {
        outcomes.extend(some_images(suite, settings, some.to_vec(), on_done).await?);
    }
    Ok(outcomes)
}

async fn some_images(
    suite: &Suite,
    settings: &ImageSettings,
    items: Vec<ImageItem>,
    on_done: impl Fn() + Copy,
) -> Result<Outcomes<Rendered>> {
    collect(
        "diffusion",
        items,
        |item| &item.sample_id,
        |items| {
            let mut client = suite.diffusion.clone();
            let request = GenerateImagesRequest {
                model: settings.model.clone(),
                items,
                settings: Some(sampling(settings)),
                report_progress: false,
                client: String::new(),
            };
            async move {
                client
                    .generate_images(request)
                    .await
                    .map(tonic::Response::into_inner)
            }
        },
        |message| match message.result {
            Some(generate_images_response::Result::Image(generated)) => {
                match generated.image.clone() {
                    Some(image) => {
                        on_done();
                        let safety = generated.safety();
                        Message::Done(message.sample_id, Ok(Rendered { image, safety }))
                    }
                    None => Message::Done(
                        message.sample_id,
                        Err(failure("EMPTY_RESULT", "the reply holds no image")),
                    ),
                }
            }
            Some(generate_images_response::Result::Failure(failure)) => {
                Message::Done(message.sample_id, Err(failure))
            }
            Some(generate_images_response::Result::Progress(_)) | None => Message::Pending,
        },
    )
    .await
}

/// Asks dialogue for conversations, in requests that services take.
pub(crate) async fn dialogues(
    suite: &Suite,
    seed: u64,
    settings: &DialogueSettings,
    items: Vec<DialogueItem>,
) -> Result<Outcomes<Conversation>> {
    let mut outcomes = Outcomes::new();
    let mut request = Vec::new();
    let mut size_bytes = 0;
    for item in items {
        let item_bytes = item.encoded_len();
        if size_bytes + item_bytes > MAX_DIALOGUE_BYTES && !request.is_empty() {
            let items = std::mem::take(&mut request);
            outcomes.extend(some_dialogues(suite, seed, settings, items).await?);
            size_bytes = 0;
        }
        size_bytes += item_bytes;
        request.push(item);
    }
    outcomes.extend(some_dialogues(suite, seed, settings, request).await?);
    Ok(outcomes)
}

async fn some_dialogues(
    suite: &Suite,
    seed: u64,
    settings: &DialogueSettings,
    items: Vec<DialogueItem>,
) -> Result<Outcomes<Conversation>> {
    collect(
        "dialogue",
        items,
        |item| &item.sample_id,
        |items| {
            let mut client = suite.dialogue.clone();
            let request = WriteDialoguesRequest {
                items,
                seed,
                kinds: Vec::new(),
                round_count: settings.rounds,
            };
            async move {
                client
                    .write_dialogues(request)
                    .await
                    .map(tonic::Response::into_inner)
            }
        },
        |message| match message.result {
            Some(write_dialogues_response::Result::Conversation(conversation)) => {
                Message::Done(message.sample_id, Ok(conversation))
            }
            Some(write_dialogues_response::Result::Failure(failure)) => {
                Message::Done(message.sample_id, Err(failure))
            }
            None => Message::Pending,
        },
    )
    .await
}

/// Holds a conversation against its facts: one sentence per disagreement.
pub(super) async fn disagreements(
    suite: &Suite,
    conversation: Conversation,
    prompts: Vec<Prompt>,
) -> Result<Vec<String>> {
    let request = CheckDialogueRequest {
        conversation: Some(conversation),
        prompts,
    };
    let reply = unary("dialogue", || {
        let (mut client, request) = (suite.dialogue.clone(), request.clone());
        async move { client.check_dialogue(request).await }
    })
    .await?;
    Ok(reply
        .disagreements
        .into_iter()
        .map(|found| found.reason)
        .collect())
}

/// What a model measures of a picture.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Cosines with the texts, in their order.
    pub(super) cosines: Vec<f32>,
    /// Unit vector of the picture; empty where it was not asked for.
    pub(super) vector: Vec<f32>,
}

/// Measures a picture against texts; `None` where no model does, a failure where this picture cannot
/// be measured.
pub(super) async fn measure(
    suite: &Suite,
    model: &str,
    image: Image,
    texts: Vec<String>,
    wants_vector: bool,
) -> Result<Result<Option<Measured>, ItemFailure>> {
    let text_count = texts.len();
    let mut measures = vec![ScoreMeasure::Alignment.into()];
    measures.extend(wants_vector.then_some(i32::from(ScoreMeasure::Embedding)));
    let request = ScoreImagesRequest {
        items: vec![ScoreItem {
            image: Some(image),
            texts,
        }],
        measures,
        model: model.to_owned(),
    };
    let reply = unary("image scoring", || {
        let (mut client, request) = (suite.scoring.clone(), request.clone());
        async move { client.score_images(request).await }
    })
    .await;
    match reply {
        Ok(reply) => match reply.scores.into_iter().next() {
            Some(score) => Ok(match score.failure {
                None => sound(score.alignment_cosine, score.embedding, text_count).map(Some),
                Some(failure) => Err(failure),
            }),
            None => Err(anyhow!("image scoring answered without a score")),
        },
        Err(error) if is_unimplemented(&error) => Ok(Ok(None)),
        Err(error) => Err(error),
    }
}

/// Asks whether a picture is safe; NOT_CHECKED where no model tells, a failure where this picture
/// cannot be looked at.
pub(super) async fn safety(
    suite: &Suite,
    models: &MeasuringModels,
    image: Image,
) -> Result<Result<SafetyVerdict, ItemFailure>> {
    let request = ScoreImagesRequest {
        items: vec![ScoreItem {
            image: Some(image),
            texts: Vec::new(),
        }],
        measures: vec![ScoreMeasure::Safety.into()],
        model: String::new(),
    };
    let reply = unary("image scoring", || {
        let (mut client, request) = (suite.scoring.clone(), request.clone());
        async move { client.score_images(request).await }
    })
    .await;
    let reply = match reply {
        Err(error) if is_unimplemented(&error) => return Ok(Ok(SafetyVerdict::NotChecked)),
        reply => reply?,
    };
    let asked = &models.safety_model;
    if !asked.is_empty() && *asked != reply.safety_model {
        return Err(anyhow!(
            "the recipe asks for safety by `{asked}`, the endpoint has `{}`",
            reply.safety_model
        ));
    }
    let score = reply.scores.into_iter().next();
    let score = score.with_context(|| "image scoring answered without a score")?;
    Ok(match &score.failure {
        Some(failure) => Err(failure.clone()),
        None => Ok(score.safety()),
    })
}

/// What was measured, if it is what was asked for: a cosine that is no number would pass every bound.
fn sound(cosines: Vec<f32>, vector: Vec<f32>, text_count: usize) -> Result<Measured, ItemFailure> {
    let is_finite = cosines.iter().chain(&vector).all(|value| value.is_finite());
    // An endpoint without a model for alignment gives none.
    let is_whole = cosines.is_empty() || cosines.len() == text_count;
    match is_finite && is_whole {
        true => Ok(Measured { cosines, vector }),
        false => Err(failure(
            "MALFORMED_ITEM",
            "the scores are not as many as the texts, or no numbers",
        )),
    }
}

/// Unit vectors of texts, in their order; `None` where no model embeds texts.
pub(super) async fn embeddings(
    suite: &Suite,
    model: &str,
    texts: Vec<String>,
) -> Result<Option<Vec<Vec<f32>>>> {
    let count = texts.len();
    let request = EmbedTextsRequest {
        texts,
        model: model.to_owned(),
    };
    let reply = unary("text embedding", || {
        let (mut client, request) = (suite.embedding.clone(), request.clone());
        async move { client.embed_texts(request).await }
    })
    .await;
    match reply {
        Ok(reply) if reply.embeddings.len() == count => {
            let vectors = reply.embeddings.into_iter().map(|vector| vector.values);
            Ok(Some(vectors.collect()))
        }
        Ok(reply) => Err(anyhow!(
            "text embedding answered {} vectors for {count} texts",
            reply.embeddings.len()
        )),
        Err(error) if is_unimplemented(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A failure of one item that asking again does not mend.
pub(super) fn failure(reason: &str, message: &str) -> ItemFailure {
    ItemFailure {
        reason: reason.to_owned(),
        message: message.to_owned(),
        retryable: false,
    }
}

fn sampling(settings: &ImageSettings) -> SamplingSettings {
    SamplingSettings {
        step_count: settings.steps,
        guidance_scale: Some(settings.guidance),
        width_px: settings.width_px,
        height_px: settings.height_px,
        prompt_syntax: settings.prompt_syntax.into_proto().into(),
        ..SamplingSettings::default()
    }
}

impl PromptSyntax {
    /// The schema's name for it.
    pub fn into_proto(self) -> proto::dataset::v1::PromptSyntax {
        match self {
            Self::Plain => proto::dataset::v1::PromptSyntax::Plain,
            Self::Webui => proto::dataset::v1::PromptSyntax::Webui,
        }
    }
}
