//! A call becomes pictures that are wanted: checked here, once, and plain values behind it.

use std::collections::HashSet;

use models::scheduler::Kind;
use models::stable_diffusion::{Pipeline, PromptSyntax, Request};
use proto::dataset::v1 as dataset;
use proto::diffusion::v1 as pb;

use crate::error::Error;

/// Steps when a request says 0.
const DEFAULT_STEPS: usize = 25;
/// Guidance when a request says nothing, as diffusers.
const DEFAULT_GUIDANCE: f32 = 7.5;

/// The samplers of the schema, by their names on the command line.
const SCHEDULERS: [(pb::Scheduler, &str); 11] = [
    (pb::Scheduler::Ddim, "ddim"),
    (pb::Scheduler::Ddpm, "ddpm"),
    (pb::Scheduler::Pndm, "pndm"),
    (pb::Scheduler::Euler, "euler"),
    (pb::Scheduler::EulerA, "euler_a"),
    (pb::Scheduler::Heun, "heun"),
    (pb::Scheduler::Dpmpp2m, "dpmpp_2m"),
    (pb::Scheduler::Dpmpp2mSde, "dpmpp_2m_sde"),
    (pb::Scheduler::Unipc, "unipc"),
    (pb::Scheduler::Lcm, "lcm"),
    (pb::Scheduler::FlowEuler, "flow_euler"),
];

/// The schema's value for a sampler's name.
pub(crate) fn scheduler_value(name: &str) -> pb::Scheduler {
    let found = SCHEDULERS.iter().find(|(_, known)| *known == name);
    found.map_or(pb::Scheduler::Unspecified, |(value, _)| *value)
}

/// One picture wanted, or why it cannot be had while the others can.
pub(crate) struct Wanted {
    /// As the caller named it.
    pub(crate) sample_id: String,
    /// What to render.
    pub(crate) request: Result<Request, Error>,
}

/// Settings that hold for all pictures of a call.
#[derive(Clone)]
struct Settings {
    steps: usize,
    guidance: f32,
    width_px: usize,
    height_px: usize,
    syntax: PromptSyntax,
    scheduler: Option<Kind>,
}

/// Checks a call against the model that it names.
///
/// # Errors
/// [`Error::Invalid`], naming the first field that is wrong for all items. What is wrong with the
/// prompt of one item stands with that item.
pub(crate) fn wanted(
    request: pb::GenerateImagesRequest,
    pipeline: &Pipeline,
    max_items: usize,
) -> Result<Vec<Wanted>, Error> {
    let pb::GenerateImagesRequest {
        model: _,
        items,
        settings,
        report_progress: _,
        client: _,
    } = request;
    if items.is_empty() || items.len() > max_items {
        return Err(Error::invalid(
            "items",
            format!("{} items; 1 to {max_items} are taken", items.len()),
        ));
    }
    let settings = Settings::read(settings.unwrap_or_default(), pipeline)?;
    let mut seen = HashSet::new();
    let mut all = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let place = |field: &str| format!("items[{index}].{field}");
        if !is_sample_id(&item.sample_id) {
            return Err(Error::invalid(
                place("sample_id"),
                "must be 32 lower-case hexadecimal digits",
            ));
        }
        if !seen.insert(item.sample_id.clone()) {
            return Err(Error::invalid(
                place("sample_id"),
                format!("{} is asked for twice", item.sample_id),
            ));
        }
        refuse_image_input(&item, place)?;
        let sample_id = item.sample_id.clone();
        let request = settings.clone().with(item);
        let request = match pipeline.check(&request).map_err(Error::from) {
            Ok(()) => Ok(request),
            Err(error @ Error::Prompt { .. }) => Err(error),
            Err(error) => return Err(error),
        };
        all.push(Wanted { sample_id, request });
    }
    Ok(all)
}

fn is_sample_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn refuse_image_input(item: &pb::ImageItem, place: impl Fn(&str) -> String) -> Result<(), Error> {
    let rule = "image to image is not offered by this version";
    match item {
        pb::ImageItem {
            init_image: Some(_),
            ..
        } => Err(Error::invalid(place("init_image"), rule)),
        pb::ImageItem {
            mask_image: Some(_),
            ..
        } => Err(Error::invalid(place("mask_image"), rule)),
        pb::ImageItem { strength, .. } if *strength != 0. => Err(Error::invalid(
            place("strength"),
            "must be 0 without init_image",
        )),
        _ => Ok(()),
    }
}

impl Settings {
    fn read(settings: pb::SamplingSettings, pipeline: &Pipeline) -> Result<Self, Error> {
        let pb::SamplingSettings {
            step_count,
            guidance_scale,
            width_px,
            height_px,
            scheduler,
            prompt_syntax,
            guidance_rescale,
            clip_skip,
            eta,
        } = settings;
        for (field, asked) in [
            ("guidance_rescale", guidance_rescale != 0.),
            ("clip_skip", clip_skip != 0),
            ("eta", eta != 0.),
        ] {
            if asked {
                return Err(Error::invalid(
                    format!("settings.{field}"),
                    "is not offered by this version; leave it 0",
                ));
            }
        }
        if step_count > 1000 {
            return Err(Error::invalid(
                "settings.step_count",
                format!("{step_count} is not within 1 to 1000"),
            ));
        }
        let side = |asked: u32| {
            if asked == 0 {
                pipeline.default_side_px()
            } else {
                asked as usize
            }
        };
        Ok(Self {
            steps: if step_count == 0 {
                DEFAULT_STEPS
            } else {
                step_count as usize
            },
            guidance: guidance_scale.unwrap_or(DEFAULT_GUIDANCE),
            width_px: side(width_px),
            height_px: side(height_px),
            syntax: read_syntax(prompt_syntax)?,
            scheduler: read_scheduler(scheduler)?,
        })
    }

    fn with(self, item: pb::ImageItem) -> Request {
        let Self {
            steps,
            guidance,
            width_px,
            height_px,
            syntax,
            scheduler,
        } = self;
        let pb::ImageItem {
            prompt,
            negative_prompt,
            seed,
            ..
        } = item;
        Request {
            prompt,
            negative_prompt,
            seed,
            steps,
            guidance,
            width_px,
            height_px,
            syntax,
            scheduler,
        }
    }
}

fn read_syntax(value: i32) -> Result<PromptSyntax, Error> {
    match dataset::PromptSyntax::try_from(value) {
        Ok(dataset::PromptSyntax::Unspecified | dataset::PromptSyntax::Plain) => {
            Ok(PromptSyntax::Plain)
        }
        Ok(dataset::PromptSyntax::Webui) => Ok(PromptSyntax::Webui),
        Err(_) => Err(Error::invalid(
            "settings.prompt_syntax",
            format!("{value} is not a prompt syntax"),
        )),
    }
}

fn read_scheduler(value: i32) -> Result<Option<Kind>, Error> {
    let unknown = || Error::invalid("settings.scheduler", format!("{value} is not a scheduler"));
    let value = pb::Scheduler::try_from(value).map_err(|_| unknown())?;
    if value == pb::Scheduler::Unspecified {
        return Ok(None);
    }
    let name = SCHEDULERS
        .iter()
        .find(|(known, _)| *known == value)
        .map(|(_, name)| *name)
        .ok_or_else(unknown)?;
    Kind::parse(name)
        .map(Some)
        .map_err(|error| Error::invalid("settings.scheduler", error.to_string()))
}
