//! The exchange with the server: OpenAI's `images/generations`, and what comes of it.
//!
//! Source: the OpenAPI description of OpenAI's `/v1/images/generations`; vLLM-Omni, SGLang and
//! stable-diffusion.cpp serve the same path.

use std::sync::atomic::{AtomicBool, Ordering};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use models::clip_image::decode_rgb;
use models::stable_diffusion::Picture;
use models::weights::hex;
use proto::dataset::v1::Provenance;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::wanted::RemoteRequest;
use crate::error::Error;
use crate::picture::Rendered;

const PATH: &str = "images/generations";

/// How often one picture is asked for when what comes is none.
const MAX_TRIES: usize = 3;

/// One model of one server.
pub(super) struct Server {
    client: llm::Client,
    /// Whether `response_format` is sent. Older models of OpenAI's give addresses without it, newer
    /// ones do not know it and always give the picture.
    names_format: AtomicBool,
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    prompt: &'a str,
    n: u32,
    size: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    negative_prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_inference_steps: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guidance_scale: Option<f32>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    data: Vec<Datum>,
}

#[derive(Deserialize)]
struct Datum {
    b64_json: Option<String>,
    revised_prompt: Option<String>,
}

/// A file as it came.
struct Delivered {
    file: Vec<u8>,
    revised_prompt: Option<String>,
}

impl Server {
    pub(super) fn new(client: llm::Client) -> Self {
        Self {
            client,
            names_format: AtomicBool::new(true),
        }
    }

    /// Asks for one picture until it comes, or the client's patience is over.
    ///
    /// # Errors
    /// [`Error::Remote`], and [`Error::Unusable`] for what is no picture, or one of another size.
    pub(super) async fn picture(&self, request: &RemoteRequest) -> Result<Rendered, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let delivered = self.delivered(request).await?;
            let (model, request) = (self.client.model().to_owned(), request.clone());
            let read = move || rendered(&model, &request, &delivered);
            let read = tokio::task::spawn_blocking(read).await;
            match read.unwrap_or_else(|panic| Err(Error::Task(panic.to_string()))) {
                Err(Error::Unusable(reason)) if tries < MAX_TRIES => {
                    tracing::debug!(reason, "asking the image model again");
                }
                end => return end,
            }
        }
    }

    async fn delivered(&self, request: &RemoteRequest) -> Result<Delivered, Error> {
        loop {
            let names_format = self.names_format.load(Ordering::Relaxed);
            let body = self.body(request, names_format);
            match self.client.call(PATH, &body, read).await {
                Err(llm::Error::Refused { message, .. })
                    if names_format && message.contains("response_format") =>
                {
                    self.names_format.store(false, Ordering::Relaxed);
                }
                answered => return Ok(answered?),
            }
        }
    }

    fn body<'a>(&'a self, request: &'a RemoteRequest, names_format: bool) -> Body<'a> {
        let extras = request.extras.as_ref();
        Body {
            model: self.client.model(),
            prompt: &request.prompt,
            n: 1,
            size: request.size.to_string(),
            response_format: names_format.then_some("b64_json"),
            seed: extras.map(|extras| extras.seed),
            negative_prompt: extras
                .map(|extras| extras.negative_prompt.as_str())
                .filter(|text| !text.is_empty()),
            num_inference_steps: extras.map(|extras| extras.steps).filter(|steps| *steps > 0),
            guidance_scale: extras.and_then(|extras| extras.guidance),
        }
    }
}

/// The file in an answer.
fn read(answer: &[u8]) -> Result<Delivered, llm::Error> {
    let malformed = |reason: String| llm::Error::Malformed { reason };
    let answer: Answer =
        serde_json::from_slice(answer).map_err(|error| malformed(format!("no images: {error}")))?;
    let datum = answer.data.into_iter().next();
    let datum = datum.ok_or_else(|| malformed("no image in it".to_owned()))?;
    let text = datum.b64_json;
    let text = text.ok_or_else(|| malformed("an image without b64_json".to_owned()))?;
    let file = STANDARD.decode(text.trim());
    let file = file.map_err(|error| malformed(format!("b64_json is none: {error}")))?;
    Ok(Delivered {
        file,
        revised_prompt: datum.revised_prompt.filter(|text| !text.is_empty()),
    })
}

/// The picture of a file, with what is known of its origin. It is written anew, so that the file
/// itself says that a model made it.
fn rendered(
    model: &str,
    request: &RemoteRequest,
    delivered: &Delivered,
) -> Result<Rendered, Error> {
    let decoded = decode_rgb(&delivered.file)
        .map_err(|error| Error::Unusable(format!("what came is no PNG or JPEG: {error}")))?;
    let (width, height) = decoded.dimensions();
    if (width, height) != (request.size.width_px, request.size.height_px) {
        let rule = format!("{} was asked for, {width}x{height} came", request.size);
        return Err(Error::Unusable(rule));
    }
    let picture = Picture {
        width_px: width as usize,
        height_px: height as usize,
        rgb: decoded.into_raw(),
    };
    Rendered::elsewhere(&picture, provenance(model, request, delivered))
}

/// What is known: no hash of the weights, and no seed unless the server takes one.
fn provenance(model: &str, request: &RemoteRequest, delivered: &Delivered) -> Provenance {
    let extras = request.extras.as_ref();
    let mut parameters = vec![
        ("prompt", request.prompt.clone()),
        ("width_px", request.size.width_px.to_string()),
        ("height_px", request.size.height_px.to_string()),
        ("delivered_sha256", hex(&Sha256::digest(&delivered.file))),
    ];
    parameters.extend(
        delivered
            .revised_prompt
            .clone()
            .map(|text| ("revised_prompt", text)),
    );
    if let Some(extras) = extras {
        parameters.push(("negative_prompt", extras.negative_prompt.clone()));
        let steps = Some(extras.steps).filter(|steps| *steps > 0);
        parameters.extend(steps.map(|steps| ("steps", steps.to_string())));
        parameters.extend(extras.guidance.map(|scale| ("guidance", scale.to_string())));
    }
    let parameters = parameters.into_iter();
    Provenance {
        producer: "diffusion/openai-images".to_owned(),
        code_version: env!("CARGO_PKG_VERSION").to_owned(),
        model: model.to_owned(),
        model_sha256: String::new(),
        seed: extras.map_or(0, |extras| extras.seed),
        seeded: extras.is_some(),
        parameters: parameters
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        parent_sha256: vec![hex(&Sha256::digest(&request.prompt))],
    }
}
