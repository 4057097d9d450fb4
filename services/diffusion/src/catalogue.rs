//! What is said of the models served, whether they are in memory or not.

use models::stable_diffusion::Pipeline;
use proto::dataset::v1 as dataset;
use proto::diffusion::v1 as pb;

use crate::error::Error;
use crate::request::scheduler_value;

/// Models per page when the request says 0, and at most.
const PAGE_SIZES: (usize, usize) = (50, 100);

/// A model and its defaults.
pub(crate) fn model(pipeline: &Pipeline) -> pb::DiffusionModel {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let scheduler = pipeline
        .scheduler_name(None)
        .map_or(pb::Scheduler::Unspecified, scheduler_value);
    pb::DiffusionModel {
        info: Some(info(pipeline)),
        default_width_px: count(pipeline.default_side_px()),
        default_height_px: count(pipeline.default_side_px()),
        size_multiple_px: count(pipeline.size_multiple_px()),
        default_scheduler: scheduler.into(),
        only_inpaints: pipeline.only_inpaints(),
    }
}

fn info(pipeline: &Pipeline) -> dataset::ModelInfo {
    dataset::ModelInfo {
        name: pipeline.name().to_owned(),
        sha256: pipeline.sha256().to_owned(),
        architecture: "StableDiffusionPipeline".to_owned(),
        parameter_count: pipeline.parameter_count(),
    }
}

/// A page of the models. A page token is the place of the page's first model.
///
/// # Errors
/// [`Error::Invalid`].
pub(crate) fn page(
    all: &[pb::DiffusionModel],
    size: u32,
    token: &str,
) -> Result<pb::ListModelsResponse, Error> {
    let (usual, most) = PAGE_SIZES;
    let size = if size == 0 { usual } else { size as usize };
    if size > most {
        return Err(Error::invalid(
            "page_size",
            format!("{size} is not within 1 to {most}"),
        ));
    }
    let first = if token.is_empty() {
        Some(0)
    } else {
        token.parse().ok().filter(|n| *n > 0 && *n < all.len())
    };
    let Some(first) = first else {
        return Err(Error::invalid("page_token", "was not given by this call"));
    };
    let end = (first + size).min(all.len());
    let next_page_token = if end < all.len() {
        end.to_string()
    } else {
        String::new()
    };
    let models = all[first..end].to_vec();
    Ok(pb::ListModelsResponse {
        models,
        next_page_token,
    })
}
