//! Clean samples, and how each gate is asked about them and about what `defects` plants.

mod dialogues;
mod pictures;
mod prompts;

use dataset::identity::SampleId;
use diptych::{
    recipe::Gates,
    synth::gates::{self, Held, Traits},
};
use image::RgbImage;
use models::clip::Clip;
use proto::dataset::v1::{GateResult, Sample};
use tests::checkout;

use crate::made::picture_of;

/// What a gate made of planted and of clean samples.
pub(crate) struct Row {
    pub(crate) gate: &'static str,
    pub(crate) caught: usize,
    pub(crate) refused: usize,
}

impl Row {
    /// Counts the rejections among the verdicts on planted and on clean samples.
    fn of(
        gate: &'static str,
        planted: impl Iterator<Item = Option<GateResult>>,
        clean: impl Iterator<Item = Option<GateResult>>,
    ) -> Self {
        let rejected = |verdict: Option<GateResult>| {
            let verdict = verdict.expect("the gate is on");
            assert_eq!(verdict.gate, gate);
            gates::rejection(&[verdict]).is_some()
        };
        Self {
            gate,
            caught: planted.map(rejected).filter(|&is| is).count(),
            refused: clean.map(rejected).filter(|&is| is).count(),
        }
    }
}

/// A hundred clean samples under the rules.
pub(crate) struct Bench {
    samples: Vec<Sample>,
    pictures: Vec<RgbImage>,
    rules: Gates,
    clip: Clip,
}

impl Bench {
    pub(crate) fn new(samples: Vec<Sample>, rules: Gates) -> Self {
        let pictures = samples.iter().map(picture_of).collect();
        Self {
            samples,
            pictures,
            rules,
            clip: Clip::load(&checkout().join("models/nano/nano-clip")).unwrap(),
        }
    }

    /// The prompts' words without emphasis.
    fn texts(&self) -> impl Iterator<Item = String> {
        self.samples.iter().map(|sample| {
            let parts = sample.prompts[0].parts.iter();
            let parts: Vec<&str> = parts.map(|part| part.text.as_str()).collect();
            parts.join(", ")
        })
    }
}

/// What is known of the samples before, as `set` says it of each value.
fn held_with<T>(values: &[T], set: impl Fn(&mut Traits, &T)) -> Held {
    let mut held = Held::default();
    for (index, value) in values.iter().enumerate() {
        let mut traits = Traits::default();
        set(&mut traits, value);
        let id: SampleId = format!("{index:032x}").parse().unwrap();
        held.enter(id, traits);
    }
    held
}
