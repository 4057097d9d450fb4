//! What a run will take: a short timed probe of every step, scaled to the recipe.
//!
//! A step costs so much per unit (a sample, an optimizer step, a question), so much per picture that
//! a model sees for the first time, and so much once. The probe measures these three by doing a
//! little of each step with the recipe's own settings, in a folder that is thrown away.

mod price;
mod probe;
mod supply;

use serde::Serialize;

pub use self::{
    price::Price,
    probe::measure,
    supply::{Supply, supplies, within},
};
use crate::recipe::Recipe;

/// What the probe measured, in seconds.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    /// Per accepted sample: prompt, picture, gates, dialogue and commit.
    pub sample: f64,
    /// Attempts per accepted sample.
    pub attempts_per_sample: f64,
    /// Bytes in the store per accepted sample.
    pub bytes_per_sample: f64,
    /// Per training job, whatever its length: loading, reading, exporting.
    pub job: f64,
    /// Per step of the alignment stage.
    pub align_step: f64,
    /// Per instruction step on base data.
    pub base_step: f64,
    /// Per instruction step on base and synthesized data.
    pub synthetic_step: f64,
    /// Per picture that the vision tower sees for the first time.
    pub new_picture: f64,
    /// Pictures of the base data.
    pub base_pictures: f64,
    /// Bytes that one training run leaves.
    pub bytes_per_training: f64,
    /// Per question to one model.
    pub question: f64,
    /// Per evaluation, whatever its length: resampling and writing.
    pub evaluation: f64,
    /// What the writers of prompts and dialogues cost; none where one does not say.
    pub price: Option<Price>,
}

/// One step of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// The step, as `run.json` names it.
    pub step: String,
    /// How much of it.
    pub units: u64,
    /// Of what.
    pub unit: &'static str,
    /// Time it will take, in seconds.
    pub seconds: f64,
}

/// What a run will take.
#[derive(Debug, Clone, Serialize)]
pub struct Estimate {
    /// The steps, in their order.
    pub steps: Vec<Line>,
    /// Time of all steps, in seconds.
    pub seconds: f64,
    /// Calls to models, by kind.
    pub prompts: u64,
    /// Pictures rendered.
    pub images: u64,
    /// Dialogues written.
    pub dialogues: u64,
    /// Bytes that the run leaves on the disk.
    pub disk_bytes: u64,
    /// Hours of a GPU: 0 where all models run in this process, on the CPU; else not known.
    pub gpu_hours: Option<f64>,
    /// Money for language models: 0 where all models run in this process; not known where a service
    /// elsewhere has no price file.
    pub cost: Option<f64>,
    /// Currency of the cost; empty where it is 0 or not known.
    pub currency: String,
    /// What is wanted of each ability and what can be had; the steps count what can.
    pub abilities: Vec<Supply>,
    /// Gates that the recipe asks for and that nothing can judge samples by.
    pub unchecked: Vec<String>,
}

impl Estimate {
    /// Scales what was measured to a recipe.
    pub fn new(recipe: &Recipe, rates: &Rates) -> Self {
        let mut steps = vec![samples("synthesis", trained_samples(recipe), rates)];
        steps.extend(training(recipe, rates));
        if let Some(eval) = &recipe.eval {
            let abilities = recipe.synth.abilities.len() as u64;
            let pictures = abilities * eval.generated_images_per_ability;
            steps.push(samples("benchmark", pictures, rates));
            steps.push(evaluation(recipe, rates));
        }
        let all: u64 = steps
            .iter()
            .filter(|line| line.unit == SAMPLES)
            .map(|line| line.units)
            .sum();
        let attempts = scaled(all, rates.attempts_per_sample);
        let trainings = steps.iter().filter(|line| line.unit == STEPS).count() as u64;
        Self {
            seconds: steps.iter().map(|line| line.seconds).sum(),
            steps,
            prompts: attempts,
            images: attempts * u64::from(recipe.synth.seeds_per_prompt),
            dialogues: all,
            disk_bytes: scaled(all, rates.bytes_per_sample)
                + scaled(trainings, rates.bytes_per_training),
            gpu_hours: None,
            cost: rates
                .price
                .as_ref()
                .map(|price| attempts as f64 * price.prompt + all as f64 * price.dialogue),
            currency: rates
                .price
                .as_ref()
                .map(|price| price.currency.clone())
                .unwrap_or_default(),
            abilities: Vec::new(),
            unchecked: Vec::new(),
        }
    }

    /// The same, where all models run in this process.
    #[must_use]
    pub fn all_here(self) -> Self {
        Self {
            gpu_hours: Some(0.0),
            cost: Some(0.0),
            ..self
        }
    }
}

const SAMPLES: &str = "samples";
const STEPS: &str = "steps";
const QUESTIONS: &str = "questions";

fn trained_samples(recipe: &Recipe) -> u64 {
    recipe.synth.abilities.values().sum()
}

fn samples(step: &str, units: u64, rates: &Rates) -> Line {
    Line {
        step: step.to_owned(),
        units,
        unit: SAMPLES,
        seconds: units as f64 * rates.sample,
    }
}

/// The alignment and the three runs of every seed. Pictures are seen for the first time by whichever
/// job draws them first; all jobs of a process share what was seen.
fn training(recipe: &Recipe, rates: &Rates) -> Vec<Line> {
    let Some(train) = &recipe.train else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    let mut seen = Seen::default();
    for (index, _) in train.seeds.iter().enumerate() {
        let turn = if index == 0 {
            String::new()
        } else {
            format!(".seed{}", train.seeds[index])
        };
        let (align, instruct) = (&train.align, &train.instruct);
        for (run, steps, batch, step, share) in [
            (
                "align",
                align.steps,
                align.batch_size,
                rates.align_step,
                0.0,
            ),
            (
                "baseline",
                train.baseline_steps,
                instruct.batch_size,
                rates.base_step,
                0.0,
            ),
            (
                "control",
                instruct.steps,
                instruct.batch_size,
                rates.base_step,
                0.0,
            ),
            (
                "synthetic",
                instruct.steps,
                instruct.batch_size,
                rates.synthetic_step,
                f64::from(train.synthetic_share),
            ),
        ] {
            let drawn = f64::from(steps) * f64::from(batch);
            let new = seen.base(drawn * (1.0 - share), rates.base_pictures)
                + seen.synthetic(drawn * share, trained_samples(recipe) as f64);
            lines.push(Line {
                step: format!("train {run}{turn}"),
                units: steps.into(),
                unit: STEPS,
                seconds: rates.job + f64::from(steps) * step + new * rates.new_picture,
            });
        }
    }
    lines
}

/// Pictures that the vision tower has seen. An epoch draws each once.
#[derive(Debug, Default)]
struct Seen {
    base: f64,
    synthetic: f64,
}

impl Seen {
    fn base(&mut self, drawn: f64, all: f64) -> f64 {
        newly(&mut self.base, drawn, all)
    }

    fn synthetic(&mut self, drawn: f64, all: f64) -> f64 {
        newly(&mut self.synthetic, drawn, all)
    }
}

/// Pictures among `drawn` of `all` that were not seen before; each job begins its own epoch.
fn newly(seen: &mut f64, drawn: f64, all: f64) -> f64 {
    let drawn = drawn.min(all);
    let new = match all > 0.0 {
        true => drawn * (1.0 - *seen / all),
        false => 0.0,
    };
    *seen += new;
    new
}

/// Every run of every seed answers every question twice: with its picture and with another one.
fn evaluation(recipe: &Recipe, rates: &Rates) -> Line {
    const RUNS: u64 = 3;
    const BENCHMARKS: u64 = 2;
    const CONDITIONS: u64 = 2;
    let per_ability = recipe
        .eval
        .as_ref()
        .map_or(0, |eval| eval.questions_per_ability);
    let seeds = recipe
        .train
        .as_ref()
        .map_or(1, |train| train.seeds.len() as u64);
    let abilities = recipe.synth.abilities.len() as u64;
    let units = RUNS * BENCHMARKS * CONDITIONS * seeds * abilities * u64::from(per_ability);
    Line {
        step: "evaluation".to_owned(),
        units,
        unit: QUESTIONS,
        seconds: rates.evaluation + units as f64 * rates.question,
    }
}

fn scaled(count: u64, factor: f64) -> u64 {
    (count as f64 * factor).ceil().max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_add_up_and_a_picture_is_new_only_once() {
        let recipe: Recipe = toml::from_str(
            "seed = 1\n[synth]\nabilities = { animal = 10, food = 10 }\n\
             [train]\nbaseline_steps = 5\nalign = { steps = 10, batch_size = 10, learning_rate = 1e-3 }\n\
             instruct = { steps = 20, batch_size = 10, learning_rate = 1e-3 }\n\
             [eval]\nquestions_per_ability = 3\ngenerated_images_per_ability = 4\n",
        )
        .unwrap();
        let rates = Rates {
            sample: 2.0,
            attempts_per_sample: 1.5,
            job: 1.0,
            align_step: 0.1,
            base_step: 0.2,
            synthetic_step: 0.3,
            new_picture: 0.01,
            base_pictures: 100.0,
            question: 0.5,
            evaluation: 3.0,
            price: Some(Price {
                prompt: 0.5,
                dialogue: 2.0,
                currency: "USD".into(),
            }),
            ..Rates::default()
        };
        let estimate = Estimate::new(&recipe, &rates);
        let seconds: Vec<(String, f64)> = estimate
            .steps
            .iter()
            .map(|line| (line.step.clone(), (line.seconds * 1000.0).round() / 1000.0))
            .collect();
        let expected = [
            ("synthesis", 40.0),
            // 100 draws show all 100 pictures of the base data.
            ("train align", 1.0 + 1.0 + 1.0),
            ("train baseline", 1.0 + 1.0),
            ("train control", 1.0 + 4.0),
            // Half of 200 draws are of 20 synthesized pictures.
            ("train synthetic", 1.0 + 6.0 + 0.2),
            ("benchmark", 16.0),
            ("evaluation", 3.0 + 36.0),
        ];
        let expected: Vec<(String, f64)> = expected
            .iter()
            .map(|&(step, seconds)| (step.to_owned(), seconds))
            .collect();
        assert_eq!(seconds, expected);
        assert_eq!(
            (estimate.prompts, estimate.images, estimate.dialogues),
            (42, 42, 28)
        );
        assert_eq!(
            (estimate.cost, estimate.currency.as_str()),
            (Some(77.0), "USD")
        );
    }
}
