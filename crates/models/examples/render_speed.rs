//! Seconds per picture of a checkpoint on this machine.
//!
//! ```text
//! cargo run --release -p models --example render_speed -- DIR [PICTURES] [STEPS] [PROMPT] [FILE.ppm]
//! ```

use std::path::Path;
use std::time::Instant;

use models::stable_diffusion::{Denoising, Pipeline, PromptSyntax, Request};

fn main() -> anyhow::Result<()> {
    models::threads::init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |i: usize, default: &str| arguments.get(i).map_or(default, |a| a).to_owned();
    let count: u64 = argument(1, "8").parse()?;
    let pipeline = Pipeline::load(Path::new(&argument(0, "models/nano/nano-sd")), "model")?;
    let side = pipeline.default_side_px();
    let begun = Instant::now();
    let mut pictures: Vec<Denoising> = Vec::new();
    for seed in 0..count {
        pictures.push(pipeline.begin(&Request {
            prompt: argument(3, "((dog)), beach, cartoon"),
            negative_prompt: String::new(),
            seed,
            steps: argument(2, "25").parse()?,
            guidance: 3.,
            width_px: side,
            height_px: side,
            syntax: PromptSyntax::Webui,
            scheduler: None,
            ..Request::default()
        })?);
    }
    let encoded = begun.elapsed();
    while pictures.iter().any(|picture| !picture.is_done()) {
        pipeline.step(&mut pictures.iter_mut().collect::<Vec<_>>())?;
    }
    let denoised = begun.elapsed();
    let finished = pipeline.finish(&pictures.iter().collect::<Vec<_>>());
    let each = |seconds: f64| seconds / count as f64;
    eprintln!(
        "{count} pictures of {side} px, {}: {:.3} s each (text {:.3}, steps {:.3}, decoding {:.3})",
        models::ops::simd::Isa::current().name(),
        each(begun.elapsed().as_secs_f64()),
        each(encoded.as_secs_f64()),
        each((denoised - encoded).as_secs_f64()),
        each((begun.elapsed() - denoised).as_secs_f64()),
    );
    if let Some(file) = arguments.get(4) {
        let mut bytes = format!("P6 {side} {} 255\n", side * finished.len()).into_bytes();
        for picture in finished {
            bytes.extend(picture?.rgb);
        }
        std::fs::write(file, bytes)?;
    }
    Ok(())
}
