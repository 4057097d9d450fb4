//! The gRPC edge of `ImageScoringService`: how well texts fit an image, and image embeddings, by CLIP.
//!
//! An embedding depends on the model, the bytes and, in its last bits, the instruction set; so it is
//! cached by these.

use std::sync::Arc;

use bytes::Bytes;
use models::clip_image::decode_rgb;
use models::ops::simd::Isa;
use models::weights::hex;
use proto::dataset::v1 as dataset;
use proto::diffusion::v1 as pb;
use proto::diffusion::v1::image_scoring_service_server::ImageScoringService;
use runtime::artefact::Roots;
use runtime::cache::{Cache, Key, Kind};
use runtime::error::chain;
use runtime::{RequestContext, item_failure, respond};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use crate::error::Error;
use crate::models_served::{Scorer, Served};

/// Images of one request.
const MAX_ITEMS: usize = 64;
/// Texts of one image.
const MAX_TEXTS: usize = 64;
/// The longest text, in bytes.
const MAX_TEXT_BYTES: usize = 32 << 10;
/// The largest image file, in bytes.
const MAX_IMAGE_BYTES: u64 = 32 << 20;

/// The service.
pub(crate) struct Scoring {
    served: Arc<Served>,
    roots: Arc<Roots>,
    cache: Cache,
    /// One computation at a time; the diffusion model has the other threads.
    device: Arc<Semaphore>,
}

#[derive(Clone, Copy)]
struct Measures {
    alignment: bool,
    embedding: bool,
}

impl Scoring {
    pub(crate) fn new(served: Arc<Served>, roots: Roots, cache: Cache) -> Self {
        Self {
            served,
            roots: Arc::new(roots),
            cache,
            device: Arc::new(Semaphore::new(1)),
        }
    }

    async fn score(
        &self,
        request: pb::ScoreImagesRequest,
        context: &RequestContext,
    ) -> Result<pb::ScoreImagesResponse, Error> {
        let scorer = self.served.scorer(&request.model)?;
        let measures = measures(&request.measures)?;
        if request.items.is_empty() || request.items.len() > MAX_ITEMS {
            let rule = format!("{} items; 1 to {MAX_ITEMS} are taken", request.items.len());
            return Err(Error::invalid("items", rule));
        }
        let mut scores = Vec::with_capacity(request.items.len());
        for (index, item) in request.items.into_iter().enumerate() {
            if context.is_cancelled() {
                return Err(Error::Left);
            }
            let score = self.score_item(&scorer, measures, index, item).await;
            scores.push(score.unwrap_or_else(|error| pb::ImageScore {
                failure: Some(item_failure(&error)),
                safety: pb::SafetyVerdict::NotChecked.into(),
                ..pb::ImageScore::default()
            }));
        }
        let model_sha256 = scorer.clip.sha256().to_owned();
        Ok(pb::ScoreImagesResponse {
            scores,
            model: scorer.name,
            model_sha256,
        })
    }

    async fn score_item(
        &self,
        scorer: &Scorer,
        measures: Measures,
        index: usize,
        item: pb::ScoreItem,
    ) -> Result<pb::ImageScore, Error> {
        let pb::ScoreItem { image, texts } = item;
        let place = |field: &str| format!("items[{index}].{field}");
        if texts.len() > MAX_TEXTS || texts.iter().any(|text| text.len() > MAX_TEXT_BYTES) {
            let rule = format!("at most {MAX_TEXTS} texts of {MAX_TEXT_BYTES} bytes are taken");
            return Err(Error::invalid(place("texts"), rule));
        }
        let image = image.ok_or_else(|| Error::invalid(place("image"), "is missing"))?;
        let bytes = self.read(image, place("image")).await?;
        let embedding = self.embed_image(scorer, bytes, place("image")).await?;
        let mut cosines = Vec::new();
        if measures.alignment {
            for text in texts {
                let text = self.embed_text(scorer, text).await?;
                cosines.push(embedding.iter().zip(&text).map(|(a, b)| a * b).sum());
            }
        }
        Ok(pb::ImageScore {
            alignment_cosine: cosines,
            embedding: if measures.embedding {
                embedding
            } else {
                Vec::new()
            },
            safety: pb::SafetyVerdict::NotChecked.into(),
            failure: None,
        })
    }

    /// The encoded file, inline or from under the artefact roots.
    async fn read(&self, image: dataset::Image, field: String) -> Result<Bytes, Error> {
        let artefact = match image.content {
            Some(dataset::image::Content::Data(data)) => return Ok(data),
            Some(dataset::image::Content::Artefact(artefact)) => artefact,
            None => return Err(Error::invalid(field, "has neither data nor artefact")),
        };
        let roots = self.roots.clone();
        let read = move || {
            let path = roots.resolve(&artefact)?;
            let unreadable = |e: std::io::Error| Error::Image {
                field: field.clone(),
                rule: e.to_string(),
            };
            let size = std::fs::metadata(&path).map_err(unreadable)?.len();
            if size > MAX_IMAGE_BYTES {
                return Err(Error::invalid(
                    &field,
                    format!("{size} bytes, at most {MAX_IMAGE_BYTES}"),
                ));
            }
            std::fs::read(&path).map(Bytes::from).map_err(unreadable)
        };
        blocking(read).await
    }

    async fn embed_image(
        &self,
        scorer: &Scorer,
        bytes: Bytes,
        field: String,
    ) -> Result<Vec<f32>, Error> {
        let key = Key::new(Kind::ImageEmbedding)
            .part("model", scorer.clip.sha256())
            .part("isa", Isa::current().name())
            .part("image", hex(&Sha256::digest(&bytes)));
        let clip = scorer.clip.clone();
        let compute = move || {
            let unreadable = |e| Error::Image {
                field: String::new(),
                rule: format!("cannot be read: {e}"),
            };
            let picture = decode_rgb(&bytes).map_err(unreadable)?;
            Ok(clip.embed_images(&[picture]).remove(0))
        };
        // The failure is shared, its place in the request is each caller's own.
        let placed = |error: Arc<Error>| match &*error {
            Error::Image { rule, .. } => Error::Image {
                field,
                rule: rule.clone(),
            },
            _ => Error::Shared(error),
        };
        let cached = self.cached(key, scorer.clip.dim(), compute).await;
        cached.map_err(placed)
    }

    async fn embed_text(&self, scorer: &Scorer, text: String) -> Result<Vec<f32>, Error> {
        let key = Key::new(Kind::TextEmbedding)
            .part("model", scorer.clip.sha256())
            .part("isa", Isa::current().name())
            .part("text", &text);
        let clip = scorer.clip.clone();
        let compute = move || {
            clip.embed_text(&text)
                .map_err(|error| Error::ScoringModel(Box::new(error)))
        };
        let cached = self.cached(key, scorer.clip.dim(), compute).await;
        cached.map_err(Error::Shared)
    }

    /// The vector under `key`, computed on a thread of its own when it is not there; callers that ask
    /// for the same one at the same time share the computation.
    async fn cached(
        &self,
        key: Key,
        dim: usize,
        compute: impl FnOnce() -> Result<Vec<f32>, Error> + Send + 'static,
    ) -> Result<Vec<f32>, Arc<Error>> {
        let device = Arc::clone(&self.device);
        let fill = async move {
            let permit = device.acquire_owned().await.map_err(|_| Error::Stopping)?;
            let compute = move || {
                // Given back when the computation has ended, whether or not its caller is still here.
                let _permit = permit;
                compute()
            };
            let vector = blocking(compute).await?;
            let bytes: Vec<u8> = vector.iter().flat_map(|v| v.to_le_bytes()).collect();
            Ok(Bytes::from(bytes))
        };
        let is_sound = |bytes: &Bytes| bytes.len() == dim * size_of::<f32>();
        let found = self.cache.get_or_compute(&key, is_sound, fill).await?;
        let (values, _) = found.as_chunks::<4>();
        Ok(values.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }
}

#[tonic::async_trait]
impl ImageScoringService for Scoring {
    async fn score_images(
        &self,
        request: Request<pb::ScoreImagesRequest>,
    ) -> Result<Response<pb::ScoreImagesResponse>, Status> {
        let context = RequestContext::of(&request);
        let scores = self.score(request.into_inner(), &context).await;
        scores.map(Response::new).map_err(|error| respond(&error))
    }
}

fn measures(asked: &[i32]) -> Result<Measures, Error> {
    let mut measures = Measures {
        alignment: false,
        embedding: false,
    };
    if asked.is_empty() {
        return Err(Error::invalid("measures", "names no measure"));
    }
    for value in asked {
        match pb::ScoreMeasure::try_from(*value) {
            Ok(pb::ScoreMeasure::Alignment) => measures.alignment = true,
            Ok(pb::ScoreMeasure::Embedding) => measures.embedding = true,
            // Answered with NOT_CHECKED.
            Ok(pb::ScoreMeasure::Safety) => {}
            Ok(pb::ScoreMeasure::Unspecified) | Err(_) => {
                return Err(Error::invalid(
                    "measures",
                    format!("{value} is not a measure"),
                ));
            }
        }
    }
    Ok(measures)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(Error::Task(chain(&panic))))
}
