//! A finished picture as a PNG that says where it comes from.
//!
//! The text chunks are those that people's tools read: `parameters` as the web interfaces write it,
//! and one chunk per setting. No clock and no host name: equal work gives equal bytes.

use models::clip_image::RgbImage;
use models::ops::precision::Precision;
use models::ops::simd::Isa;
use models::stable_diffusion::{Picture, Pipeline, PromptSyntax, Request};
use models::weights::hex;
use proto::dataset::v1 as dataset;
use proto::diffusion::v1::SafetyVerdict;
use sha2::{Digest as _, Sha256};

use crate::engine::SafetyRule;
use crate::error::Error;

/// A rendered picture with all that is said of it.
#[derive(Debug)]
pub(crate) struct Rendered {
    png: Vec<u8>,
    width_px: u32,
    height_px: u32,
    provenance: dataset::Provenance,
    /// Whether the prompt was cut.
    pub(crate) prompt_truncated: bool,
    /// What the checker said.
    pub(crate) safety: SafetyVerdict,
    /// Of the noise.
    pub(crate) seed: u64,
}

/// Asks the checkpoint's checker.
///
/// # Errors
/// [`Error::Unsafe`] for a flagged picture that is not handed over, and [`Error::ScoringModel`].
pub(crate) fn judge(picture: &Picture, rule: &SafetyRule) -> Result<SafetyVerdict, Error> {
    let Some(checker) = &rule.checker else {
        return Ok(SafetyVerdict::NotChecked);
    };
    let (width, height) = (side(picture.width_px), side(picture.height_px));
    let pixels = RgbImage::from_raw(width, height, picture.rgb.clone());
    let pixels = pixels.ok_or_else(|| Error::Task("a picture of another size".to_owned()))?;
    let judged = checker.model.judge(&pixels);
    let judged = judged.map_err(|error| Error::ScoringModel(Box::new(error)))?;
    match judged {
        // No number is over or under a bound, so it must not become a verdict.
        judged if !judged.score.is_finite() => {
            Err(Error::Task("the safety checker gave no number".to_owned()))
        }
        judged if !judged.is_unsafe => Ok(SafetyVerdict::Safe),
        _ if rule.delivers_unsafe => Ok(SafetyVerdict::Unsafe),
        _ => Err(Error::Unsafe),
    }
}

impl Rendered {
    /// Encodes `picture` with its origin.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub(crate) fn new(
        picture: &Picture,
        request: &Request,
        pipeline: &Pipeline,
        safety: SafetyVerdict,
    ) -> Result<Self, Error> {
        let settings = settings(request, pipeline)?;
        Ok(Self {
            png: encode(picture, &chunks(request, pipeline, &settings))?,
            width_px: side(picture.width_px),
            height_px: side(picture.height_px),
            provenance: provenance(request, pipeline, settings),
            prompt_truncated: false,
            safety,
            seed: request.seed,
        })
    }

    /// A picture that was made elsewhere, with what is known of its origin.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub(crate) fn elsewhere(
        picture: &Picture,
        provenance: dataset::Provenance,
    ) -> Result<Self, Error> {
        let version = concat!("Diptych ", env!("CARGO_PKG_VERSION"));
        let mut chunks = vec![
            ("Source".to_owned(), "AI-generated".to_owned()),
            ("Software".to_owned(), version.to_owned()),
            ("model".to_owned(), provenance.model.clone()),
        ];
        let known: std::collections::BTreeMap<_, _> = provenance.parameters.iter().collect();
        chunks.extend(
            known
                .into_iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        if provenance.seeded {
            chunks.push(("seed".to_owned(), provenance.seed.to_string()));
        }
        Ok(Self {
            png: encode(picture, &chunks)?,
            width_px: side(picture.width_px),
            height_px: side(picture.height_px),
            seed: provenance.seed,
            provenance,
            prompt_truncated: false,
            safety: SafetyVerdict::NotChecked,
        })
    }

    /// The image of the schema.
    pub(crate) fn into_image(self, sample_id: String) -> dataset::Image {
        dataset::Image {
            sample_id,
            sha256: hex(&Sha256::digest(&self.png)),
            content: Some(dataset::image::Content::Data(self.png.into())),
            media_type: "image/png".to_owned(),
            width_px: self.width_px,
            height_px: self.height_px,
            ai_generated: true,
            provenance: Some(self.provenance),
        }
    }
}

/// At most `MAX_SIDE_PX`, so it always fits.
fn side(pixels: usize) -> u32 {
    u32::try_from(pixels).unwrap_or(u32::MAX)
}

/// Settings that decided the picture besides prompt, seed and model, by name.
fn settings(request: &Request, pipeline: &Pipeline) -> Result<Vec<(&'static str, String)>, Error> {
    let syntax = match request.syntax {
        PromptSyntax::Plain => "plain",
        PromptSyntax::Webui => "webui",
    };
    let mut settings = vec![
        ("steps", request.steps.to_string()),
        ("guidance", request.guidance.to_string()),
        (
            "scheduler",
            pipeline.scheduler_name(request.scheduler)?.to_owned(),
        ),
        ("width_px", request.width_px.to_string()),
        ("height_px", request.height_px.to_string()),
        ("prompt_syntax", syntax.to_owned()),
        ("instruction_set", Isa::current().name().to_owned()),
    ];
    // What is usual is not said, so that such a picture has the bytes that it always had.
    if pipeline.precision() != Precision::F32 {
        settings.push(("precision", pipeline.precision().name().to_owned()));
    }
    if request.guidance_rescale != 0. {
        settings.push(("guidance_rescale", request.guidance_rescale.to_string()));
    }
    if request.clip_skip != 0 {
        settings.push(("clip_skip", request.clip_skip.to_string()));
    }
    if let Some(original) = &request.original {
        settings.push(("strength", original.strength.to_string()));
        settings.push(("init_image_sha256", sha256(original.picture.bytes())));
        if let Some(mask) = &original.mask {
            settings.push(("mask_image_sha256", sha256(mask.bytes())));
        }
    }
    Ok(settings)
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Hashes of what the picture was made from.
fn parents(request: &Request) -> Vec<String> {
    let original = request.original.iter();
    let files = original.flat_map(|o| std::iter::once(&o.picture).chain(&o.mask));
    let prompt = sha256(request.prompt.as_bytes());
    std::iter::once(prompt)
        .chain(files.map(|file| sha256(file.bytes())))
        .collect()
}

fn provenance(
    request: &Request,
    pipeline: &Pipeline,
    settings: Vec<(&'static str, String)>,
) -> dataset::Provenance {
    let mut parameters: std::collections::HashMap<String, String> = settings
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    parameters.insert("prompt".to_owned(), request.prompt.clone());
    parameters.insert(
        "negative_prompt".to_owned(),
        request.negative_prompt.clone(),
    );
    dataset::Provenance {
        producer: "diffusion/candle".to_owned(),
        code_version: env!("CARGO_PKG_VERSION").to_owned(),
        model: pipeline.name().to_owned(),
        model_sha256: pipeline.sha256().to_owned(),
        seed: request.seed,
        seeded: true,
        parameters,
        parent_sha256: parents(request),
    }
}

/// Text chunks, in order.
fn chunks(
    request: &Request,
    pipeline: &Pipeline,
    settings: &[(&'static str, String)],
) -> Vec<(String, String)> {
    let version = concat!("Diptych ", env!("CARGO_PKG_VERSION"));
    let listed: Vec<String> = settings
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let parameters = format!(
        "{}\nNegative prompt: {}\nSeed: {}, Model: {}, Model hash: {}, {}, Version: {version}",
        request.prompt,
        request.negative_prompt,
        request.seed,
        pipeline.name(),
        pipeline.sha256(),
        listed.join(", "),
    );
    let mut chunks = vec![
        ("Source".to_owned(), "AI-generated".to_owned()),
        ("Software".to_owned(), version.to_owned()),
        ("parameters".to_owned(), parameters),
        ("prompt".to_owned(), request.prompt.clone()),
        (
            "negative_prompt".to_owned(),
            request.negative_prompt.clone(),
        ),
        ("seed".to_owned(), request.seed.to_string()),
        ("model".to_owned(), pipeline.name().to_owned()),
        ("model_sha256".to_owned(), pipeline.sha256().to_owned()),
    ];
    chunks.extend(
        settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone())),
    );
    chunks
}

/// A PNG with text chunks.
///
/// # Errors
/// [`Error::Encode`].
pub(crate) fn encode(picture: &Picture, chunks: &[(String, String)]) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, side(picture.width_px), side(picture.height_px));
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (name, value) in chunks {
        // tEXt holds Latin-1 only; iTXt holds all of Unicode.
        if value.is_ascii() {
            encoder.add_text_chunk(name.clone(), value.clone())?;
        } else {
            encoder.add_itxt_chunk(name.clone(), value.clone())?;
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&picture.rgb)?;
    writer.finish()?;
    Ok(out)
}
