//! What the service says about itself.

use models::weights::Weights;
use proto::dataset::v1::{Capabilities, ModelInfo};
use runtime::artefact;

use crate::{error::Error, places::Places};

/// Served models with their hashes and sizes; reads the weights.
///
/// # Errors
/// A served model that cannot be read.
pub(super) fn capabilities(places: &Places, max_items: u32) -> Result<Capabilities, Error> {
    let models = places.models().iter().map(|(name, folder)| {
        let (sha256, _) = artefact::digest(folder)?;
        let weights =
            Weights::open_in(folder, &["model"]).map_err(|source| Error::model(name, source))?;
        let sizes = weights
            .keys()
            .filter_map(|key| weights.shape(key))
            .map(|shape| shape.iter().product::<usize>() as u64);
        Ok(ModelInfo {
            name: name.clone(),
            sha256,
            architecture: "LlavaForConditionalGeneration".into(),
            parameter_count: sizes.sum(),
        })
    });
    let served = [
        "keyword_scoring",
        "shuffled_pictures",
        "paired_bootstrap",
        "multi_image",
    ];
    let benchmarks = places
        .benchmark_names()
        .map(|name| format!("benchmark={name}"));
    Ok(Capabilities {
        service: "diptych.eval.v1.EvalService".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        backend: "candle".into(),
        models: models.collect::<Result<_, Error>>()?,
        abilities: Vec::new(),
        features: served
            .into_iter()
            .map(str::to_owned)
            .chain(benchmarks)
            .collect(),
        max_items_per_request: max_items,
        measuring_models: Vec::new(),
    })
}
