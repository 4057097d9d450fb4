//! A checkpoint against what diffusers gives for it: `fixtures/make_layouts.py` wrote both.

#[path = "compare_joint.rs"]
mod joint;
#[path = "pictures.rs"]
mod pictures;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use candle_core::Tensor;
use models::clip_text::ClipText;
use models::clip_tokenizer::ClipTokenizer;
use models::lora::{Lora, LoraFile, Part};
use models::ops::precision::Precision;
use models::stable_diffusion::{Picture, Pipeline, PromptSyntax, Request};
use models::unet::{Addition, Unet};
use models::vae::Vae;
use models::weights::{Adapters, Weights};
use serde_json::Value;

/// One comparison.
pub(crate) struct Row {
    /// The part.
    pub(crate) what: String,
    /// ‖found − expected‖ / ‖expected‖, or the largest difference of a picture in 255ths.
    pub(crate) error: f64,
    /// The most that it may be.
    pub(crate) bound: f64,
}

/// The most that a part may differ, relatively, in f32.
const PART_BOUND: f64 = 1e-4;
/// The most that a pixel may differ, in 255ths.
const PIXEL_BOUND: f64 = 2.;

/// A fixture: `checkpoint/`, `expected.safetensors`, `expected.json`, adapters.
struct Fixture {
    folder: PathBuf,
    tensors: Weights,
    settings: Value,
}

/// Compares all parts of the fixture in `folder`, then a whole picture.
pub(crate) fn compare(folder: &Path) -> Result<Vec<Row>> {
    let fixture = Fixture {
        folder: folder.to_path_buf(),
        tensors: Weights::open(&folder.join("expected.safetensors"))?,
        settings: serde_json::from_slice(&std::fs::read(folder.join("expected.json"))?)?,
    };
    let mut rows = fixture.texts("", &[])?;
    if fixture.has("transformer_in") {
        rows.extend(fixture.joint()?);
    } else {
        rows.push(fixture.unet("", Vec::new())?);
    }
    rows.push(fixture.vae()?);
    if fixture.has("picture") {
        rows.push(fixture.picture()?);
    }
    rows.extend(pictures::compare(folder)?);
    let adapters = fixture.settings["loras"].as_array().cloned();
    for adapter in adapters.unwrap_or_default() {
        rows.extend(fixture.adapted(&adapter)?);
    }
    Ok(rows)
}

impl Fixture {
    fn part(&self, name: &str) -> PathBuf {
        self.folder.join("checkpoint").join(name)
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains(name)
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let shape = self.tensors.shape(name).context("not expected")?;
        Ok(self.tensors.tensor(name, shape)?)
    }

    fn values(&self, name: &str) -> Result<Vec<f32>> {
        numbers(&self.tensor(name)?)
    }

    fn row(&self, what: String, found: &[f32], expected: &str) -> Result<Row> {
        let expected = self.values(expected)?;
        ensure!(found.len() == expected.len(), "{what}: another count");
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let pairs = found.iter().zip(&expected);
        let gap = norm(&mut pairs.map(|(f, e)| f64::from(*f) - f64::from(*e)));
        let whole = norm(&mut expected.iter().map(|e| f64::from(*e)));
        Ok(Row {
            what,
            error: (gap / whole).sqrt(),
            bound: PART_BOUND,
        })
    }

    /// Text states of all encoders, with `mark` behind the names of what is expected.
    fn texts(&self, mark: &str, loras: &[&std::sync::Arc<Lora>]) -> Result<Vec<Row>> {
        let prompts: Vec<String> = serde_json::from_value(self.settings["prompts"].clone())?;
        let is_xl = self.has("ids_2");
        let mut rows = Vec::new();
        for (end, part) in [("", Part::Text), ("_2", Part::Text2)] {
            if !self.has(&format!("ids{end}")) {
                continue;
            }
            let adapters = loras.iter().map(|lora| lora.part(part)).collect();
            let tokenizer = ClipTokenizer::load(&self.part(&format!("tokenizer{end}")))?;
            let text = ClipText::load_adapted(&self.part(&format!("text_encoder{end}")), adapters)?;
            let ids = self.values(&format!("ids{end}"))?;
            let length = ids.len() / prompts.len();
            let (mut states, mut pooled) = (Vec::new(), Vec::new());
            for (prompt, ids) in prompts.iter().zip(ids.chunks(length)) {
                let framed = tokenizer.framed(&tokenizer.encode(prompt)?, length);
                let same = framed.iter().map(|id| *id as f32).eq(ids.iter().copied());
                ensure!(same, "{prompt}: other tokens: {framed:?}, not {ids:?}");
                let encoded = text.encode(&framed)?;
                states.extend(numbers(match is_xl {
                    true => &encoded.penultimate,
                    false => &encoded.hidden,
                })?);
                pooled.extend(encoded.pooled);
            }
            let name = format!("text_hidden{end}{mark}");
            rows.push(self.row(format!("text states{end}{mark}"), &states, &name)?);
            if end == "_2" {
                let name = format!("pooled{mark}");
                rows.push(self.row(format!("pooled text{mark}"), &pooled, &name)?);
            }
        }
        Ok(rows)
    }

    fn unet(&self, mark: &str, adapters: Adapters) -> Result<Row> {
        let unet = Unet::load_adapted(&self.part("unet"), adapters, Precision::F32)?;
        let (states, timesteps) = (self.tensor("unet_states")?, self.values("timesteps")?);
        let mut contexts = Vec::new();
        for i in 0..timesteps.len() {
            let states = states.get(i)?;
            contexts.push(if self.has("time_ids") {
                let pooled = numbers(&self.tensor("pooled")?.get(i)?)?;
                let sizes = numbers(&self.tensor("time_ids")?.get(i)?)?;
                let sizes = sizes.try_into().ok().context("six sizes")?;
                let addition = Addition {
                    pooled: &pooled,
                    sizes,
                };
                unet.context_with(&states, &addition)?
            } else {
                unet.context(&states)?
            });
        }
        let contexts: Vec<_> = contexts.iter().collect();
        let found = unet.forward(&self.tensor("unet_in")?, &timesteps, &contexts)?;
        let name = format!("unet_out{mark}");
        self.row(format!("unet{mark}"), &numbers(&found)?, &name)
    }

    fn vae(&self) -> Result<Row> {
        let vae = Vae::load(&self.part("vae"))?;
        let found = vae.decode(&self.tensor("vae_in")?)?.permute((0, 3, 1, 2))?;
        self.row("vae decoder".to_owned(), &numbers(&found)?, "vae_out")
    }

    fn picture(&self) -> Result<Row> {
        let pipeline = Pipeline::load(&self.folder.join("checkpoint"), "fixture")?;
        let settings = &self.settings["picture"];
        let text = |name: &str| settings[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| settings[name].as_f64().unwrap_or_default();
        let expected = self.tensor("picture")?;
        let (height_px, width_px, _) = expected.dims3()?;
        let found = pipeline.generate(&Request {
            prompt: text("prompt"),
            negative_prompt: text("negative"),
            seed: number("seed") as u64,
            steps: number("steps") as usize,
            guidance: number("guidance") as f32,
            width_px,
            height_px,
            syntax: PromptSyntax::Plain,
            scheduler: None,
            ..Request::default()
        })?;
        let what = format!("picture of {width_px} × {height_px}");
        picture_row(what, &found, &expected)
    }

    /// Text states and UNet with an adapter merged.
    fn adapted(&self, adapter: &Value) -> Result<Vec<Row>> {
        let name = adapter["name"].as_str().context("an adapter's name")?;
        let lora = Lora::open(&LoraFile {
            file: self.folder.join(format!("{name}.safetensors")),
            scale: adapter["scale"].as_f64().context("a scale")? as f32,
        })?;
        let mark = format!("_{name}");
        let of_denoiser = vec![lora.part(Part::Unet)];
        let rows = if self.has("transformer_in") {
            vec![self.transformer(&mark, of_denoiser)?]
        } else {
            let mut rows = self.texts(&mark, &[&lora])?;
            rows.push(self.unet(&mark, of_denoiser)?);
            rows
        };
        lora.finish()?;
        Ok(rows)
    }
}

/// The largest difference of any channel of any pixel.
fn picture_row(what: String, found: &Picture, expected: &Tensor) -> Result<Row> {
    let expected = numbers(expected)?;
    ensure!(found.rgb.len() == expected.len(), "{what}: another size");
    let pairs = found.rgb.iter().zip(&expected);
    let gap = pairs.map(|(f, e)| f64::from((f32::from(*f) - e).abs()));
    Ok(Row {
        what,
        error: gap.fold(0., f64::max),
        bound: PIXEL_BOUND,
    })
}

fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.contiguous()?.flatten_all()?.to_vec1()?)
}
