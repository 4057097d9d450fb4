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
use tokio_util::sync::CancellationToken;

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
/// Names the file and the record that cannot be used, and the picture that is not there;
/// [`Error::Cancelled`].
pub(crate) async fn read(
    plan: &Plan,
    cancelled: &CancellationToken,
) -> Result<Vec<Vec<RawSource>>, Error> {
    let mut stages = Vec::new();
    for stage in &plan.stages {
        let mut sources = Vec::new();
        for source in &stage.sources {
            sources.push(match source.location.clone() {
                Location::Llava { json, images } => {
                    let cancelled = cancelled.clone();
                    blocking(move || read_llava(json, &images, &cancelled)).await?
                }
                Location::Dataset(folder) => tokio::select! {
                    source = read_dataset(folder) => source?,
                    () = cancelled.cancelled() => return Err(Error::Cancelled),
                },
            });
        }
        stages.push(sources);
    }
    Ok(stages)
}

/// Writes a stage's samples in its template, for a model.
///
/// # Errors
/// Names the record that the template refuses, and the source in which nothing is supervised;
/// [`Error::Cancelled`].
pub(crate) fn prepare(
    plan: &Plan,
    stage: &Stage,
    sources: Vec<RawSource>,
    model: &Llava,
    is_cancelled: &dyn Fn() -> bool,
) -> Result<StageData, Error> {
    let mut data = StageData {
        samples: Vec::new(),
        sizes: Vec::new(),
        skipped: BTreeMap::new(),
        hashes: Vec::new(),
    };
    data.hashes = hashes(stage, &sources);
    for source in sources {
        let before = data.samples.len();
        for sample in source.samples {
            if is_cancelled() {
                return Err(Error::Cancelled);
            }
            let refused = |reason: String| Error::Data {
                path: source.path.clone(),
                reason: format!("sample {:?}: {reason}", sample.id),
            };
            let encoded = encode_sample(plan.max_tokens, stage.template(), &sample, model);
            let encoded = encoded.map_err(refused)?;
            match encoded.unsupervised {
                Some(reason) => *data.skipped.entry(reason).or_default() += 1,
                None => data.samples.push(Prepared::new(sample, encoded, model)),
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

/// Name and hash of each source of a stage.
pub(crate) fn hashes(stage: &Stage, sources: &[RawSource]) -> Vec<String> {
    let named = |(source, asked): (&RawSource, &Source)| {
        format!("{} sha256:{}", label(asked, &source.path), source.sha256)
    };
    sources.iter().zip(&stage.sources).map(named).collect()
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

impl Prepared {
    /// A sample with the pictures whose marks are left: a caption's are those of its first question,
    /// and a sample that is too long loses its last.
    fn new(sample: RawSample, encoded: Encoded, model: &Llava) -> Self {
        let RawSample {
            id, mut pictures, ..
        } = sample;
        pictures.truncate(encoded.image_count(model.config().image_token_index));
        Self {
            id,
            pictures,
            encoded,
        }
    }
}

fn encode_sample(
    max_tokens: usize,
    template: Template,
    sample: &RawSample,
    model: &Llava,
) -> Result<Encoded, String> {
    let config = model.config();
    let asked = sample.rounds.iter().map(|round| &round.question);
    let marks: usize = asked
        .map(|question| question.matches(IMAGE_MARK).count())
        .sum();
    if marks != sample.pictures.len() {
        return Err(format!(
            "{marks} `<image>` marks for {} pictures",
            sample.pictures.len()
        ));
    }
    let mut encoded = encode(template, &sample.rounds, model.tokenizer())
        .map_err(|error| runtime::error::chain(&error))?;
    let limit = max_tokens.min(config.text_config.max_position_embeddings);
    encoded.truncate(limit, config.image_token_index, config.tokens_per_image());
    Ok(encoded)
}

fn read_llava(
    json: PathBuf,
    images: &Path,
    cancelled: &CancellationToken,
) -> Result<RawSource, Error> {
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
        if cancelled.is_cancelled() {
            return Err(Error::Cancelled);
        }
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
                        "sample {:?}: there is no picture {}; is image_folder the right one?",
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
    let stored: Vec<Sample> = reader.samples().try_collect().await.map_err(failed)?;
    let refused = |reason| Error::Data {
        path: folder.clone(),
        reason,
    };
    let samples: Vec<RawSample> = stored
        .into_iter()
        .map(|sample| stored_sample(sample).map_err(refused))
        .collect::<Result<_, _>>()?;
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

fn stored_sample(sample: Sample) -> Result<RawSample, String> {
    let words = turns(&sample);
    let picture = |(index, content): (usize, Option<Content>)| match content {
        Some(Content::Data(bytes)) => Ok(Picture::Bytes(bytes.as_ref().into())),
        Some(Content::Artefact(_)) => Err((index, "is given by reference")),
        None => Err((index, "has no content")),
    };
    let contents = sample.images.into_iter().map(|image| image.content);
    let pictures: Result<Vec<Picture>, (usize, &str)> = contents.enumerate().map(picture).collect();
    let pictures = pictures.map_err(|(index, what)| {
        let id = &sample.id;
        format!("sample {id:?}: picture {index} {what}; pictures must be stored in the dataset")
    })?;
    Ok(RawSample {
        rounds: rounds(&words, pictures.len()),
        id: sample.id,
        pictures,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/models/tests/fixtures/llava")
    }

    fn sample(questions: &[&str], picture_count: usize) -> RawSample {
        let round = |question: &&str| Round {
            question: (*question).to_owned(),
            answer: "A dog.".to_owned(),
        };
        RawSample {
            id: "a".into(),
            pictures: vec![Picture::File(fixture().join("picture2.png")); picture_count],
            rounds: questions.iter().map(round).collect(),
        }
    }

    #[test]
    fn every_picture_of_a_sample_has_its_mark_however_much_is_cut_off() {
        let model = Llava::load(&fixture()).expect("the tiny checkpoint");
        let token = model.config().image_token_index;
        let questions = ["<image>\nWhat is this?", "And this?\n<image>"];
        let mut seen = std::collections::BTreeSet::new();
        for limit in 1..200 {
            for template in [Template::VicunaV1, Template::Plain] {
                let raw = sample(&questions, 2);
                let encoded = encode_sample(limit, template, &raw, &model).expect("encoded");
                let cut = Prepared::new(raw, encoded, &model);
                assert_eq!(cut.pictures.len(), cut.encoded.image_count(token));
                seen.insert((template == Template::Plain, cut.pictures.len()));
            }
        }
        assert!(seen.contains(&(false, 1)) && seen.contains(&(false, 2)));
        assert!(seen.contains(&(true, 1)), "a caption has one picture");
        for template in [Template::VicunaV1, Template::Plain] {
            let error = encode_sample(200, template, &sample(&questions[..1], 2), &model);
            assert!(
                error
                    .expect_err("one too many")
                    .contains("1 `<image>` marks")
            );
        }
    }

    #[test]
    fn a_stored_picture_by_reference_is_refused_and_not_left_out() {
        let image = proto::dataset::v1::Image {
            content: Some(Content::Artefact(Default::default())),
            ..Default::default()
        };
        let stored = Sample {
            id: "b".into(),
            images: vec![image],
            ..Sample::default()
        };
        let error = stored_sample(stored).expect_err("refused");
        assert!(
            error.contains("\"b\": picture 0 is given by reference"),
            "{error}"
        );
    }
}
