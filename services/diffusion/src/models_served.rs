//! The checkpoints in memory, by name.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use models::lora::ModelPath;
use models::measuring::{ImageTextModel, SafetyModel, UnsafeRule};
use models::ops::precision::Precision;
use models::stable_diffusion::{Original, Picture, PictureFile, Pipeline, Request};
use proto::diffusion::v1 as pb;
use runtime::error::chain;
use runtime::options::NamedFolder;

use crate::catalogue;
use crate::error::Error;
use crate::options::{Backend, Options};
use crate::picture::encode;
use crate::remote;
use crate::shelf::Shelf;

/// What is served. Empty until [`Served::load`] has ended well; calls come only after that.
#[derive(Default)]
pub(crate) struct Served {
    loaded: OnceLock<Loaded>,
}

struct Loaded {
    /// Default first.
    models: Vec<pb::DiffusionModel>,
    /// The same, in the same order.
    shelf: Shelf<Pipeline>,
    /// The safety checkers that they bring, in the same order. They stay when their models leave, so
    /// that no model comes back without.
    checkers: Vec<Option<Safety>>,
    /// Default first.
    scorers: Vec<Scorer>,
    safety: Option<Safety>,
}

/// A scoring model under its name.
#[derive(Clone)]
pub(crate) struct Scorer {
    pub(crate) name: String,
    pub(crate) model: Arc<ImageTextModel>,
}

/// The safety model under its name; that of a checkpoint is called as the checkpoint, and
/// `/safety_checker` behind it.
#[derive(Clone)]
pub(crate) struct Safety {
    pub(crate) name: String,
    pub(crate) model: Arc<SafetyModel>,
}

impl Served {
    /// Loads all models of the options once; those that the memory bound leaves no room for beside the
    /// others leave again. Each is asked for one picture, unless that is switched off, or for one
    /// embedding of each kind.
    ///
    /// # Errors
    /// The first that does not load, by name, file and field, or that does not fit.
    pub(crate) fn load(&self, options: &Options) -> Result<(), Error> {
        let found = builtin(options.assets.as_deref(), "nano-sd", "model_index.json");
        let folders: Vec<NamedFolder> = options.models.iter().chain(&found).cloned().collect();
        let rule = UnsafeRule {
            labels: options.unsafe_labels.clone(),
            threshold: options.unsafe_threshold,
        };
        let checkers = match options.backend {
            Backend::Candle => own_checkers(&folders, &rule)?,
            Backend::OpenaiImages => Vec::new(),
        };
        let (models, shelf) = match options.backend {
            Backend::Candle if folders.is_empty() => return Err(Error::NoModel),
            Backend::Candle => shelve(folders, options)?,
            Backend::OpenaiImages => {
                let name = options.llm.model.as_deref().unwrap_or_default();
                let (_, none) = shelve(Vec::new(), options)?;
                (vec![remote::described(name, &options.remote)], none)
            }
        };
        let found = builtin(options.assets.as_deref(), "nano-clip", "config.json");
        let scorers = options
            .scoring_models
            .iter()
            .chain(&found)
            .map(load_scorer)
            .collect::<Result<_, _>>()?;
        // Nobody named a safety model: images that are scored are judged by the first checkpoint's.
        let first = checkers.first().filter(|_| !options.models.is_empty());
        let safety = match &options.safety_model {
            Some(NamedFolder { name, folder }) => Some(open_safety(name.clone(), folder, &rule)?),
            None => first.cloned().flatten(),
        };
        let loaded = Loaded {
            models,
            shelf,
            checkers,
            scorers,
            safety,
        };
        // Only the warm-up calls this, once.
        let _first = self.loaded.set(loaded);
        Ok(())
    }

    /// Diffusion models, default first.
    pub(crate) fn models(&self) -> &[pb::DiffusionModel] {
        self.loaded.get().map_or(&[], |loaded| &loaded.models)
    }

    /// The diffusion models themselves, by their places.
    ///
    /// # Errors
    /// [`Error::Stopping`] before they are loaded, when no call is let in.
    pub(crate) fn shelf(&self) -> Result<&Shelf<Pipeline>, Error> {
        let loaded = self.loaded.get().ok_or(Error::Stopping)?;
        Ok(&loaded.shelf)
    }

    /// Scoring models, default first.
    pub(crate) fn scorers(&self) -> &[Scorer] {
        self.loaded.get().map_or(&[], |loaded| &loaded.scorers)
    }

    /// What tells unsafe images, where there is such a model.
    pub(crate) fn safety(&self) -> Option<&Safety> {
        self.loaded.get()?.safety.as_ref()
    }

    /// The safety checker that came with the checkpoint at a place.
    pub(crate) fn checker(&self, slot: usize) -> Option<&Safety> {
        self.loaded.get()?.checkers.get(slot)?.as_ref()
    }

    /// Whether any picture is checked while it is rendered.
    pub(crate) fn checks_safety(&self) -> bool {
        let loaded = self.loaded.get();
        loaded.is_some_and(|loaded| loaded.checkers.iter().any(Option::is_some))
    }

    /// The place of the diffusion model called `name`; of the default for an empty name.
    ///
    /// # Errors
    /// [`Error::UnknownModel`].
    pub(crate) fn find(&self, name: &str) -> Result<usize, Error> {
        let names = || {
            let infos = self.models().iter().filter_map(|model| model.info.as_ref());
            infos.map(|info| info.name.as_str())
        };
        let found = names().position(|known| name.is_empty() || known == name);
        found.ok_or_else(|| unknown(name, names()))
    }

    /// The scoring model called `name`; the default for an empty name.
    ///
    /// # Errors
    /// [`Error::UnknownModel`], and [`Error::NotOffered`] where there is none at all.
    pub(crate) fn scorer(&self, name: &str) -> Result<Scorer, Error> {
        let all = self.scorers();
        if all.is_empty() {
            return Err(Error::NotOffered(
                "this endpoint has no scoring model".to_owned(),
            ));
        }
        let found = all.iter().find(|s| name.is_empty() || s.name == name);
        found
            .cloned()
            .ok_or_else(|| unknown(name, all.iter().map(|s| s.name.as_str())))
    }
}

fn unknown<'a>(name: &str, served: impl Iterator<Item = &'a str>) -> Error {
    Error::UnknownModel {
        name: name.to_owned(),
        served: served.collect::<Vec<_>>().join(", "),
    }
}

/// The model that the assets bring, if they do.
fn builtin(assets: Option<&Path>, name: &str, file: &str) -> Option<NamedFolder> {
    let folder = assets?.join("models/nano").join(name);
    folder.join(file).is_file().then(|| NamedFolder {
        name: format!("builtin:{name}"),
        folder,
    })
}

/// A checkpoint and its adapters, as the operator wrote them.
fn model_path(model: &NamedFolder) -> Result<ModelPath, Error> {
    let path: Result<ModelPath, String> = model.folder.to_string_lossy().parse();
    path.map_err(|reason| Error::ModelPath {
        name: model.name.clone(),
        reason,
    })
}

/// The models, each loaded once, the default last: it is the one that stays.
fn shelve(
    folders: Vec<NamedFolder>,
    options: &Options,
) -> Result<(Vec<pb::DiffusionModel>, Shelf<Pipeline>), Error> {
    let bound = options.model_memory_bytes;
    let sizes = folders.iter().map(|model| weight_bytes(model, bound));
    let sizes = sizes.collect::<Result<Vec<_>, _>>()?;
    let count = sizes.len();
    let precision = options.precision;
    let load = move |slot: usize| load_pipeline(&folders[slot], precision);
    let shelf = Shelf::new(sizes, bound, options.queue_capacity, load);
    let mut models = Vec::new();
    for slot in (0..count).rev() {
        let pipeline = shelf.load_now(slot)?;
        if options.warm_up {
            warm_up(&pipeline)?;
        }
        models.push(catalogue::model(&pipeline));
    }
    models.reverse();
    Ok((models, shelf))
}

/// Bytes of a model's weights, where they fit alone.
fn weight_bytes(model: &NamedFolder, bound: Option<u64>) -> Result<u64, Error> {
    let NamedFolder { name, .. } = model;
    let path = model_path(model)?;
    let needed_bytes = Pipeline::weight_bytes(&path.folder).map_err(|source| Error::Load {
        name: name.clone(),
        source: Box::new(source),
    })?;
    match bound {
        Some(allowed_bytes) if needed_bytes > allowed_bytes => Err(Error::TooLarge {
            name: name.clone(),
            needed_bytes,
            allowed_bytes,
        }),
        _ => Ok(needed_bytes),
    }
}

fn load_pipeline(model: &NamedFolder, precision: Precision) -> Result<Pipeline, Error> {
    let NamedFolder { name, .. } = model;
    let path = model_path(model)?;
    let loaded = Pipeline::load_in(precision, &path.folder, name, &path.loras);
    let pipeline = loaded.map_err(|source| Error::Load {
        name: name.clone(),
        source: Box::new(source),
    })?;
    tracing::info!(model = name, sha256 = pipeline.sha256(), "model loaded");
    Ok(pipeline)
}

/// Steps of the picture that a model is asked for before it is served.
const WARM_UP_STEPS: usize = 2;

/// Asks for a picture of half the model's own side: threads, code and buffers are there afterwards.
fn warm_up(pipeline: &Pipeline) -> Result<(), Error> {
    let scale = pipeline.size_multiple_px().max(1);
    let side = (pipeline.default_side_px() / 2 / scale).max(1) * scale;
    let small = Request {
        steps: WARM_UP_STEPS,
        guidance: 1.,
        width_px: side,
        height_px: side,
        original: pipeline.only_inpaints().then(|| plain(side)).transpose()?,
        ..Request::default()
    };
    match pipeline.generate(&small) {
        // After two steps towards nothing, one colour may be all there is.
        Ok(_) | Err(models::stable_diffusion::Error::Blank) => Ok(()),
        Err(source) => Err(Error::WarmUp {
            name: pipeline.name().to_owned(),
            source,
        }),
    }
}

fn load_scorer(model: &NamedFolder) -> Result<Scorer, Error> {
    let NamedFolder { name, folder } = model;
    let failed = |source| Error::LoadScoring {
        name: name.clone(),
        source: Box::new(source),
    };
    let found = ImageTextModel::load(folder).map_err(failed)?;
    found.warm_up().map_err(failed)?;
    let sha256 = found.sha256();
    tracing::info!(model = name, sha256, "scoring model loaded");
    Ok(Scorer {
        name: name.clone(),
        model: Arc::new(found),
    })
}

/// A grey picture, all of which is to be repainted, for a checkpoint that wants one.
fn plain(side_px: usize) -> Result<Original, Error> {
    let grey = Picture {
        width_px: side_px,
        height_px: side_px,
        rgb: vec![128; 3 * side_px * side_px],
    };
    let file = encode(&grey, &[])?;
    let file = PictureFile::open(&file).map_err(|e| Error::Task(e.to_string()))?;
    Ok(Original {
        picture: file.clone(),
        strength: 1.,
        mask: Some(file),
    })
}

/// The checkers that checkpoints bring; equal ones, as most checkpoints have, share their weights.
fn own_checkers(models: &[NamedFolder], rule: &UnsafeRule) -> Result<Vec<Option<Safety>>, Error> {
    let mut all: Vec<Option<Safety>> = Vec::new();
    for model in models {
        let mut found = own_checker(model, rule)?;
        if let Some(found) = &mut found {
            let mut known = all.iter().flatten();
            let equal = known.find(|known| known.model.sha256() == found.model.sha256());
            if let Some(equal) = equal {
                found.model = equal.model.clone();
            }
        }
        all.push(found);
    }
    Ok(all)
}

/// The checker that a checkpoint brings, if it does. Nobody asked for it by name, so one that does not
/// load, such as in a format other than safetensors, is only said, and its pictures are not checked.
fn own_checker(model: &NamedFolder, rule: &UnsafeRule) -> Result<Option<Safety>, Error> {
    let name = &model.name;
    let folder = model_path(model)?.folder.join(SAFETY_CHECKER);
    if !folder.join("config.json").is_file() {
        return Ok(None);
    }
    let found = open_safety(format!("{name}/{SAFETY_CHECKER}"), &folder, rule);
    let unusable = |error: &Error| {
        let reason = chain(error);
        tracing::warn!(model = name, reason, "images are not checked for safety");
    };
    Ok(found.inspect_err(unusable).ok())
}

/// The folder in which a checkpoint in diffusers' layout brings its own.
const SAFETY_CHECKER: &str = "safety_checker";

fn open_safety(name: String, folder: &Path, rule: &UnsafeRule) -> Result<Safety, Error> {
    let loaded = SafetyModel::load(folder, rule).and_then(|model| {
        model.warm_up()?;
        Ok(model)
    });
    match loaded {
        Ok(model) => {
            let sha256 = model.sha256();
            tracing::info!(model = name, sha256, "safety model loaded");
            Ok(Safety {
                name,
                model: Arc::new(model),
            })
        }
        Err(source) => Err(Error::LoadSafety {
            name,
            source: Box::new(source),
        }),
    }
}
