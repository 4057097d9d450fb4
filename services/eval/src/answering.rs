//! Models that answer: loaded once, asked in batches, each answer remembered by what decides it.
//!
//! An answer depends on the weights, the pictures, the words, the length limit and the instruction
//! set alone; the batch it was asked in plays no part (`models::generate`), so an answer from the
//! cache is the answer.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use models::{
    conversation::render_question,
    generate::{Question, Stop},
    llava::{Aspect, ImageFeatures, Llava},
    llava_error,
    llava_tokenizer::IMAGE_MARK,
    ops::simd::Isa,
};
use runtime::{
    artefact,
    cache::{Cache, Key, Kind},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{benchmark::Picture, error::Error};

/// Questions that one call hands to the device; between two calls others have their turn.
pub(crate) const BATCH_SIZE: usize = 32;
/// Memory for image features per model, in bytes.
const FEATURE_CACHE_BYTES: usize = 256 << 20;

/// The models in memory, and the one device.
#[derive(Debug)]
pub(crate) struct Answering {
    cache: Cache,
    kept_models: usize,
    loaded: Mutex<VecDeque<Arc<Model>>>,
    /// One batch at a time: a batch fills all cores.
    device: Arc<Semaphore>,
}

/// A loaded model.
#[derive(Debug)]
pub(crate) struct Model {
    llava: Llava,
    name: String,
    /// SHA-256 of the checkpoint folder.
    sha256: String,
    features: Mutex<Features>,
}

#[derive(Debug, Default)]
struct Features {
    by_picture: HashMap<String, ImageFeatures>,
    size_bytes: usize,
}

/// A question to a model.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// The pictures, before the words.
    pub(crate) pictures: Vec<Arc<Picture>>,
    /// The words.
    pub(crate) text: String,
}

/// A given answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The words.
    pub(crate) text: String,
    /// The prompt as the model saw it.
    pub(crate) rendered_prompt: String,
    /// Tokens decoded, the end token included.
    pub(crate) token_count: u32,
}

/// What came of one question: an answer, or why this one could not be asked.
pub(crate) type Outcome = Result<Answer, Arc<Error>>;

impl Answering {
    /// Nothing is loaded yet.
    pub(crate) fn new(cache: Cache, kept_models: usize) -> Self {
        Self {
            cache,
            kept_models,
            loaded: Mutex::default(),
            device: Arc::new(Semaphore::new(1)),
        }
    }

    /// Loads the checkpoint in `folder`, or finds it loaded. `name` stands for it in messages.
    ///
    /// # Errors
    /// Names the file that is missing or damaged.
    pub(crate) async fn load(
        self: &Arc<Self>,
        name: String,
        folder: PathBuf,
    ) -> Result<Arc<Model>, Error> {
        let answering = Arc::clone(self);
        blocking(move || answering.load_now(name, &folder)).await?
    }

    fn load_now(&self, name: String, folder: &std::path::Path) -> Result<Arc<Model>, Error> {
        let (sha256, _) = artefact::digest(folder)?;
        let found = lock(&self.loaded)
            .iter()
            .find(|model| model.sha256 == sha256)
            .cloned();
        if let Some(model) = found {
            return Ok(model);
        }
        let llava = Llava::load(folder).map_err(|source| Error::model(&name, source))?;
        let model = Arc::new(Model {
            llava,
            name,
            sha256,
            features: Mutex::default(),
        });
        let mut loaded = lock(&self.loaded);
        loaded.push_back(Arc::clone(&model));
        while loaded.len() > self.kept_models {
            loaded.pop_front();
        }
        Ok(model)
    }

    /// Answers up to [`BATCH_SIZE`] questions, in order.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; what concerns one question stands in its [`Outcome`].
    pub(crate) async fn answer(
        &self,
        model: &Arc<Model>,
        asks: Vec<Ask>,
        max_new_token_count: u32,
        cancelled: &CancellationToken,
    ) -> Result<Vec<Outcome>, Error> {
        let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(asks.len());
        for ask in &asks {
            outcomes.push(
                self.remembered(&ask.key(model, max_new_token_count))
                    .await
                    .map(Ok),
            );
        }
        let missing: Vec<usize> = (0..asks.len())
            .filter(|&index| outcomes[index].is_none())
            .collect();
        if !missing.is_empty() {
            let wanted = missing.iter().map(|&index| asks[index].clone()).collect();
            let answers = self
                .decode(model, wanted, max_new_token_count, cancelled)
                .await?;
            for (index, outcome) in missing.into_iter().zip(answers) {
                if let Ok(answer) = &outcome {
                    self.remember(&asks[index].key(model, max_new_token_count), answer)
                        .await;
                }
                outcomes[index] = Some(outcome);
            }
        }
        let lost = || Err(Arc::new(Error::Internal("an answer got lost".into())));
        Ok(outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(lost))
            .collect())
    }

    async fn decode(
        &self,
        model: &Arc<Model>,
        asks: Vec<Ask>,
        max_new_token_count: u32,
        cancelled: &CancellationToken,
    ) -> Result<Vec<Outcome>, Error> {
        let turn = tokio::select! {
            turn = Arc::clone(&self.device).acquire_owned() => turn,
            () = cancelled.cancelled() => return Err(Error::Cancelled),
        };
        let (model, token) = (Arc::clone(model), cancelled.clone());
        let outcomes = blocking(move || {
            let _turn = turn;
            model.answer(&asks, max_new_token_count as usize, &token)
        });
        let outcomes = outcomes.await?;
        if cancelled.is_cancelled() {
            Err(Error::Cancelled)
        } else {
            Ok(outcomes)
        }
    }

    async fn remembered(&self, key: &Key) -> Option<Answer> {
        serde_json::from_slice(&self.cache.get(key).await?).ok()
    }

    async fn remember(&self, key: &Key, answer: &Answer) {
        if let Ok(value) = serde_json::to_vec(answer) {
            self.cache.put(key, Bytes::from(value)).await;
        }
    }
}

impl Model {
    /// SHA-256 of the checkpoint folder, lower-case hexadecimal.
    pub(crate) fn sha256(&self) -> &str {
        &self.sha256
    }

    fn answer(
        &self,
        asks: &[Ask],
        max_new_tokens: usize,
        cancelled: &CancellationToken,
    ) -> Vec<Outcome> {
        let questions: Vec<Question> = asks
            .iter()
            .map(|ask| Question {
                text: ask.prompt(),
                features: ask.pictures.iter().map(|p| self.features_of(p)).collect(),
            })
            .collect();
        let answers = self
            .llava
            .answer_all(&questions, max_new_tokens, &|| !cancelled.is_cancelled());
        asks.iter()
            .zip(answers)
            .map(|(ask, answer)| self.outcome(ask, answer))
            .collect()
    }

    fn outcome(
        &self,
        ask: &Ask,
        answer: Result<models::generate::Answer, llava_error::Error>,
    ) -> Outcome {
        let answer = answer.map_err(|source| Arc::new(Error::model(&self.name, source)))?;
        let end_token = usize::from(answer.stop == Stop::EndOfAnswer);
        Ok(Answer {
            text: answer.text,
            rendered_prompt: render_question(&ask.prompt()),
            token_count: u32::try_from(answer.tokens.len() + end_token).unwrap_or(u32::MAX),
        })
    }

    /// The tower sees each picture once, as long as there is room.
    fn features_of(&self, picture: &Picture) -> ImageFeatures {
        if let Some(found) = lock(&self.features).by_picture.get(&picture.sha256) {
            return Arc::clone(found);
        }
        let mut features = self
            .llava
            .image_features(std::slice::from_ref(&picture.pixels), Aspect::Pad);
        let features = features.pop().unwrap_or_default();
        let mut known = lock(&self.features);
        let size_bytes = features.len() * size_of::<f32>();
        if known.size_bytes + size_bytes > FEATURE_CACHE_BYTES {
            *known = Features::default();
        }
        known.size_bytes += size_bytes;
        known
            .by_picture
            .insert(picture.sha256.clone(), Arc::clone(&features));
        features
    }
}

impl Ask {
    /// Pixels of all its pictures.
    pub(crate) fn pixel_count(&self) -> u64 {
        let pictures = self.pictures.iter();
        pictures.map(|picture| picture.pixel_count()).sum()
    }

    /// The words with a mark for each picture before them.
    fn prompt(&self) -> String {
        // A caller's own `<image>` would ask for a picture that is not there.
        let words = self.text.replace(IMAGE_MARK, "");
        format!("{IMAGE_MARK}\n").repeat(self.pictures.len()) + words.trim()
    }

    fn key(&self, model: &Model, max_new_token_count: u32) -> Key {
        let key = Key::new(Kind::Answer)
            .part("decoding", "greedy")
            .part("model", &model.sha256)
            .part("isa", Isa::current().name())
            .part("prompt", self.prompt())
            .part("max_new_tokens", max_new_token_count.to_le_bytes())
            .part("code", env!("CARGO_PKG_VERSION"));
        self.pictures
            .iter()
            .fold(key, |key, picture| key.part("picture", &picture.sha256))
    }
}

/// Runs device or disk work away from the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Internal(format!("device work ended early: {error}")))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
