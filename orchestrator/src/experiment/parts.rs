//! Parts of a recipe as the schemas of the services have them.

use std::path::Path;

use anyhow::{Context as _, Result};
use proto::{
    eval::v1::benchmark_ref,
    trainer::v1::{
        DataSource, OptimizerSettings, StageKind, TrainingStage, data_source, training_spec,
    },
};

use crate::{
    assets::Assets,
    jobs::artefact,
    recipe::{Stage, Train},
};

/// A training stage as the schema has it.
pub(crate) fn stage(
    name: &str,
    kind: StageKind,
    settings: &Stage,
    data: Vec<DataSource>,
) -> TrainingStage {
    TrainingStage {
        name: name.to_owned(),
        kind: kind.into(),
        data,
        step_count: settings.steps,
        batch_size: settings.batch_size,
        optimizer: Some(OptimizerSettings {
            learning_rate: settings.learning_rate,
            weight_decay: settings.weight_decay,
            warmup_ratio: settings.warmup_ratio,
            ..OptimizerSettings::default()
        }),
        ..TrainingStage::default()
    }
}

/// The base data of a recipe.
pub(crate) fn base_source(train: &Train, weight: f32) -> Result<DataSource> {
    use data_source::Location;
    let location = match train.base_data.strip_prefix("builtin:") {
        Some(_) => Location::Builtin(train.base_data.clone()),
        None => Location::LlavaJson(artefact(Path::new(&train.base_data), false)?),
    };
    Ok(DataSource {
        name: "base".to_owned(),
        location: Some(location),
        weight,
        ..DataSource::default()
    })
}

/// The model that a recipe starts from.
pub(crate) fn base_model(model: &str) -> Result<training_spec::Base> {
    Ok(match model.strip_prefix("builtin:") {
        Some(_) => training_spec::Base::BaseModel(model.to_owned()),
        None => training_spec::Base::BaseCheckpoint(artefact(Path::new(model), true)?),
    })
}

/// A benchmark that a recipe names.
pub(crate) fn benchmark_location(benchmark: &str) -> Result<benchmark_ref::Location> {
    Ok(match benchmark.strip_prefix("builtin:") {
        Some(_) => benchmark_ref::Location::Builtin(benchmark.to_owned()),
        None => benchmark_ref::Location::Folder(artefact(Path::new(benchmark), true)?),
    })
}

/// Samples of the base data.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn base_sample_count(train: &Train, assets: &Assets) -> Result<u64> {
    let json = match train.base_data.strip_prefix("builtin:") {
        Some(_) => assets.base_data().join("data.json"),
        None => train.base_data.clone().into(),
    };
    let records = dataset::llava::read(&json);
    let records = records.with_context(|| format!("base data {}", json.display()))?;
    Ok(records.count() as u64)
}
