//! Training samples: read from LLaVA JSON or our own store, checked, then written in a template.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dataset::llava::{Speaker, Turn, turns};
use dataset::store::{Reader, Root};
use futures::TryStreamExt as _;
use models::conversation::{Encoded, Round, Template, Unsupervised, encode};
use models::llava::Llava;
use models::llava_tokenizer::IMAGE_MARK;
use proto::dataset::v1::{Sample, image::Content};
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::plan::{Location, Plan, Source, Stage};

/// A picture, by path or in memory.
#[derive(Debug, Clone)]
pub(crate) enum Picture {
    File(PathBuf),
    Bytes(Arc<[u8]>),
}

/// One conversation with its pictures.
#[derive(Debug)]
pub(crate) struct RawSample {
    pub(crate) id: String,
    pub(crate) pictures: Vec<Picture>,
    pub(crate) rounds: Vec<Round>,
}

/// One source of one stage, read.
#[derive(Debug)]
pub(crate) struct RawSource {
    pub(crate) path: PathBuf,
    pub(crate) samples: Vec<RawSample>,
    /// Of the JSON file, or of the dataset's manifest.
    pub(crate) sha256: String,
}

/// A sample as the model sees it.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) id: String,
    pub(crate) pictures: Vec<Picture>,
    pub(crate) encoded: Encoded,
}

/// All that a stage trains on.
#[derive(Debug)]
pub(crate) struct StageData {
    pub(crate) samples: Vec<Prepared>,
    /// Samples kept of each source, in order.
    pub(crate) sizes: Vec<usize>,
    /// Samples that supervise nothing, by reason.
    pub(crate) skipped: BTreeMap<Unsupervised, u64>,
    /// Name and hash of each source.
    pub(crate) hashes: Vec<String>,
}

/// Reads the sources of all stages.
///
/// # Errors
/// Names the file and the record that cannot be used, and the picture that is not there.
pub(crate) async fn read(plan: &Plan) -> Result<Vec<Vec<RawSource>>, Error> {
    let mut stages = Vec::new();
    for stage in &plan.stages {
        let mut sources = Vec::new();
        for source in &stage.sources {
            sources.push(match source.location.clone() {
                Location::Llava { json, images } => {
                    blocking(move || read_llava(json, &images)).await?
                }
                Location::Dataset(folder) => read_dataset(folder).await?,
            });
        }
        stages.push(sources);
    }
    Ok(stages)
}

/// Writes a stage's samples in its template, for a model.
///
/// # Errors
/// Names the record that the template refuses, and the source in which nothing is supervised.
pub(crate) fn prepare(
    plan: &Plan,
    stage: &Stage,
    sources: Vec<RawSource>,
    model: &Llava,
) -> Result<StageData, Error> {
    let mut data = StageData {
        samples: Vec::new(),
        sizes: Vec::new(),
        skipped: BTreeMap::new(),
        hashes: Vec::new(),
    };
    for (source, asked) in sources.into_iter().zip(&stage.sources) {
        data.hashes.push(format!(
            "{} sha256:{}",
            label(asked, &source.path),
            source.sha256
        ));
        let before = data.samples.len();
        for sample in source.samples {
            let refused = |reason: String| Error::Data {
                path: source.path.clone(),
                reason: format!("sample {:?}: {reason}", sample.id),
            };
            let encoded = encode_sample(plan, stage.template(), &sample, model).map_err(refused)?;
            match encoded.unsupervised {
                Some(reason) => *data.skipped.entry(reason).or_default() += 1,
                None => data.samples.push(Prepared {
                    id: sample.id,
                    pictures: sample.pictures,
                    encoded,
                }),
            }
        }
        let kept = data.samples.len() - before;
        if kept == 0 {
            let reason = "no sample supervises anything".to_owned();
            return Err(Error::Data {
                path: source.path,
                reason,
            });
        }
        data.sizes.push(kept);
    }
    Ok(data)
}

/// The bytes of a picture.
///
/// # Errors
/// Names the file.
pub(crate) fn picture_bytes(picture: &Picture) -> Result<Arc<[u8]>, Error> {
    match picture {
        Picture::Bytes(bytes) => Ok(Arc::clone(bytes)),
        Picture::File(path) => match std::fs::read(path) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(Error::Data {
                path: path.clone(),
                reason: format!("cannot read the picture: {error}"),
            }),
        },
    }
}

fn encode_sample(
    plan: &Plan,
    template: Template,
    sample: &RawSample,
    model: &Llava,
) -> Result<Encoded, String> {
    let config = model.config();
    let mut encoded = encode(template, &sample.rounds, model.tokenizer())
        .map_err(|error| runtime::error::chain(&error))?;
    let marks = encoded.image_count(config.image_token_index);
    if template == Template::VicunaV1 && marks != sample.pictures.len() {
        return Err(format!(
            "{marks} `<image>` marks for {} pictures",
            sample.pictures.len()
        ));
    }
    let limit = plan
        .max_tokens
        .min(config.text_config.max_position_embeddings);
    encoded.truncate(limit, config.image_token_index, config.tokens_per_image());
    Ok(encoded)
}

fn read_llava(json: PathBuf, images: &Path) -> Result<RawSource, Error> {
    let failed = |reason: String| Error::Data {
        path: json.clone(),
        reason,
    };
    let refused = |error: dataset::llava::ReadError| failed(runtime::error::chain(&error));
    let images = &images.canonicalize().map_err(|error| {
        failed(format!(
            "cannot open the image folder {}: {error}",
            images.display()
        ))
    })?;
    let mut samples = Vec::new();
    for record in dataset::llava::read(&json).map_err(refused)? {
        let record = record.map_err(refused)?;
        let mut pictures = Vec::new();
        for image in &record.images {
            let path = images.join(image);
            // Links are followed before the comparison, so none leads out of the folder.
            match path.canonicalize() {
                Ok(real) if real.is_file() && real.starts_with(images) => {
                    pictures.push(Picture::File(real))
                }
                _ => {
                    return Err(failed(format!(
                        "sample {:?}: there is no picture {}",
                        record.id,
                        path.display()
                    )));
                }
            }
        }
        samples.push(RawSample {
            rounds: rounds(&record.turns, pictures.len()),
            id: record.id,
            pictures,
        });
    }
    if samples.is_empty() {
        return Err(failed("it holds no samples".into()));
    }
    let bytes = std::fs::read(&json).map_err(|error| failed(error.to_string()))?;
    Ok(RawSource {
        sha256: models::weights::hex(&Sha256::digest(bytes)),
        path: json,
        samples,
    })
}

async fn read_dataset(folder: PathBuf) -> Result<RawSource, Error> {
    let failed = |error: dataset::store::Error| Error::Data {
        path: folder.clone(),
        reason: runtime::error::chain(&error),
    };
    let reader = Reader::open(Root::folder(&folder).map_err(failed)?)
        .await
        .map_err(failed)?;
    let samples: Vec<RawSample> = reader
        .samples()
        .map_ok(stored_sample)
        .try_collect()
        .await
        .map_err(failed)?;
    if samples.is_empty() {
        return Err(Error::Data {
            path: folder.clone(),
            reason: "it holds no samples".into(),
        });
    }
    Ok(RawSource {
        sha256: reader.manifest_sha256(),
        path: folder.clone(),
        samples,
    })
}

fn stored_sample(sample: Sample) -> RawSample {
    let words = turns(&sample);
    let pictures: Vec<Picture> = sample
        .images
        .into_iter()
        .filter_map(|image| match image.content {
            Some(Content::Data(bytes)) => Some(Picture::Bytes(bytes.as_ref().into())),
            _ => None,
        })
        .collect();
    RawSample {
        rounds: rounds(&words, pictures.len()),
        id: sample.id,
        pictures,
    }
}

/// Question–answer pairs; a picture that no turn marks stands before the first question.
fn rounds(turns: &[Turn], picture_count: usize) -> Vec<Round> {
    let mut rounds: Vec<Round> = turns
        .chunks_exact(2)
        .filter(|pair| pair[0].speaker == Speaker::Human)
        .map(|pair| Round {
            question: pair[0].value.clone(),
            answer: pair[1].value.clone(),
        })
        .collect();
    let has_marks = rounds
        .iter()
        .any(|round| round.question.contains(IMAGE_MARK));
    if let (false, Some(first)) = (has_marks, rounds.first_mut()) {
        first.question = format!("{IMAGE_MARK}\n").repeat(picture_count) + &first.question;
    }
    rounds
}

fn label(source: &Source, path: &Path) -> String {
    match source.name.as_str() {
        "" => path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        name => name.to_owned(),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(Error::DeviceLost))
}
