//! Whole pictures of a checkpoint against those of diffusers: `fixtures/pictures.py` wrote them.

use std::path::Path;

use anyhow::{Context as _, Result};
use models::scheduler::Kind;
use models::stable_diffusion::{Original, PictureFile, Pipeline, Request};
use models::weights::Weights;
use serde::Deserialize;

use super::{Row, picture_row};

/// One picture that diffusers made.
#[derive(Deserialize)]
struct Wanted {
    name: String,
    prompt: String,
    negative: String,
    seed: u64,
    steps: usize,
    guidance: f32,
    scheduler: Option<String>,
    strength: Option<f64>,
    #[serde(default)]
    mask: bool,
    #[serde(default)]
    guidance_rescale: f32,
    #[serde(default)]
    clip_skip: usize,
}

/// Makes all pictures that `folder` names again; none where it names none.
pub(super) fn compare(folder: &Path) -> Result<Vec<Row>> {
    let list = folder.join("pictures.json");
    if !list.is_file() {
        return Ok(Vec::new());
    }
    let pipeline = Pipeline::load(&folder.join("checkpoint"), "fixture")?;
    let expected = Weights::open(&folder.join("pictures.safetensors"))?;
    let wanted: Vec<Wanted> = serde_json::from_slice(&std::fs::read(list)?)?;
    let compared = wanted.iter().map(|wanted| {
        let shape = expected.shape(&wanted.name).context("a picture")?;
        let expected = expected.tensor(&wanted.name, shape)?;
        let found = pipeline.generate(&wanted.request(folder, shape)?)?;
        picture_row(format!("picture {}", wanted.name), &found, &expected)
    });
    compared.collect()
}

impl Wanted {
    /// For a picture of `shape`: height, width, channels.
    fn request(&self, folder: &Path, shape: &[usize]) -> Result<Request> {
        let file = |name| -> Result<_> {
            let bytes = std::fs::read(folder.join(name))?;
            Ok(PictureFile::open(&bytes)?)
        };
        let original = |strength| -> Result<_> {
            let mask = self.mask.then(|| file("mask.png"));
            Ok(Original {
                picture: file("init.png")?,
                strength,
                mask: mask.transpose()?,
            })
        };
        Ok(Request {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative.clone(),
            seed: self.seed,
            steps: self.steps,
            guidance: self.guidance,
            height_px: shape[0],
            width_px: shape[1],
            scheduler: self.scheduler.as_deref().map(Kind::parse).transpose()?,
            guidance_rescale: self.guidance_rescale,
            clip_skip: self.clip_skip,
            original: self.strength.map(original).transpose()?,
            ..Request::default()
        })
    }
}
