//! A call becomes pictures that a remote model is asked for; what it would not heed is refused.

use std::collections::HashSet;

use proto::dataset::v1::PromptSyntax;
use proto::diffusion::v1 as pb;

use super::options::{ImageSize, RemoteOptions};
use crate::error::Error;
use crate::request::{self, Bounds, Place};

/// The longest prompt, in bytes, as for the models of this machine.
const MAX_PROMPT_BYTES: usize = 32 << 10;

/// One picture, as the server is asked for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RemoteRequest {
    pub(super) prompt: String,
    pub(super) size: ImageSize,
    /// What servers beyond OpenAI's own take; `None` where it is not sent.
    pub(super) extras: Option<Extras>,
}

/// Settings that OpenAI's call has no fields for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Extras {
    pub(super) seed: u64,
    pub(super) negative_prompt: String,
    /// 0: the server's default.
    pub(super) steps: u32,
    pub(super) guidance: Option<f32>,
}

/// The pictures of a call, by their places.
///
/// # Errors
/// [`Error::Invalid`], naming the first field that is wrong or would not be heeded.
pub(crate) fn wanted(
    request: pb::GenerateImagesRequest,
    options: &RemoteOptions,
    bounds: Bounds,
) -> Result<Vec<(Place, RemoteRequest)>, Error> {
    let count = request::picture_count(&request.items, bounds)?;
    let settings = request.settings.unwrap_or_default();
    // Nothing is checked here; but who must not ask hears of it.
    let _nothing_is_flagged = request::delivers_unsafe(settings, bounds.unsafe_pictures)?;
    let size = checked(&settings, options)?;
    let mut seen = HashSet::new();
    let mut all = Vec::with_capacity(count);
    for (index, item) in request.items.into_iter().enumerate() {
        let refused = |field: &str, rule: &str| {
            Error::invalid(format!("items[{index}].{field}"), rule.to_owned())
        };
        request::check_id(&item.sample_id, &mut seen, index)?;
        if item.prompt.len().max(item.negative_prompt.len()) > MAX_PROMPT_BYTES {
            return Err(refused("prompt", "is longer than 32768 bytes"));
        }
        if item.init_image.is_some() || item.mask_image.is_some() || item.strength != 0. {
            let rule = "a remote model paints from noise only";
            return Err(refused("init_image", rule));
        }
        if !options.takes_settings && !item.negative_prompt.is_empty() {
            return Err(refused("negative_prompt", "the remote model takes none"));
        }
        for place in request::places(&item) {
            let extras = options.takes_settings.then(|| Extras {
                seed: item.seed.wrapping_add(place.image_index.into()),
                negative_prompt: item.negative_prompt.clone(),
                steps: settings.step_count,
                guidance: settings.guidance_scale,
            });
            let prompt = item.prompt.clone();
            let request = RemoteRequest {
                prompt,
                size,
                extras,
            };
            all.push((place, request));
        }
    }
    Ok(all)
}

/// Looks at what holds for all pictures.
fn checked(settings: &pb::SamplingSettings, options: &RemoteOptions) -> Result<ImageSize, Error> {
    let is_webui = settings.prompt_syntax == i32::from(PromptSyntax::Webui);
    for (field, is_asked) in [
        ("scheduler", settings.scheduler != 0),
        ("prompt_syntax", is_webui),
        ("guidance_rescale", settings.guidance_rescale != 0.),
        ("clip_skip", settings.clip_skip != 0),
        ("eta", settings.eta != 0.),
    ] {
        if is_asked {
            let rule = "is not offered by a remote model; leave it unset";
            return Err(Error::invalid(format!("settings.{field}"), rule));
        }
    }
    let asked = (settings.width_px, settings.height_px);
    let found = options.sizes.iter().find(|size| match asked {
        (0, 0) => true,
        asked => asked == (size.width_px, size.height_px),
    });
    let offered = || {
        options
            .sizes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    found.copied().ok_or_else(|| {
        let (width, height) = asked;
        let offered = offered().join(", ");
        let rule = format!("{width}x{height} is not offered; there are: {offered}");
        Error::invalid("settings.width_px", rule)
    })
}
