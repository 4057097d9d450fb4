//! Makes a benchmark from held-out samples: questions from the facts of each picture, in the
//! wordings that training never sees.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use dataset::{
    ability::{Abilities, Ability, Draws},
    question::Claim,
};
use futures::TryStreamExt as _;
use proto::{
    dataset::v1::{Facts, QuestionKind, Sample, image::Content},
    eval::v1 as pb,
};
use runtime::{artefact::write_atomic, jobs};
use serde::{Deserialize, Serialize};

use crate::{
    answering::blocking,
    benchmark::{Picture, QUESTIONS_FILE, Question},
    error::Error,
    overlap::{Overlap, dataset_error, open_dataset},
    places::Places,
    spec::{Artefact, BenchmarkSpec},
};

/// Share of yes/no questions where an ability has other kinds too.
const YES_NO_SHARE: f64 = 0.48;

/// Makes benchmarks.
#[derive(Debug)]
pub(crate) struct Making {
    /// Where things lie.
    pub(crate) places: Arc<Places>,
}

/// A finished benchmark, as it stands in job records.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Made {
    /// The folder.
    pub(crate) benchmark: Artefact,
    /// Questions in it.
    pub(crate) question_count: u32,
    /// Samples left out since training data holds their picture or prompt.
    pub(crate) overlapping_sample_count: u32,
}

impl jobs::Work for Making {
    type Spec = BenchmarkSpec;
    type Progress = ();
    type Result = Made;
    type Error = Error;

    async fn run(self: Arc<Self>, task: jobs::Task<Self>) -> Result<Made, Error> {
        let (places, spec) = (Arc::clone(&self.places), task.spec().clone());
        let source = places.roots().resolve(&spec.source.clone().into())?;
        let mut overlap = Overlap::default();
        for data in &spec.training_data {
            let folder = places.roots().resolve(&data.clone().into())?;
            overlap.add_folder(&folder, &task.cancelled()).await?;
        }
        let held_out = held_out(&source, &overlap, &task).await?;
        blocking(move || {
            let abilities = Abilities::load_folder(places.abilities()?);
            let abilities =
                abilities.map_err(|error| Error::Abilities(runtime::error::chain(&error)))?;
            let made = questions(&abilities, &held_out.samples, &spec)?;
            if !task.is_owner() {
                return Err(Error::Cancelled);
            }
            let folder = places.output(&spec.output)?;
            write(&folder, &made, &held_out.samples)?;
            Ok(Made {
                benchmark: places.roots().describe(&folder)?.into(),
                question_count: u32::try_from(made.len()).unwrap_or(u32::MAX),
                overlapping_sample_count: held_out.overlapping_count,
            })
        })
        .await?
    }
}

/// A picture that may be asked about.
#[derive(Debug)]
struct HeldOut {
    id: String,
    ability: String,
    facts: Facts,
    file: Bytes,
    is_jpeg: bool,
}

struct Samples {
    samples: Vec<HeldOut>,
    overlapping_count: u32,
}

async fn held_out(
    folder: &Path,
    overlap: &Overlap,
    task: &jobs::Task<Making>,
) -> Result<Samples, Error> {
    let reader = open_dataset(folder).await?;
    let mut stream = std::pin::pin!(reader.samples());
    let mut found = Samples {
        samples: Vec::new(),
        overlapping_count: 0,
    };
    while let Some(sample) = stream.try_next().await.map_err(dataset_error(folder))? {
        if task.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let Some((held_out, prompt)) = single_picture(sample) else {
            continue;
        };
        let wrong = |reason| Error::Dataset {
            name: folder.display().to_string(),
            reason: format!("sample {}: {reason}", held_out.id),
        };
        let picture = Picture::decode(&held_out.file).map_err(wrong)?;
        if overlap.holds(&prompt, &picture) {
            found.overlapping_count += 1;
        } else {
            found.samples.push(held_out);
        }
    }
    Ok(found)
}

/// A sample with one picture, and its prompt; others are not asked about yet.
fn single_picture(sample: Sample) -> Option<(HeldOut, String)> {
    let Sample {
        id,
        ability,
        mut prompts,
        mut images,
        ..
    } = sample;
    let (Some(prompt), Some(image)) = (prompts.pop(), images.pop()) else {
        return None;
    };
    let (true, true, Some(Content::Data(file))) =
        (prompts.is_empty(), images.is_empty(), image.content)
    else {
        return None;
    };
    let is_jpeg = image.media_type == "image/jpeg";
    Some((
        HeldOut {
            id,
            ability,
            facts: prompt.facts?,
            file,
            is_jpeg,
        },
        prompt.text,
    ))
}

impl HeldOut {
    fn image_path(&self) -> String {
        format!(
            "images/{}.{}",
            self.id,
            if self.is_jpeg { "jpg" } else { "png" }
        )
    }
}

/// The questions of all abilities, in the order of the dataset.
fn questions(
    abilities: &Abilities,
    samples: &[HeldOut],
    spec: &BenchmarkSpec,
) -> Result<Vec<Question>, Error> {
    let mut by_ability: BTreeMap<&str, Vec<&HeldOut>> = BTreeMap::new();
    for sample in samples {
        by_ability.entry(&sample.ability).or_default().push(sample);
    }
    let mut questions = Vec::new();
    for (name, samples) in by_ability {
        let ability = abilities.get(name).ok_or_else(|| {
            Error::invalid(
                "spec.source",
                format!("it has samples of ability {name:?}, which no file describes"),
            )
        })?;
        questions.extend(Asking::new(ability, samples, spec).questions());
    }
    if questions.is_empty() {
        return Err(Error::invalid(
            "spec.source",
            "no question can be made of its samples",
        ));
    }
    Ok(questions)
}

/// The questions of one ability under way.
struct Asking<'a> {
    ability: &'a Ability,
    /// In a seeded order.
    samples: Vec<&'a HeldOut>,
    /// The sample to be asked about next.
    next: usize,
    seed: u64,
    wanted: usize,
    /// Text and picture of what was asked.
    asked: HashSet<(String, String)>,
}

impl<'a> Asking<'a> {
    fn new(ability: &'a Ability, mut samples: Vec<&'a HeldOut>, spec: &BenchmarkSpec) -> Self {
        let mut draws = Draws::new(&["benchmark order", &spec.seed.to_string(), ability.name()]);
        draws.shuffle(&mut samples);
        Self {
            ability,
            samples,
            next: 0,
            seed: spec.seed,
            wanted: spec.questions_per_ability as usize,
            asked: HashSet::new(),
        }
    }

    /// Yes/no questions in pairs of one yes and one no, so that they are balanced even where
    /// pictures run out; then the other kinds in turn.
    fn questions(mut self) -> Vec<Question> {
        let kinds: Vec<QuestionKind> = self
            .ability
            .evaluation()
            .iter()
            .map(|template| template.kind)
            .collect();
        let has_yes_no = kinds.contains(&QuestionKind::YesNo);
        let mut others: Vec<QuestionKind> = Vec::new();
        for kind in kinds {
            if kind != QuestionKind::YesNo && !others.contains(&kind) {
                others.push(kind);
            }
        }
        let pair_count = match (has_yes_no, others.is_empty()) {
            (false, _) => 0,
            (true, true) => self.wanted / 2,
            (true, false) => (self.wanted as f64 * YES_NO_SHARE / 2.0).round() as usize,
        };
        let mut made = Vec::new();
        for _ in 0..pair_count {
            let pair = (
                self.ask(QuestionKind::YesNo, Claim::True),
                self.ask(QuestionKind::YesNo, Claim::False),
            );
            let (Some(yes), Some(no)) = pair else { break };
            made.extend([yes, no]);
        }
        let mut turn = 0;
        while made.len() < self.wanted && !others.is_empty() {
            let kind = others[turn % others.len()];
            match self.ask(kind, Claim::True) {
                Some(question) => {
                    made.push(question);
                    turn += 1;
                }
                None => others.retain(|other| *other != kind),
            }
        }
        made.into_iter()
            .enumerate()
            .map(|(index, question)| self.named(index, question))
            .collect()
    }

    /// A question about the next picture that carries one of this kind.
    fn ask(&mut self, kind: QuestionKind, claim: Claim) -> Option<Question> {
        for step in 0..self.samples.len() {
            let place = (self.next + step) % self.samples.len();
            if let Some(question) = self.ask_about(self.samples[place], kind, claim) {
                self.next = place + 1;
                self.asked
                    .insert((question.text.clone(), question.image.clone()));
                return Some(question);
            }
        }
        None
    }

    fn ask_about(&self, sample: &HeldOut, kind: QuestionKind, claim: Claim) -> Option<Question> {
        let claimed = format!("{claim:?}");
        let mut draws = Draws::new(&[
            "benchmark",
            &self.seed.to_string(),
            &sample.id,
            kind.as_str_name(),
            &claimed,
        ]);
        let mut templates: Vec<_> = self
            .ability
            .evaluation()
            .iter()
            .filter(|template| template.kind == kind)
            .collect();
        draws.shuffle(&mut templates);
        let made = templates.into_iter().find_map(|template| {
            self.ability
                .question(template, &sample.facts, claim, &mut draws)
        })?;
        let question = Question {
            question_id: String::new(),
            ability: sample.ability.clone(),
            kind: made.kind,
            image: sample.image_path(),
            text: made.text,
            answers: made.accepted,
        };
        let is_new = !self
            .asked
            .contains(&(question.text.clone(), question.image.clone()));
        (is_new && !question.answers.is_empty()).then_some(question)
    }

    fn named(&self, index: usize, question: Question) -> Question {
        Question {
            question_id: format!("{}-{index:03}", self.ability.name()),
            ..question
        }
    }
}

/// Pictures first: a benchmark is there when its questions are.
fn write(folder: &Path, questions: &[Question], samples: &[HeldOut]) -> Result<(), Error> {
    let asked: HashSet<&str> = questions
        .iter()
        .map(|question| question.image.as_str())
        .collect();
    make_room(folder, &asked)?;
    fs::create_dir_all(folder.join("images")).map_err(Error::io("create", folder))?;
    for sample in samples {
        let image = sample.image_path();
        if asked.contains(image.as_str()) {
            let path = folder.join(&image);
            write_atomic(&path, &sample.file).map_err(Error::io("write", &path))?;
        }
    }
    let mut lines = String::new();
    for question in questions {
        lines +=
            &serde_json::to_string(question).map_err(|error| Error::Internal(error.to_string()))?;
        lines.push('\n');
    }
    let path = folder.join(QUESTIONS_FILE);
    write_atomic(&path, lines.as_bytes()).map_err(Error::io("write", &path))
}

/// What another benchmark left would stand among ours, and in the hash; removing it is not for us.
/// What an earlier owner of the job left half written is.
fn make_room(folder: &Path, asked: &HashSet<&str>) -> Result<(), Error> {
    let images = names(&folder.join("images"));
    let images: Vec<String> = images.map(|name| format!("images/{name}")).collect();
    let is_strange = |image: &&String| !asked.contains(target(image).unwrap_or(image));
    if let Some(image) = images.iter().find(is_strange) {
        return Err(Error::invalid(
            "spec.output",
            format!("the folder holds {image}, which is not of this benchmark"),
        ));
    }
    let unfinished = images.into_iter().filter(|image| target(image).is_some());
    let questions = names(folder).filter(|name| target(name) == Some(QUESTIONS_FILE));
    for name in unfinished.chain(questions) {
        let path = folder.join(name);
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

/// What a folder holds; nothing where there is none.
fn names(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// The file that a temporary one of [`write_atomic`] was to become: of `a.png.81-0.tmp`, where 81
/// is a process, it is `a.png`.
fn target(name: &str) -> Option<&str> {
    let (target, serial) = name.strip_suffix(".tmp")?.rsplit_once('.')?;
    let (process, count) = serial.split_once('-')?;
    let is_number = |part: &str| part.parse::<u64>().is_ok();
    (is_number(process) && is_number(count)).then_some(target)
}

impl From<Made> for pb::BenchmarkResult {
    fn from(made: Made) -> Self {
        let Made {
            benchmark,
            question_count,
            overlapping_sample_count,
        } = made;
        Self {
            benchmark: Some(benchmark.into()),
            question_count,
            overlapping_sample_count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(folder: &Path) -> Vec<String> {
        let images = names(&folder.join("images")).map(|name| format!("images/{name}"));
        let mut left: Vec<String> = images.chain(names(folder)).collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn temporary_files_of_this_benchmark_are_removed_and_no_others() {
        let asked = HashSet::from(["images/a.png", "images/b.jpg"]);
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        make_room(folder, &asked).expect("nothing is there");
        fs::create_dir(folder.join("images")).expect("made");
        let leave = |name: &str| fs::write(folder.join(name), b"half").expect("written");
        leave("images/a.png");
        for stranger in [
            "images/c.png",
            "images/c.png.81-0.tmp",
            "images/a.png.tmp",
            "images/a.png.81-x.tmp",
        ] {
            leave("images/b.jpg.81-0.tmp");
            leave("questions.jsonl.81-12.tmp");
            leave(stranger);
            let before = left(folder);
            let refused = make_room(folder, &asked).expect_err("refused").to_string();
            assert!(refused.contains(&format!("holds {stranger},")), "{refused}");
            assert_eq!(left(folder), before, "a refused folder stays as it was");
            fs::remove_file(folder.join(stranger)).expect("removed");
        }
        make_room(folder, &asked).expect("ours");
        assert_eq!(left(folder), ["images", "images/a.png"]);
    }
}
