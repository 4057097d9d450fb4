//! What stands in a directory of diffusers' layout, and whether its parts belong together.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Pipeline;
use super::denoiser::Denoiser;
use super::joint_parts::check_joint;
use crate::config::{self, Fields, LoadError};
use crate::lora::{self, LoraFile};
use crate::ops::precision::Precision;
use crate::weights::{self, Weights, checkpoint_sha256, hex};

/// What a pipeline is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Stable Diffusion 1 and 2.
    Sd,
    /// Stable Diffusion XL.
    Xl,
    /// Stable Diffusion 3 and 3.5.
    Sd3,
    /// FLUX.1.
    Flux,
}

/// What `model_index.json` says.
pub(super) struct Index {
    pub(super) family: Family,
    parts: Vec<Part>,
    /// Whether an empty negative prompt stands for states of zeros.
    pub(super) zeros_for_empty_prompt: bool,
}

type Classes = &'static [&'static str];
/// A folder, and the classes of it that can be loaded.
type Part = (&'static str, Classes);

const TOKENIZERS: Classes = &["CLIPTokenizer", "CLIPTokenizerFast"];
const T5_TOKENIZERS: Classes = &["T5TokenizerFast", "T5Tokenizer"];
const PROJECTING: Classes = &["CLIPTextModelWithProjection"];
const VAE: Part = ("vae", &["AutoencoderKL"]);
/// The parts of Stable Diffusion 1 and 2.
const PARTS: [Part; 4] = [
    ("text_encoder", &["CLIPTextModel"]),
    ("tokenizer", TOKENIZERS),
    ("unet", &["UNet2DConditionModel"]),
    VAE,
];
/// The parts that Stable Diffusion XL has beside these.
const XL_PARTS: [Part; 2] = [("text_encoder_2", PROJECTING), ("tokenizer_2", TOKENIZERS)];
const SD3_PARTS: [Part; 6] = [
    ("text_encoder", PROJECTING),
    ("tokenizer", TOKENIZERS),
    ("text_encoder_2", PROJECTING),
    ("tokenizer_2", TOKENIZERS),
    ("transformer", &["SD3Transformer2DModel"]),
    VAE,
];
/// What a checkpoint of Stable Diffusion 3 may do without.
const SD3_LONG_PARTS: [Part; 2] = [
    ("text_encoder_3", &["T5EncoderModel"]),
    ("tokenizer_3", T5_TOKENIZERS),
];
const FLUX_PARTS: [Part; 6] = [
    ("text_encoder", &["CLIPTextModel"]),
    ("tokenizer", TOKENIZERS),
    ("text_encoder_2", &["T5EncoderModel"]),
    ("tokenizer_2", T5_TOKENIZERS),
    ("transformer", &["FluxTransformer2DModel"]),
    VAE,
];
/// Classes of `model_index.json`; whether a checkpoint repaints is told by its UNet, not by them.
const PIPELINES: [(&str, Family); 8] = [
    ("StableDiffusionPipeline", Family::Sd),
    ("StableDiffusionImg2ImgPipeline", Family::Sd),
    ("StableDiffusionInpaintPipeline", Family::Sd),
    ("StableDiffusionXLPipeline", Family::Xl),
    ("StableDiffusionXLImg2ImgPipeline", Family::Xl),
    ("StableDiffusionXLInpaintPipeline", Family::Xl),
    ("StableDiffusion3Pipeline", Family::Sd3),
    ("FluxPipeline", Family::Flux),
];

impl Index {
    /// Reads `model_index.json` in `folder` and refuses what is not served.
    pub(super) fn read(folder: &Path) -> Result<Self, LoadError> {
        let mut fields = Fields::open(&folder.join("model_index.json"))?;
        // The refiner: it goes on from a picture, and is told how fine that is.
        fields.only("requires_aesthetics_score", false)?;
        let class: String = fields.require("_class_name")?;
        let Some((_, family)) = PIPELINES.iter().find(|(name, _)| *name == class) else {
            let known = PIPELINES.map(|(name, _)| name).join(", ");
            return Err(fields
                .unsupported("_class_name", &class.into(), &known)
                .into());
        };
        let mut index = Self {
            family: *family,
            parts: family_parts(&mut fields, *family)?,
            zeros_for_empty_prompt: false,
        };
        for (part, classes) in index.parts() {
            check_part(&mut fields, folder, part, classes)?;
        }
        if index.family == Family::Xl {
            index.zeros_for_empty_prompt = fields.take_or("force_zeros_for_empty_prompt", true)?;
            fields.ignore(&["add_watermarker"]);
        }
        if let Some((_, Some(class))) =
            fields.take::<(Option<String>, Option<String>)>("image_encoder")?
        {
            return Err(fields
                .unsupported("image_encoder", &class.into(), "none")
                .into());
        }
        // Read from its own file, which has the class too. A safety checker is run by the service.
        fields.ignore(&[
            "scheduler",
            "safety_checker",
            "feature_extractor",
            "requires_safety_checker",
        ]);
        fields.finish()?;
        Ok(index)
    }

    fn parts(&self) -> impl Iterator<Item = Part> {
        self.parts.iter().copied()
    }

    /// CLIP's text encoders, as adapters know them and as their folders end.
    pub(super) fn text_encoders(&self) -> impl Iterator<Item = (lora::Part, &'static str)> + use<> {
        let count = match self.family {
            Family::Sd | Family::Flux => 1,
            Family::Xl | Family::Sd3 => 2,
        };
        [(lora::Part::Text, ""), (lora::Part::Text2, "_2")]
            .into_iter()
            .take(count)
    }

    /// How the folders of T5 end, if the checkpoint has one.
    pub(super) fn t5_end(&self) -> Option<&'static str> {
        let (part, _) = self
            .parts()
            .find(|(_, classes)| classes.contains(&"T5EncoderModel"))?;
        part.strip_prefix("text_encoder")
    }
}

/// The parts that a checkpoint of `family` has; those that it does without are taken out of `fields`.
fn family_parts(fields: &mut Fields, family: Family) -> Result<Vec<Part>, LoadError> {
    Ok(match family {
        Family::Sd => PARTS.to_vec(),
        Family::Xl => [PARTS.as_slice(), &XL_PARTS].concat(),
        Family::Flux => FLUX_PARTS.to_vec(),
        Family::Sd3 => {
            let (encoder, _) = SD3_LONG_PARTS[0];
            let stated: Option<(Option<String>, Option<String>)> = fields.clone().take(encoder)?;
            if let Some((_, Some(_))) = stated {
                [SD3_PARTS.as_slice(), &SD3_LONG_PARTS].concat()
            } else {
                fields.ignore(&SD3_LONG_PARTS.map(|(part, _)| part));
                SD3_PARTS.to_vec()
            }
        }
    })
}

/// Looks at the class of one part and whether it is there.
fn check_part(
    fields: &mut Fields,
    folder: &Path,
    part: &str,
    classes: Classes,
) -> Result<(), LoadError> {
    let (_, class): (Option<String>, Option<String>) = fields.require(part)?;
    let class = class.unwrap_or_else(|| "null".to_owned());
    if !classes.contains(&class.as_str()) {
        let known = classes.join(", ");
        return Err(fields.unsupported(part, &class.into(), &known).into());
    }
    if !folder.join(part).is_dir() {
        return Err(fields.invalid(part, "has no folder of that name").into());
    }
    Ok(())
}

/// Every file that decides the picture.
fn checkpoint_files(folder: &Path, index: &Index) -> Result<Vec<PathBuf>, LoadError> {
    let mut files = vec![folder.join("model_index.json")];
    for part in index.parts().map(|(part, _)| part).chain(["scheduler"]) {
        files.extend(weights::deciding_files(&folder.join(part))?);
    }
    Ok(files)
}

/// SHA-256 over a checkpoint's files, and over its adapters where it has any, and over the name of its
/// precision where that is not f32: what makes other pictures is another model.
pub(super) fn sha256(
    folder: &Path,
    index: &Index,
    loras: &[LoraFile],
    precision: Precision,
) -> Result<String, LoadError> {
    let plain = checkpoint_sha256(folder, &checkpoint_files(folder, index)?)?;
    if loras.is_empty() && precision == Precision::F32 {
        return Ok(plain);
    }
    let mut whole = Sha256::new();
    whole.update(format!("{plain}\n"));
    for LoraFile { file, scale } in loras {
        // The name of an adapter's file decides nothing.
        let of_file = checkpoint_sha256(file, std::slice::from_ref(file))?;
        whole.update(format!("{of_file}  {scale}\n"));
    }
    if precision != Precision::F32 {
        whole.update(format!("{}\n", precision.name()));
    }
    Ok(hex(&whole.finalize()))
}

/// Numbers in the weights of all parts.
pub(super) fn count_parameters(folder: &Path, index: &Index) -> Result<u64, LoadError> {
    let count = |(part, _): Part| {
        let stems = ["model", "diffusion_pytorch_model"];
        Ok(Weights::open_in(&folder.join(part), &stems)?.parameter_count())
    };
    let parts = index
        .parts()
        .filter(|(part, _)| !part.starts_with("tokenizer"));
    parts.map(count).sum()
}

/// Refuses parts that were each read well, but do not belong together.
pub(super) fn check_parts(
    pipeline: &Pipeline,
    folder: &Path,
    index: &Index,
) -> Result<(), LoadError> {
    let bad = |part: &str, field: &str, reason: String| {
        let file = folder.join(part).join("config.json");
        let field = field.to_owned();
        Err(LoadError::Config(config::Error::Invalid {
            file,
            field,
            reason,
        }))
    };
    let Denoiser::Unet(unet) = &pipeline.denoiser else {
        check_joint(pipeline, folder, bad)?;
        return check_texts(pipeline, index, bad);
    };
    let (unet, vae) = (unet.config(), pipeline.vae.config());
    let width = pipeline.text_width();
    if unet.cross_attention_dim != width {
        let (wanted, encoder) = (unet.cross_attention_dim, "the text encoder gives");
        let reason = format!("is {wanted}, {encoder} {width}");
        return bad("unet", "cross_attention_dim", reason);
    }
    let latents = vae.latent_channels;
    // An inpainting UNet also sees the mask and the latents of what is kept.
    for (field, channels, fits) in [
        ("in_channels", unet.in_channels, [latents, 2 * latents + 1]),
        ("out_channels", unet.out_channels, [latents; 2]),
    ] {
        if !fits.contains(&channels) {
            let reason = format!("is {channels}, the autoencoder has {latents}");
            return bad("unet", field, reason);
        }
    }
    let pooled = pipeline.texts.last().and_then(|t| t.model.projected_dim());
    match unet.addition {
        None if index.family == Family::Xl => {
            let reason = "is missing, which Stable Diffusion XL needs";
            return bad("unet", "addition_embed_type", reason.to_owned());
        }
        Some(_) if index.family != Family::Xl => {
            let reason = "is for Stable Diffusion XL, and the pipeline is another";
            return bad("unet", "addition_embed_type", reason.to_owned());
        }
        Some(addition) if pooled != Some(addition.pooled_dim) => {
            let wanted = addition.pooled_dim;
            let given = pooled.map_or("no projection".to_owned(), |given| given.to_string());
            let reason = format!("leaves {wanted} for the pooled text, its encoder gives {given}");
            return bad("unet", "projection_class_embeddings_input_dim", reason);
        }
        _ => {}
    }
    check_texts(pipeline, index, bad)
}

fn check_texts(
    pipeline: &Pipeline,
    index: &Index,
    bad: impl Fn(&str, &str, String) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let length = pipeline.texts.first().map_or(0, |t| t.prompt_length());
    for (text, (_, end)) in pipeline.texts.iter().zip(index.text_encoders()) {
        let part = format!("text_encoder{end}");
        let (known, has) = (text.model.config().vocab_size, text.tokenizer.vocab_size());
        if has > known {
            let reason = format!("is {known}, the tokenizer has {has} tokens");
            return bad(&part, "vocab_size", reason);
        }
        let own = text.prompt_length();
        if own < 3 || own != length {
            let reason =
                format!("gives prompts of {own} tokens, the first encoder's have {length}");
            return bad(&part, "max_position_embeddings", reason);
        }
    }
    Ok(())
}
