//! LoRA adapters (Hu et al. 2021, arXiv 2106.09685), merged into the weights while they are loaded:
//! W + scale · alpha / rank · up · down.
//!
//! Reads one safetensors file in diffusers' and PEFT's layout or in kohya's, for linear layers and
//! convolutions of the UNet and the text encoders; see [`names`]. A tensor that the model has no place
//! for is refused by name: an adapter for another model must not load as half of one.

mod merge;
mod names;
mod path;
mod settings;
mod sgm;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

pub use self::names::Part;
use self::names::{Name, Role};
pub use self::path::{LoraFile, ModelPath};
use crate::weights::{Adapter, Error, Weights};

/// The strongest scale, either way.
pub const MAX_SCALE: f32 = 100.;

/// An opened adapter.
pub struct Lora {
    weights: Weights,
    scale: f32,
    modules: BTreeMap<(Part, String), Module>,
    used: Mutex<BTreeSet<(Part, String)>>,
}

/// The keys of one adapted layer.
#[derive(Clone, Debug, Default)]
struct Module {
    down: Option<String>,
    up: Option<String>,
    alpha: Option<String>,
    /// The alpha of a layer without one of its own; without any it is the rank.
    stated_alpha: Option<f32>,
}

impl Lora {
    /// Opens an adapter to be merged times its scale.
    ///
    /// # Errors
    /// [`Error`], naming the file and the tensor that is not one of a LoRA.
    pub fn open(file: &LoraFile) -> Result<Arc<Self>, Error> {
        let weights = Weights::open(&file.file)?;
        if !(-MAX_SCALE..=MAX_SCALE).contains(&file.scale) {
            let reason = format!("cannot be scaled by {}: at most {MAX_SCALE}", file.scale);
            return Err(refusal(weights.path(), "(all)", reason));
        }
        let alphas = settings::alphas(&weights)?;
        let mut modules: BTreeMap<_, Module> = BTreeMap::new();
        for key in weights.keys() {
            let Some(Name { part, module, role }) = names::read(key) else {
                let reason = "is no tensor of a LoRA in diffusers', PEFT's or kohya's layout";
                return Err(refusal(weights.path(), key, reason));
            };
            let module = modules.entry((part, module)).or_default();
            module.stated_alpha = alphas.get(&part).copied();
            let place = match role {
                Role::Down => &mut module.down,
                Role::Up => &mut module.up,
                Role::Alpha => &mut module.alpha,
            };
            if place.replace(key.to_owned()).is_some() {
                let reason = "stands there twice, in two layouts";
                return Err(refusal(weights.path(), key, reason));
            }
        }
        if modules.is_empty() {
            return Err(refusal(weights.path(), "(none)", "is all that it holds"));
        }
        Ok(Arc::new(Self {
            weights,
            scale: file.scale,
            modules,
            used: Mutex::default(),
        }))
    }

    /// What it does to one part of a model.
    pub fn part(self: &Arc<Self>, part: Part) -> Arc<dyn Adapter> {
        Arc::new(PartOf {
            lora: self.clone(),
            part,
        })
    }

    /// Refuses an adapter with layers that no part of the model has.
    ///
    /// # Errors
    /// [`Error::Adapter`], for the first of them.
    pub fn finish(&self) -> Result<(), Error> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = self
            .modules
            .iter()
            .filter(|(name, _)| !used.contains(*name));
        let Some((_, module)) = left.next() else {
            return Ok(());
        };
        let key = [&module.down, &module.up, &module.alpha];
        let key = key.into_iter().flatten().next().map_or("", |k| k.as_str());
        let reason = match left.count() {
            0 => "has no place in this model".to_owned(),
            more => format!("and those of {more} more layers have no place in this model"),
        };
        Err(refusal(self.weights.path(), key, reason))
    }
}

fn refusal(file: &Path, key: &str, reason: impl Into<String>) -> Error {
    Error::Adapter {
        file: file.to_path_buf(),
        key: key.to_owned(),
        reason: reason.into(),
    }
}

/// An adapter as one part of a model sees it.
struct PartOf {
    lora: Arc<Lora>,
    part: Part,
}

impl Adapter for PartOf {
    fn adapt(&self, key: &str, shape: &[usize], values: &mut [f32]) -> Result<(), Error> {
        let Some(layer) = key.strip_suffix(".weight") else {
            return Ok(());
        };
        let name = (self.part, layer.replace('.', "_"));
        let Some(module) = self.lora.modules.get(&name) else {
            return Ok(());
        };
        merge::add(&self.lora.weights, module, self.lora.scale, shape, values)?;
        let used = &self.lora.used;
        used.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name);
        Ok(())
    }
}
