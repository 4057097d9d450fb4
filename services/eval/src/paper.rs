//! A benchmark as it is sat: its questions, and whose picture each one shows.

use std::{collections::HashMap, sync::Arc};

use sha2::{Digest as _, Sha256};

use crate::{
    answering::Ask,
    benchmark::{self, Benchmark, Question},
    error::Error,
    places::Places,
    shuffle::shuffled,
    spec::{BenchmarkRef, EvaluationSpec},
};

/// See the module. Pictures stay on the disk until they are asked about.
#[derive(Debug)]
pub(crate) struct Paper {
    name: String,
    benchmark: Benchmark,
    /// SHA-256 of each question's picture.
    pictures: Vec<String>,
    /// Whose picture each question gets when they are shuffled.
    shuffled: Option<Vec<usize>>,
    /// SHA-256 of all this, lower-case hexadecimal.
    sha256: String,
}

impl Paper {
    /// Opens a benchmark and reads every picture once, so that a damaged one is known before any
    /// model is asked.
    ///
    /// # Errors
    /// What [`Places::benchmark`] refuses, a damaged picture, or pictures that cannot be shuffled.
    pub(crate) fn open(
        places: &Places,
        spec: &EvaluationSpec,
        reference: &BenchmarkRef,
    ) -> Result<Self, Error> {
        let benchmark = places
            .benchmark(reference)?
            .limited(spec.question_limit_per_ability);
        let pictures = hashes(&benchmark).map_err(|source| named(&reference.name, source))?;
        let names: Vec<&str> = pictures.iter().map(String::as_str).collect();
        let given = spec
            .has_shuffled
            .then(|| shuffled(benchmark.questions(), &names, spec.seed).ok_or(reference));
        let shuffled = given.transpose().map_err(one_picture)?;
        let decides = (benchmark.questions(), &names, &shuffled);
        let json =
            serde_json::to_vec(&decides).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(Self {
            name: reference.name.clone(),
            sha256: models::weights::hex(&Sha256::digest(json)),
            benchmark,
            pictures,
            shuffled,
        })
    }

    /// Name in the results.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The questions.
    pub(crate) fn questions(&self) -> &[Question] {
        self.benchmark.questions()
    }

    /// Each question's own picture, by content.
    pub(crate) fn pictures(&self) -> Vec<&str> {
        self.pictures.iter().map(String::as_str).collect()
    }

    /// SHA-256 of questions, pictures and shuffle.
    pub(crate) fn sha256(&self) -> &str {
        &self.sha256
    }

    /// With its own pictures, and shuffled where that is wanted.
    pub(crate) fn conditions(&self) -> &'static [bool] {
        if self.shuffled.is_some() {
            &[false, true]
        } else {
            &[false]
        }
    }

    /// The question whose picture is shown to `question`.
    pub(crate) fn shown(&self, question: usize, is_shuffled: bool) -> &Question {
        let place = match &self.shuffled {
            Some(given) if is_shuffled => given[question],
            _ => question,
        };
        &self.questions()[place]
    }

    /// Questions with the pictures they show, read from the disk.
    ///
    /// # Errors
    /// A picture that has gone or was damaged since.
    pub(crate) fn asks(
        &self,
        questions: std::ops::Range<usize>,
        is_shuffled: bool,
    ) -> Result<Vec<Ask>, Error> {
        let ask = |question: usize| {
            let image = &self.shown(question, is_shuffled).image;
            let picture = self
                .benchmark
                .picture(image)
                .map_err(|source| named(&self.name, source))?;
            Ok(Ask {
                pictures: vec![Arc::new(picture)],
                text: self.questions()[question].text.clone(),
            })
        };
        questions.map(ask).collect()
    }
}

fn named(name: &str, source: benchmark::Error) -> Error {
    Error::Benchmark {
        name: name.to_owned(),
        source,
    }
}

fn one_picture(reference: &BenchmarkRef) -> Error {
    let name = &reference.name;
    let rule = format!("{name:?} shows one picture, which cannot be shuffled: leave it out");
    Error::invalid("spec.skip_shuffled", rule)
}

/// The hash of each question's picture; a file that several questions name is read once.
fn hashes(benchmark: &Benchmark) -> Result<Vec<String>, benchmark::Error> {
    let mut known: HashMap<&str, String> = HashMap::new();
    let mut hashes = Vec::with_capacity(benchmark.questions().len());
    for question in benchmark.questions() {
        let image = question.image.as_str();
        if !known.contains_key(image) {
            known.insert(image, benchmark.picture(image)?.sha256);
        }
        hashes.push(known[image].clone());
    }
    Ok(hashes)
}
