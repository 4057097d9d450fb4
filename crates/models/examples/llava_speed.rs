//! Times a training step and greedy decoding of a LLaVA directory.
//!
//! `cargo run --release -p models --example llava_speed -- DIR [STEPS]`
//!
//! The batch is 16 pictures with one question and answer each, as in the nano experiment.

use std::time::Instant;

use models::conversation::{Round, Template, encode};
use models::generate::Question;
use models::llava::{Aspect, Example, Llava, Trained};
use models::optim::{Adamw, AdamwSettings};

#[allow(clippy::print_stdout, reason = "a program whose output is its purpose")]
fn main() -> anyhow::Result<()> {
    models::threads::init();
    let mut arguments = std::env::args().skip(1);
    let folder = arguments
        .next()
        .ok_or_else(|| anyhow::anyhow!("name a LLaVA directory"))?;
    let steps: usize = arguments.next().map_or(Ok(20), |text| text.parse())?;
    let mut model = Llava::load(folder.as_ref())?;
    let side = model.config().vision_config.image_size as u32;
    let picture = |seed: u32| {
        image::RgbImage::from_fn(side, side, |x, y| {
            image::Rgb([(x * seed) as u8, y as u8, 9])
        })
    };
    let pictures: Vec<_> = (0..16).map(picture).collect();
    let start = Instant::now();
    let features = model.image_features(&pictures, Aspect::Pad);
    println!(
        "vision_ms_per_image {:.2}",
        start.elapsed().as_secs_f64() * 1e3 / 16.0
    );

    let rounds = [Round {
        question: "<image>\nIs there a dog in the picture?".into(),
        answer: "Yes, there is a dog.".into(),
    }];
    let encoded = encode(Template::VicunaV1, &rounds, model.tokenizer())?;
    let batch: Vec<Example> = features
        .iter()
        .map(|f| Example {
            encoded: encoded.clone(),
            features: vec![f.clone()],
        })
        .collect();
    model.set_trained(Trained::ProjectorAndLanguage)?;
    let mut adamw = Adamw::new(model.parameters(), AdamwSettings::default());
    let mut millis = Vec::new();
    let mut tokens = 0;
    for _ in 0..steps {
        let start = Instant::now();
        let loss = model.loss(&batch, None)?;
        tokens = loss.token_count;
        let grads = loss.value.backward()?;
        adamw.step(model.parameters(), &grads, |_| 1e-4, Some(1.0))?;
        millis.push(start.elapsed().as_secs_f64() * 1e3);
    }
    millis.sort_by(f64::total_cmp);
    println!(
        "train_step_ms {:.1} (best {:.1}) tokens {tokens}",
        millis[millis.len() / 2],
        millis[0]
    );

    model.set_trained(Trained::Nothing)?;
    let question = |f: &_| Question {
        text: "What is in the picture?".into(),
        features: vec![std::sync::Arc::clone(f)],
    };
    let questions: Vec<Question> = features.iter().map(question).collect();
    let start = Instant::now();
    let answers = model.answer_all(&questions, 24, &|| true);
    let count: usize = answers
        .iter()
        .flatten()
        .map(|answer| answer.tokens.len() + 1)
        .sum();
    println!(
        "decode_ms_per_answer {:.2} tokens {count}",
        start.elapsed().as_secs_f64() * 1e3 / 16.0
    );
    Ok(())
}
