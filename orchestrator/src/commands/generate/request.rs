//! The request that the arguments of `generate` make, and what an endpoint must offer for it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use proto::{
    dataset::v1::{Capabilities, Image, PromptSyntax as PbSyntax, image::Content},
    diffusion::v1::{GenerateImagesRequest, ImageItem, SamplingSettings, Scheduler},
};

use crate::{
    bad_input::BadInput,
    cli::{GenerateArgs, SchedulerArg},
};

/// The one item of the request needs an id of the right form; it decides nothing.
const SAMPLE_ID: &str = "00000000000000000000000000000000";
/// The largest picture to send, in bytes, as the schema says.
const MAX_IMAGE_BYTES: u64 = 8 << 20;

/// Pictures to go on from, read.
pub(super) struct Originals {
    init: Option<Image>,
    mask: Option<Image>,
}

impl Originals {
    /// Reads the files that the arguments name.
    ///
    /// # Errors
    /// Bad input: a file that is not there, is too large, or is neither PNG nor JPEG.
    pub(super) fn read(args: &GenerateArgs) -> Result<Self> {
        let file = |path: &Option<std::path::PathBuf>| {
            let image = path.as_deref().map(read_image).transpose();
            image.map_err(|error| error.context(BadInput))
        };
        Ok(Self {
            init: file(&args.pictures.init_image)?,
            mask: file(&args.pictures.mask)?,
        })
    }
}

/// Refuses up front what the endpoint does not offer.
///
/// # Errors
/// Bad input, naming the option.
pub(super) fn check_offer(args: &GenerateArgs, offered: &Capabilities) -> Result<()> {
    let more = &args.pictures;
    let wanted = [
        ("--init-image", "image_to_image", more.init_image.is_some()),
        ("--mask", "inpainting", more.mask.is_some()),
        ("--num-images", "image_count", more.num_images > 1),
        (
            "--guidance-rescale",
            "guidance_rescale",
            more.guidance_rescale > 0.0,
        ),
        ("--clip-skip", "clip_skip", more.clip_skip > 0),
    ];
    for (option, feature, is_asked) in wanted {
        let offers = || offered.features.iter().any(|known| known == feature);
        let check = || -> Result<()> {
            ensure!(
                !is_asked || offers(),
                "{option} needs a diffusion endpoint that offers `{feature}`; this one ({}) offers: {}",
                offered.backend,
                offered.features.join(", ")
            );
            Ok(())
        };
        check().map_err(|error| error.context(BadInput))?;
    }
    Ok(())
}

/// The request for `model`, of which an empty name is the endpoint's default.
pub(super) fn request(
    args: &GenerateArgs,
    originals: Originals,
    model: String,
) -> GenerateImagesRequest {
    let more = &args.pictures;
    let item = ImageItem {
        sample_id: SAMPLE_ID.to_owned(),
        prompt: args.prompt.clone(),
        negative_prompt: args.negative.clone(),
        seed: args.seed,
        init_image: originals.init,
        mask_image: originals.mask,
        strength: more.strength.unwrap_or_default(),
        // 0 is what services from before the field know.
        image_count: if more.num_images == 1 {
            0
        } else {
            more.num_images
        },
    };
    let settings = SamplingSettings {
        step_count: args.steps,
        guidance_scale: Some(args.guidance),
        width_px: args.width.unwrap_or_default(),
        height_px: args.height.unwrap_or_default(),
        scheduler: args
            .scheduler
            .map_or(Scheduler::Unspecified, Scheduler::from)
            .into(),
        prompt_syntax: PbSyntax::into(args.prompt_syntax.into_proto()),
        guidance_rescale: more.guidance_rescale,
        clip_skip: more.clip_skip,
        deliver_unsafe: more.allow_unsafe,
        ..SamplingSettings::default()
    };
    GenerateImagesRequest {
        model,
        items: vec![item],
        settings: Some(settings),
        report_progress: true,
        client: String::new(),
    }
}

fn read_image(path: &Path) -> Result<Image> {
    let unreadable = || format!("cannot read {}", path.display());
    let size = fs::metadata(path).with_context(unreadable)?.len();
    ensure!(
        size <= MAX_IMAGE_BYTES,
        "{} has {size} bytes, at most {MAX_IMAGE_BYTES}",
        path.display()
    );
    let data = fs::read(path).with_context(unreadable)?;
    let media_type = match image::guess_format(&data) {
        Ok(image::ImageFormat::Png) => "image/png",
        Ok(image::ImageFormat::Jpeg) => "image/jpeg",
        _ => anyhow::bail!("{} is neither PNG nor JPEG", path.display()),
    };
    Ok(Image {
        content: Some(Content::Data(data.into())),
        media_type: media_type.to_owned(),
        ..Image::default()
    })
}

impl From<SchedulerArg> for Scheduler {
    fn from(argument: SchedulerArg) -> Self {
        match argument {
            SchedulerArg::Ddim => Self::Ddim,
            SchedulerArg::Ddpm => Self::Ddpm,
            SchedulerArg::Pndm => Self::Pndm,
            SchedulerArg::Euler => Self::Euler,
            SchedulerArg::EulerA => Self::EulerA,
            SchedulerArg::Heun => Self::Heun,
            SchedulerArg::Dpmpp2m => Self::Dpmpp2m,
            SchedulerArg::Dpmpp2mSde => Self::Dpmpp2mSde,
            SchedulerArg::UniPc => Self::Unipc,
            SchedulerArg::Lcm => Self::Lcm,
            SchedulerArg::FlowEuler => Self::FlowEuler,
        }
    }
}
