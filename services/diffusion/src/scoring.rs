//! The gRPC edge of `ImageScoringService`: how well texts fit an image, image embeddings, and safety.
//!
//! An embedding, or how unsafe an image is, depends on the model, the bytes and, in its last bits, the
//! instruction set; so it is cached by these.

use std::sync::Arc;

use bytes::Bytes;
use models::clip_image::{RgbImage, decode_rgb};
use models::ops::simd::Isa;
use models::weights::hex;
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
use crate::image_input::read;
use crate::models_served::{Safety, Scorer, Served};

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
    safety: bool,
}

/// The models that one request is answered by.
struct Bench {
    measures: Measures,
    /// Absent only where safety alone is measured.
    scorer: Option<Scorer>,
    /// Absent where it is not measured, or there is none.
    safety: Option<Safety>,
}

impl Scoring {
    pub(crate) fn new(served: Arc<Served>, roots: Arc<Roots>, cache: Cache) -> Self {
        Self {
            served,
            roots,
            cache,
            device: Arc::new(Semaphore::new(1)),
        }
    }

    async fn score(
        &self,
        request: pb::ScoreImagesRequest,
        context: &RequestContext,
    ) -> Result<pb::ScoreImagesResponse, Error> {
        let bench = self.bench(&request)?;
        if request.items.is_empty() || request.items.len() > MAX_ITEMS {
            let rule = format!("{} items; 1 to {MAX_ITEMS} are taken", request.items.len());
            return Err(Error::invalid("items", rule));
        }
        let mut scores = Vec::with_capacity(request.items.len());
        for (index, item) in request.items.into_iter().enumerate() {
            if context.is_cancelled() {
                return Err(Error::Left);
            }
            let score = self.score_item(&bench, index, item).await;
            scores.push(score.unwrap_or_else(|error| pb::ImageScore {
                failure: Some(item_failure(&error)),
                safety: pb::SafetyVerdict::NotChecked.into(),
                ..pb::ImageScore::default()
            }));
        }
        let (model, model_sha256) = bench.scorer.map_or_else(Default::default, |found| {
            (found.name, found.model.sha256().to_owned())
        });
        let (safety_model, safety_model_sha256) =
            bench.safety.map_or_else(Default::default, |found| {
                (found.name, found.model.sha256().to_owned())
            });
        Ok(pb::ScoreImagesResponse {
            scores,
            model,
            model_sha256,
            safety_model,
            safety_model_sha256,
        })
    }

    /// The models for a request. A scoring model may be absent where only safety is asked for.
    fn bench(&self, request: &pb::ScoreImagesRequest) -> Result<Bench, Error> {
        let scorer = self.served.scorer(&request.model);
        let measures = measures(&request.measures);
        let safety = self.served.safety();
        let suffices = |m: &Measures| !(m.alignment || m.embedding) && safety.is_some();
        let scorer = match scorer {
            Err(Error::NotOffered(_)) if measures.as_ref().is_ok_and(suffices) => None,
            found => Some(found?),
        };
        let measures = measures?;
        Ok(Bench {
            measures,
            scorer,
            safety: safety.filter(|_| measures.safety).cloned(),
        })
    }

    async fn score_item(
        &self,
        bench: &Bench,
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
        let bytes = read(&self.roots, image, place("image"), MAX_IMAGE_BYTES).await?;
        let mut score = pb::ImageScore {
            safety: pb::SafetyVerdict::NotChecked.into(),
            ..pb::ImageScore::default()
        };
        if let Some(safety) = &bench.safety {
            let verdict = self.judge(safety, bytes.clone(), place("image")).await?;
            score.safety = verdict.into();
        }
        let Measures {
            alignment,
            embedding,
            ..
        } = bench.measures;
        if let Some(scorer) = bench.scorer.as_ref().filter(|_| alignment || embedding) {
            let vector = self.embed_image(scorer, bytes, place("image")).await?;
            for text in texts.into_iter().filter(|_| alignment) {
                let text = self.embed_text(scorer, text).await?;
                let cosine = vector.iter().zip(&text).map(|(a, b)| a * b).sum();
                score.alignment_cosine.push(cosine);
            }
            score.embedding = vector;
            if !embedding {
                score.embedding.clear();
            }
        }
        Ok(score)
    }

    async fn judge(
        &self,
        safety: &Safety,
        bytes: Bytes,
        field: String,
    ) -> Result<pb::SafetyVerdict, Error> {
        let key = Key::new(Kind::ImageSafety)
            .part("model", safety.model.sha256())
            .part("measure", safety.model.measure())
            .part("isa", Isa::current().name())
            .part("image", hex(&Sha256::digest(&bytes)));
        let model = safety.model.clone();
        let compute = move || {
            let judged = model.judge(&decoded(&bytes)?);
            let judged = judged.map_err(|error| Error::ScoringModel(Box::new(error)))?;
            // No number is over or under a bound, so it must not become a verdict.
            match judged.score.is_finite() {
                true => Ok(vec![judged.score]),
                false => Err(Error::Task("the safety model gave no number".to_owned())),
            }
        };
        let cached = self.cached(key, 1, compute).await;
        let score = cached.map_err(|error| placed(error, field))?;
        // A vector of one number, by the cache's own check.
        let judged = safety.model.judgement(score.iter().sum());
        Ok(match judged.is_unsafe {
            true => pb::SafetyVerdict::Unsafe,
            false => pb::SafetyVerdict::Safe,
        })
    }

    async fn embed_image(
        &self,
        scorer: &Scorer,
        bytes: Bytes,
        field: String,
    ) -> Result<Vec<f32>, Error> {
        let key = Key::new(Kind::ImageEmbedding)
            .part("model", scorer.model.sha256())
            .part("isa", Isa::current().name())
            .part("image", hex(&Sha256::digest(&bytes)));
        let model = scorer.model.clone();
        let compute = move || {
            let vector = model.embed_image(&decoded(&bytes)?);
            vector.map_err(|error| Error::ScoringModel(Box::new(error)))
        };
        let cached = self.cached(key, scorer.model.dim(), compute).await;
        cached.map_err(|error| placed(error, field))
    }

    async fn embed_text(&self, scorer: &Scorer, text: String) -> Result<Vec<f32>, Error> {
        let key = Key::new(Kind::TextEmbedding)
            .part("model", scorer.model.sha256())
            .part("isa", Isa::current().name())
            .part("text", &text);
        let model = scorer.model.clone();
        let compute = move || {
            let vector = model.embed_text(&text);
            vector.map_err(|error| Error::ScoringModel(Box::new(error)))
        };
        let cached = self.cached(key, scorer.model.dim(), compute).await;
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
        safety: false,
    };
    if asked.is_empty() {
        return Err(Error::invalid("measures", "names no measure"));
    }
    for value in asked {
        match pb::ScoreMeasure::try_from(*value) {
            Ok(pb::ScoreMeasure::Alignment) => measures.alignment = true,
            Ok(pb::ScoreMeasure::Embedding) => measures.embedding = true,
            Ok(pb::ScoreMeasure::Safety) => measures.safety = true,
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

fn decoded(bytes: &[u8]) -> Result<RgbImage, Error> {
    let unreadable = |e| Error::Image {
        field: String::new(),
        rule: format!("cannot be read: {e}"),
    };
    decode_rgb(bytes).map_err(unreadable)
}

/// The failure of several callers, with its place in the request of one of them.
fn placed(error: Arc<Error>, field: String) -> Error {
    match &*error {
        Error::Image { rule, .. } => Error::Image {
            field,
            rule: rule.clone(),
        },
        _ => Error::Shared(error),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(Error::Task(chain(&panic))))
}
