//! What stands in a directory of diffusers' layout, and whether its parts belong together.

use std::path::{Path, PathBuf};

use super::Pipeline;
use crate::config::{self, Fields, LoadError};
use crate::weights::{self, Weights};

impl Pipeline {
    /// Parts that were each read well, but do not belong together.
    pub(super) fn check_parts(&self, folder: &Path) -> Result<(), LoadError> {
        let bad = |part: &str, field: &str, reason: String| {
            let file = folder.join(part).join("config.json");
            Err(LoadError::Config(config::Error::Invalid {
                file,
                field: field.into(),
                reason,
            }))
        };
        let (text, unet, vae) = (self.text.config(), self.unet.config(), self.vae.config());
        if unet.cross_attention_dim != text.hidden_size {
            let reason = format!(
                "is {}, the text encoder gives {}",
                unet.cross_attention_dim, text.hidden_size
            );
            return bad("unet", "cross_attention_dim", reason);
        }
        if unet.in_channels != vae.latent_channels || unet.out_channels != vae.latent_channels {
            let reason = format!(
                "is {}, the autoencoder has {}",
                unet.in_channels, vae.latent_channels
            );
            return bad("unet", "in_channels", reason);
        }
        if self.tokenizer.vocab_size() > text.vocab_size || self.prompt_length() < 3 {
            let reason = format!(
                "is {}, the tokenizer has {} tokens",
                text.vocab_size,
                self.tokenizer.vocab_size()
            );
            return bad("text_encoder", "vocab_size", reason);
        }
        Ok(())
    }
}

/// The parts that are loaded, and the classes that can be.
const PARTS: [(&str, &[&str]); 4] = [
    ("text_encoder", &["CLIPTextModel"]),
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("unet", &["UNet2DConditionModel"]),
    ("vae", &["AutoencoderKL"]),
];

pub(super) fn check_index(file: &Path) -> Result<(), LoadError> {
    let mut fields = Fields::open(file)?;
    fields.only("_class_name", "StableDiffusionPipeline")?;
    for (part, classes) in PARTS {
        let (_, class): (String, String) = fields.require(part)?;
        if !classes.contains(&class.as_str()) {
            return Err(fields
                .unsupported(part, &class.into(), &classes.join(", "))
                .into());
        }
    }
    // Read from its own file, which has the class too. A safety checker is not run, and the service's
    // replies say that nothing was checked.
    fields.ignore(&[
        "scheduler",
        "safety_checker",
        "feature_extractor",
        "requires_safety_checker",
    ]);
    for adapter in ["image_encoder"] {
        match fields.take::<(Option<String>, Option<String>)>(adapter)? {
            Some((_, Some(class))) => {
                return Err(fields.unsupported(adapter, &class.into(), "none").into());
            }
            _ => continue,
        }
    }
    Ok(fields.finish()?)
}

/// Every file that decides the picture.
pub(super) fn checkpoint_files(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let mut files = vec![folder.join("model_index.json")];
    for part in PARTS.iter().map(|(part, _)| *part).chain(["scheduler"]) {
        files.extend(weights::deciding_files(&folder.join(part))?);
    }
    Ok(files)
}

/// Numbers in the weights of all parts.
pub(super) fn count_parameters(folder: &Path) -> Result<u64, LoadError> {
    let parts = ["text_encoder", "unet", "vae"];
    let count = |part| {
        Ok(
            Weights::open_in(&folder.join(part), &["model", "diffusion_pytorch_model"])?
                .parameter_count(),
        )
    };
    parts.into_iter().map(count).sum()
}
