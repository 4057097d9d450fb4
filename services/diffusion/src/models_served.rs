//! The checkpoints in memory, by name.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use models::lora::ModelPath;
use models::measuring::{ImageTextModel, SafetyModel, UnsafeRule};
use models::stable_diffusion::{Original, Picture, PictureFile, Pipeline, Request};
use runtime::error::chain;
use runtime::options::NamedFolder;

use crate::error::Error;
use crate::options::Options;
use crate::picture::encode;

/// What is served. Empty until [`Served::load`] has ended well; calls come only after that.
#[derive(Default)]
pub(crate) struct Served {
    loaded: OnceLock<Loaded>,
}

struct Loaded {
    /// Default first.
    pipelines: Vec<Arc<Pipeline>>,
    /// The safety checker that each of them brings.
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
    /// Loads all models of the options and asks each for one whole picture, or for one
    /// embedding of each kind.
    ///
    /// # Errors
    /// The first that does not load, by name, file and field.
    pub(crate) fn load(&self, options: &Options) -> Result<(), Error> {
        let found = builtin(options.assets.as_deref(), "nano-sd", "model_index.json");
        let named = || options.models.iter().chain(&found);
        let pipelines = named().map(load_pipeline).collect::<Result<Vec<_>, _>>()?;
        let rule = UnsafeRule {
            labels: options.unsafe_labels.clone(),
            threshold: options.unsafe_threshold,
        };
        let own = |model| own_checker(model, &rule);
        let checkers = named().map(own).collect::<Result<Vec<_>, _>>()?;
        if pipelines.is_empty() {
            return Err(Error::NoModel);
        }
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
            pipelines,
            checkers,
            scorers,
            safety,
        };
        // Only the warm-up calls this, once.
        let _first = self.loaded.set(loaded);
        Ok(())
    }

    /// Diffusion models, default first.
    pub(crate) fn pipelines(&self) -> &[Arc<Pipeline>] {
        self.loaded.get().map_or(&[], |loaded| &loaded.pipelines)
    }

    /// Scoring models, default first.
    pub(crate) fn scorers(&self) -> &[Scorer] {
        self.loaded.get().map_or(&[], |loaded| &loaded.scorers)
    }

    /// What tells unsafe images, where there is such a model.
    pub(crate) fn safety(&self) -> Option<&Safety> {
        self.loaded.get()?.safety.as_ref()
    }

    /// The safety checker that came with a checkpoint.
    pub(crate) fn checker(&self, pipeline: &Arc<Pipeline>) -> Option<&Safety> {
        let loaded = self.loaded.get()?;
        let mut both = loaded.pipelines.iter().zip(&loaded.checkers);
        let found = both.find(|(known, _)| Arc::ptr_eq(known, pipeline));
        found.and_then(|(_, checker)| checker.as_ref())
    }

    /// Whether any picture is checked while it is rendered.
    pub(crate) fn checks_safety(&self) -> bool {
        let loaded = self.loaded.get();
        loaded.is_some_and(|loaded| loaded.checkers.iter().any(Option::is_some))
    }

    /// The diffusion model called `name`; the default for an empty name.
    ///
    /// # Errors
    /// [`Error::UnknownModel`].
    pub(crate) fn pipeline(&self, name: &str) -> Result<Arc<Pipeline>, Error> {
        let all = self.pipelines();
        let found = all.iter().find(|p| name.is_empty() || p.name() == name);
        found
            .cloned()
            .ok_or_else(|| unknown(name, all.iter().map(|p| p.name())))
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

/// Steps of the picture that a model is asked for before it is served.
const WARM_UP_STEPS: usize = 2;

/// A checkpoint and its adapters, as the operator wrote them.
fn model_path(model: &NamedFolder) -> Result<ModelPath, Error> {
    let path: Result<ModelPath, String> = model.folder.to_string_lossy().parse();
    path.map_err(|reason| Error::ModelPath {
        name: model.name.clone(),
        reason,
    })
}

fn load_pipeline(model: &NamedFolder) -> Result<Arc<Pipeline>, Error> {
    let NamedFolder { name, .. } = model;
    let path = model_path(model)?;
    let pipeline =
        Pipeline::load_adapted(&path.folder, name, &path.loras).map_err(|source| Error::Load {
            name: name.clone(),
            source: Box::new(source),
        })?;
    let side = pipeline.default_side_px();
    let small = Request {
        steps: WARM_UP_STEPS,
        guidance: 1.,
        width_px: side,
        height_px: side,
        original: pipeline.only_inpaints().then(|| plain(side)).transpose()?,
        ..Request::default()
    };
    pipeline.generate(&small)?;
    tracing::info!(model = name, sha256 = pipeline.sha256(), "model loaded");
    Ok(Arc::new(pipeline))
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
