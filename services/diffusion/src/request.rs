//! A call becomes pictures that are wanted: checked here, once, and plain values behind it.
//!
//! What is wrong with the request ends the call; what is wrong with the prompt or the pictures of one
//! item stands with that item.

use std::collections::HashSet;
use std::sync::Arc;

use models::scheduler::Kind;
use models::stable_diffusion::{Original, Pipeline, PromptSyntax, Request};
use proto::dataset::v1 as dataset;
use proto::diffusion::v1 as pb;
use runtime::artefact::Roots;

use crate::error::Error;
use crate::image_input;
use crate::options::UnsafePictures;

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

/// Pictures of one item, at most.
const MAX_IMAGE_COUNT: u32 = 64;

/// What the operator allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Pictures of one call.
    pub(crate) max_items: usize,
    /// What becomes of flagged ones.
    pub(crate) unsafe_pictures: UnsafePictures,
}

/// Which picture of which item.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// As the caller named it.
    pub(crate) sample_id: String,
    /// Among the item's pictures, from 0.
    pub(crate) image_index: u32,
}

/// One picture wanted, or why it cannot be had while the others can.
pub(crate) struct Wanted {
    /// Whose it is.
    pub(crate) place: Place,
    /// What to render.
    pub(crate) request: Result<Request, Error>,
}

/// What a call wants.
pub(crate) struct Call {
    /// One for each picture.
    pub(crate) wanted: Vec<Wanted>,
    /// Whether flagged pictures are handed over.
    pub(crate) delivers_unsafe: bool,
}

/// Settings that hold for all pictures of a call.
struct Settings {
    steps: usize,
    guidance: f32,
    guidance_rescale: f32,
    clip_skip: usize,
    /// Width and height; 0 where nothing is said.
    sides_px: [usize; 2],
    syntax: PromptSyntax,
    scheduler: Option<Kind>,
}

/// Checks a call against the model that it names.
///
/// # Errors
/// [`Error::Invalid`], naming the first field that is wrong.
pub(crate) async fn read(
    request: pb::GenerateImagesRequest,
    pipeline: &Pipeline,
    roots: &Arc<Roots>,
    bounds: Bounds,
) -> Result<Call, Error> {
    let pb::GenerateImagesRequest {
        items, settings, ..
    } = request;
    let count = picture_count(&items, bounds)?;
    let settings = settings.unwrap_or_default();
    let delivers_unsafe = delivers_unsafe(settings, bounds.unsafe_pictures)?;
    let settings = Settings::read(settings)?;
    let mut seen = HashSet::new();
    let mut wanted = Vec::with_capacity(count);
    for (index, item) in items.into_iter().enumerate() {
        check_id(&item.sample_id, &mut seen, index)?;
        wanted.extend(pictures(item, index, &settings, pipeline, roots).await?);
    }
    Ok(Call {
        wanted,
        delivers_unsafe,
    })
}

/// How many pictures a call wants.
///
/// # Errors
/// [`Error::Invalid`]: none, more than are allowed, or too many of one item.
pub(crate) fn picture_count(items: &[pb::ImageItem], bounds: Bounds) -> Result<usize, Error> {
    for (index, item) in items.iter().enumerate() {
        let count = image_count(item);
        if count > MAX_IMAGE_COUNT {
            let rule = format!("{count} is not within 1 to {MAX_IMAGE_COUNT}");
            return Err(Error::invalid(format!("items[{index}].image_count"), rule));
        }
    }
    let count = items.iter().map(|item| image_count(item) as usize).sum();
    let most = bounds.max_items;
    match count {
        count if (1..=most).contains(&count) => Ok(count),
        count => {
            let rule = format!("{count} pictures; 1 to {most} are taken");
            Err(Error::invalid("items", rule))
        }
    }
}

/// Bytes of the files that come with the items.
pub(crate) fn file_bytes(items: &[pb::ImageItem]) -> usize {
    let files = items
        .iter()
        .flat_map(|item| item.init_image.iter().chain(&item.mask_image));
    let bytes = |image: &dataset::Image| match &image.content {
        Some(dataset::image::Content::Data(data)) => data.len(),
        _ => 0,
    };
    files.map(bytes).sum()
}

/// The pictures of an item, in order.
pub(crate) fn places(item: &pb::ImageItem) -> impl Iterator<Item = Place> {
    let sample_id = item.sample_id.clone();
    (0..image_count(item)).map(move |image_index| Place {
        sample_id: sample_id.clone(),
        image_index,
    })
}

fn image_count(item: &pb::ImageItem) -> u32 {
    item.image_count.max(1)
}

/// Whether flagged pictures are handed over.
///
/// # Errors
/// [`Error::Invalid`] where the operator does not allow it.
pub(crate) fn delivers_unsafe(
    settings: pb::SamplingSettings,
    rule: UnsafePictures,
) -> Result<bool, Error> {
    match (rule, settings.deliver_unsafe) {
        (UnsafePictures::Withhold, true) => Err(Error::invalid(
            "settings.deliver_unsafe",
            "is not offered: this endpoint withholds flagged pictures always",
        )),
        (UnsafePictures::Deliver, _) | (_, true) => Ok(true),
        _ => Ok(false),
    }
}

/// Holds an item to an id of the right form, its own among the call's.
///
/// # Errors
/// [`Error::Invalid`].
pub(crate) fn check_id(id: &str, seen: &mut HashSet<String>, index: usize) -> Result<(), Error> {
    let is_id = id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let rule = match (is_id, seen.insert(id.to_owned())) {
        (true, true) => return Ok(()),
        (false, _) => "must be 32 lower-case hexadecimal digits".to_owned(),
        (true, false) => format!("{id} is asked for twice"),
    };
    Err(Error::invalid(format!("items[{index}].sample_id"), rule))
}

/// The pictures of one item.
async fn pictures(
    mut item: pb::ImageItem,
    index: usize,
    settings: &Settings,
    pipeline: &Pipeline,
    roots: &Arc<Roots>,
) -> Result<Vec<Wanted>, Error> {
    let place = |field: &str| format!("items[{index}].{field}");
    let original = image_input::original(roots, &mut item, place).await;
    let original = original.map_err(Arc::new);
    let mut all = Vec::new();
    for of_item in places(&item) {
        let request = match &original {
            Ok(original) => {
                let index = of_item.image_index;
                let request = settings.request(&item, original.clone(), index, pipeline);
                check(request, settings, pipeline, place)
            }
            Err(error) => Err(Error::Shared(error.clone())),
        };
        if let Err(error) = &request
            && !error.is_of_item()
        {
            return request.map(|_| Vec::new());
        }
        all.push(Wanted {
            place: of_item,
            request,
        });
    }
    Ok(all)
}

/// The request, if the model can do it.
fn check(
    request: Request,
    settings: &Settings,
    pipeline: &Pipeline,
    place: impl Fn(&str) -> String,
) -> Result<Request, Error> {
    let checked = pipeline.check(&request).map_err(Error::from);
    // A size that nobody asked for is that of the item's picture.
    let is_its_own = request.original.is_some() && settings.sides_px.contains(&0);
    match checked {
        Ok(()) => Ok(request),
        Err(Error::Invalid { field, rule }) if is_its_own && field.ends_with("_px") => {
            Err(Error::Unfit {
                field: place("init_image"),
                rule: format!("{}: {rule}", field.trim_start_matches("settings.")),
            })
        }
        Err(Error::Invalid { field, rule }) if field == "items.strength" => {
            Err(Error::invalid(place("strength"), rule))
        }
        Err(Error::Unfit { field, rule }) => Err(Error::Unfit {
            field: place(&field),
            rule,
        }),
        Err(error) => Err(error),
    }
}

impl Settings {
    fn read(settings: pb::SamplingSettings) -> Result<Self, Error> {
        if settings.eta != 0. {
            let rule = "is not offered by this version; leave it 0";
            return Err(Error::invalid("settings.eta", rule));
        }
        let step_count = settings.step_count;
        if step_count > 1000 {
            let rule = format!("{step_count} is not within 1 to 1000");
            return Err(Error::invalid("settings.step_count", rule));
        }
        Ok(Self {
            steps: match step_count {
                0 => DEFAULT_STEPS,
                count => count as usize,
            },
            guidance: settings.guidance_scale.unwrap_or(DEFAULT_GUIDANCE),
            guidance_rescale: settings.guidance_rescale,
            clip_skip: settings.clip_skip as usize,
            sides_px: [settings.width_px as usize, settings.height_px as usize],
            syntax: read_syntax(settings.prompt_syntax)?,
            scheduler: read_scheduler(settings.scheduler)?,
        })
    }

    fn request(
        &self,
        item: &pb::ImageItem,
        original: Option<Original>,
        image_index: u32,
        pipeline: &Pipeline,
    ) -> Request {
        let own = pipeline.default_side_px();
        let own = original
            .as_ref()
            .map_or((own, own), |original| original.picture.size_px());
        let side = |asked: usize, own| if asked == 0 { own } else { asked };
        Request {
            prompt: item.prompt.clone(),
            negative_prompt: item.negative_prompt.clone(),
            seed: item.seed.wrapping_add(image_index.into()),
            steps: self.steps,
            guidance: self.guidance,
            width_px: side(self.sides_px[0], own.0),
            height_px: side(self.sides_px[1], own.1),
            syntax: self.syntax,
            scheduler: self.scheduler,
            guidance_rescale: self.guidance_rescale,
            clip_skip: self.clip_skip,
            original,
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
