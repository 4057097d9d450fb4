//! A benchmark: a folder with `questions.jsonl` and the pictures it names.
//!
//! One line per question:
//!
//! ```json
//! {"question_id": "animal-3", "ability": "animal", "kind": "wh", "image": "images/animal-3.png",
//!  "text": "What animal is it?", "answers": ["fox"]}
//! ```
//!
//! `kind` is a `QuestionKind` in lower case. Unknown keys are passed over, so that a file may say
//! more. What is wrong is said with file and line, before any model is loaded.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use image::{DynamicImage, ImageDecoder as _, RgbImage};
use proto::dataset::v1::QuestionKind;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

/// Name of the file with the questions.
pub const QUESTIONS_FILE: &str = "questions.jsonl";

/// Most questions of one benchmark.
const MAX_QUESTION_COUNT: usize = 100_000;
/// Largest encoded picture, in bytes; as in messages.
const MAX_PICTURE_BYTES: u64 = 4 << 20;
/// Longest side of a picture, in pixels.
const MAX_SIDE_PX: u32 = 8192;
/// Pixels of a picture: 16 megapixels, which are 48 MiB when they are decoded.
const MAX_PICTURE_PIXELS: u64 = 16 << 20;
/// Memory of a decoder, in bytes: the largest picture with four channels of 16 bits.
const MAX_DECODER_BYTES: u64 = 8 * MAX_PICTURE_PIXELS;

/// A question about a picture, with its accepted answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Id within the benchmark.
    pub question_id: String,
    /// Ability it tests.
    pub ability: String,
    /// Its kind.
    #[serde(serialize_with = "write_kind", deserialize_with = "read_kind")]
    pub kind: QuestionKind,
    /// Path of the picture, relative to the folder.
    pub image: String,
    /// The question.
    pub text: String,
    /// Accepted answers; one match is enough.
    pub answers: Vec<String>,
}

/// A benchmark whose questions were read and whose pictures are there.
#[derive(Debug, Clone)]
pub struct Benchmark {
    folder: PathBuf,
    questions: Vec<Question>,
}

/// An encoded picture that could be decoded.
#[derive(Debug, Clone)]
pub struct Picture {
    /// SHA-256 of the encoded file, lower-case hexadecimal.
    pub sha256: String,
    /// The pixels.
    pub pixels: RgbImage,
}

/// Why a benchmark cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is no question.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The file has no line.
    #[error("{} has no questions", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A picture is damaged or too large.
    #[error("picture {}: {reason}", path.display())]
    Picture {
        /// The file, or what stands for it.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Benchmark {
    /// Reads the questions of a folder and looks whether the pictures are there.
    ///
    /// # Errors
    /// No file, a line that is no question, an id twice, a picture that is missing or lies outside
    /// of the folder: each with file and line.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(QUESTIONS_FILE);
        let read_error = |source| Error::Read {
            path: path.clone(),
            source,
        };
        let text = fs::read_to_string(&path).map_err(read_error)?;
        let root = folder.canonicalize().map_err(read_error)?;
        let mut questions: Vec<Question> = Vec::new();
        let mut ids = HashSet::new();
        for (index, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
        {
            let wrong = |reason: String| Error::Line {
                path: path.clone(),
                line: index + 1,
                reason,
            };
            let question = parse(line).map_err(wrong)?;
            if !ids.insert(question.question_id.clone()) {
                return Err(wrong(format!(
                    "question_id {:?} was given before",
                    question.question_id
                )));
            }
            check_picture(&root, &question.image).map_err(wrong)?;
            if questions.len() == MAX_QUESTION_COUNT {
                return Err(wrong(format!(
                    "a benchmark has at most {MAX_QUESTION_COUNT} questions"
                )));
            }
            questions.push(question);
        }
        if questions.is_empty() {
            return Err(Error::Empty { path });
        }
        Ok(Self {
            folder: root,
            questions,
        })
    }

    /// The questions, in the order of the file.
    pub fn questions(&self) -> &[Question] {
        &self.questions
    }

    /// Keeps the first `limit` questions of each ability; no limit keeps all.
    #[must_use]
    pub fn limited(mut self, limit: Option<u32>) -> Self {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        self.questions.retain(|question| {
            let count = counts.entry(question.ability.clone()).or_default();
            *count += 1;
            limit.is_none_or(|limit| *count <= limit)
        });
        self
    }

    /// Reads and decodes a picture that a question names.
    ///
    /// # Errors
    /// Names the file.
    pub fn picture(&self, image: &str) -> Result<Picture, Error> {
        Picture::read(&self.folder.join(image))
    }
}

impl Picture {
    /// Reads and decodes a file.
    ///
    /// # Errors
    /// Names the file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::check_file(path)?;
        let bytes = fs::read(path).map_err(Error::read(path))?;
        Self::decode(&bytes).map_err(Error::picture(path))
    }

    /// Looks at the length of a file, and not at its content.
    ///
    /// # Errors
    /// What is no file, or a longer one than pictures may be.
    pub fn check_file(path: &Path) -> Result<(), Error> {
        let found = fs::metadata(path).map_err(Error::read(path))?;
        if !found.is_file() {
            return Err(Error::picture(path)("it is no file".into()));
        }
        check_size(found.len()).map_err(Error::picture(path))
    }

    /// Decodes an encoded picture.
    ///
    /// # Errors
    /// One phrase on what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        check_size(bytes.len() as u64)?;
        let reader = image::ImageReader::new(io::Cursor::new(bytes)).with_guessed_format();
        let mut reader = reader.map_err(|error| error.to_string())?;
        let mut limits = image::Limits::default();
        limits.max_alloc = Some(MAX_DECODER_BYTES);
        reader.limits(limits);
        let decoder = reader.into_decoder().map_err(|error| error.to_string())?;
        // The head was read, and nothing is decoded yet.
        let (width_px, height_px) = decoder.dimensions();
        if width_px.max(height_px) > MAX_SIDE_PX
            || u64::from(width_px) * u64::from(height_px) > MAX_PICTURE_PIXELS
        {
            return Err(format!(
                "{width_px} x {height_px} pixels; at most {MAX_SIDE_PX} on a side and \
                 {MAX_PICTURE_PIXELS} in all are decoded"
            ));
        }
        let pixels = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
        Ok(Self {
            sha256: models::weights::hex(&Sha256::digest(bytes)),
            pixels: pixels.into_rgb8(),
        })
    }

    /// Pixels in all.
    pub(crate) fn pixel_count(&self) -> u64 {
        u64::from(self.pixels.width()) * u64::from(self.pixels.height())
    }
}

impl Error {
    fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Read { path, source }
    }

    fn picture(path: &Path) -> impl FnOnce(String) -> Self {
        let path = path.to_owned();
        move |reason| Self::Picture { path, reason }
    }
}

fn check_size(size_bytes: u64) -> Result<(), String> {
    if size_bytes > MAX_PICTURE_BYTES {
        return Err(format!(
            "{size_bytes} bytes; at most {MAX_PICTURE_BYTES} are read"
        ));
    }
    Ok(())
}

fn parse(line: &str) -> Result<Question, String> {
    let question: Question =
        serde_json::from_str(line).map_err(|error| format!("no question: {error}"))?;
    let Question {
        question_id,
        ability,
        image,
        text,
        answers,
        ..
    } = &question;
    for (name, value) in [
        ("question_id", question_id),
        ("ability", ability),
        ("image", image),
        ("text", text),
    ] {
        if value.trim().is_empty() {
            return Err(format!("{name} is empty"));
        }
    }
    if ability == "all" {
        return Err("an ability cannot be called `all`, which is the name of all together".into());
    }
    if answers.iter().all(|answer| answer.trim().is_empty()) {
        return Err("answers is empty: no answer could be right".into());
    }
    Ok(question)
}

/// The picture is a file of the folder; links are followed before that is looked at.
fn check_picture(root: &Path, image: &str) -> Result<(), String> {
    let path = root.join(image);
    let real = path
        .canonicalize()
        .map_err(|error| format!("picture {image}: {error}"))?;
    if !real.starts_with(root) || !real.is_file() {
        return Err(format!(
            "picture {image} is no file of the benchmark's folder"
        ));
    }
    Ok(())
}

/// Name of a kind in files: `yes_no`.
pub(crate) fn kind_name(kind: QuestionKind) -> String {
    kind.as_str_name()
        .trim_start_matches("QUESTION_KIND_")
        .to_lowercase()
}

fn write_kind<S: Serializer>(kind: &QuestionKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&kind_name(*kind))
}

fn read_kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<QuestionKind, D::Error> {
    let name = String::deserialize(deserializer)?;
    let kind = QuestionKind::from_str_name(&format!("QUESTION_KIND_{}", name.to_uppercase()));
    kind.filter(|kind| *kind != QuestionKind::Unspecified && name == name.to_lowercase())
        .ok_or_else(|| {
            de::Error::custom(format!(
                "kind {name:?} is not known; write yes_no, wh, either_or, ..."
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(lines: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("a.png"), b"not looked at").expect("written");
        fs::write(folder.path().join(QUESTIONS_FILE), lines).expect("written");
        folder
    }

    fn line(id: &str, image: &str) -> String {
        format!(
            r#"{{"question_id": "{id}", "ability": "animal", "kind": "yes_no", "image": "{image}", "text": "Is it?", "answers": ["yes"], "more": 1}}"#
        )
    }

    #[test]
    fn questions_are_read_in_order_and_limited_by_ability() {
        let other = line("c", "a.png").replace("animal", "plant");
        let folder = folder(&format!(
            "{}\n\n{}\n{other}\n",
            line("a", "a.png"),
            line("b", "a.png")
        ));
        let benchmark = Benchmark::open(folder.path())
            .expect("read")
            .limited(Some(1));
        let ids: Vec<&str> = benchmark
            .questions()
            .iter()
            .map(|q| q.question_id.as_str())
            .collect();
        assert_eq!(ids, ["a", "c"]);
        assert_eq!(benchmark.questions()[0].kind, QuestionKind::YesNo);
        assert!(benchmark.picture("a.png").is_err());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let outside = tempfile::NamedTempFile::new().expect("a file");
        let outside = outside.path().to_str().expect("a name").to_owned();
        let good = line("a", "a.png");
        for (bad, says) in [
            ("{".to_owned(), "line 2: no question"),
            (good.clone(), "line 2: question_id \"a\" was given before"),
            (line("b", "missing.png"), "line 2: picture missing.png"),
            (line("b", &outside), "is no file of the benchmark's folder"),
            (line("b", "../a.png"), "picture ../a.png"),
            (
                line("b", "a.png").replace("yes_no", "riddle"),
                "kind \"riddle\" is not known",
            ),
            (
                line("b", "a.png").replace("[\"yes\"]", "[]"),
                "answers is empty",
            ),
            (line("b", "a.png").replace("Is it?", " "), "text is empty"),
        ] {
            let error = Benchmark::open(folder(&format!("{good}\n{bad}\n")).path())
                .expect_err("refused")
                .to_string();
            assert!(error.contains(says), "{error:?} does not say {says:?}");
        }
        let error = Benchmark::open(folder("\n").path())
            .expect_err("refused")
            .to_string();
        assert!(error.contains("has no questions"), "{error}");
    }
    #[test]
    fn a_picture_of_too_many_pixels_is_refused_before_it_is_decoded_and_a_long_file_unread() {
        let png = |width_px, height_px| {
            let mut file = io::Cursor::new(Vec::new());
            image::GrayImage::new(width_px, height_px)
                .write_to(&mut file, image::ImageFormat::Png)
                .expect("encodes");
            file.into_inner()
        };
        let most = png(8192, 2048);
        assert_eq!(
            Picture::decode(&most).expect("decoded").pixel_count(),
            MAX_PICTURE_PIXELS
        );
        // The half of a file: who decodes it says something else.
        let large = png(8192, 2049);
        let reason = Picture::decode(&large[..large.len() / 2]).expect_err("refused");
        assert!(reason.starts_with("8192 x 2049 pixels"), "{reason}");
        let reason = Picture::decode(&png(8193, 1)).expect_err("refused");
        assert!(reason.starts_with("8193 x 1 pixels"), "{reason}");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("long.png");
        let file = fs::File::create(&path).expect("made");
        file.set_len(MAX_PICTURE_BYTES + 1).expect("sparse");
        let error = Picture::read(&path).expect_err("refused").to_string();
        assert!(
            error.ends_with("4194305 bytes; at most 4194304 are read"),
            "{error}"
        );
        let error = Picture::read(folder.path()).expect_err("refused");
        assert!(error.to_string().ends_with("it is no file"), "{error}");
    }
}
