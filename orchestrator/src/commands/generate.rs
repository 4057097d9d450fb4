//! `diptych generate`.

use anyhow::{Context as _, Result, bail};
use proto::{
    dataset::v1::{PromptSyntax as PbSyntax, image::Content},
    diffusion::v1::{
        GenerateImagesRequest, ImageItem, SamplingSettings, Scheduler, generate_images_response,
    },
};
use serde::Serialize;

use super::{Session, check_target};
use crate::{
    bad_input::{complaint, refusal},
    cli::{GenerateArgs, SchedulerArg},
    files,
    progress::Progress,
    progress::warn,
    suite::{Needs, ServiceName, Suite},
};

#[derive(Debug, Serialize)]
struct Outcome {
    file: String,
    sha256: String,
    seed: u64,
    prompt_truncated: bool,
}

/// The one item of the request needs an id of the right form; it decides nothing.
const SAMPLE_ID: &str = "00000000000000000000000000000000";

pub(super) async fn execute(args: GenerateArgs, session: &Session) -> Result<()> {
    check_target(&args.out)?;
    let needs = Needs {
        image_model: model(&args),
        ..Needs::services(&[ServiceName::Diffusion])
    };
    let suite = session.open(&needs).await?;
    let outcome = generate(&args, &suite).await;
    suite.close().await?;
    let outcome = outcome?;
    if outcome.prompt_truncated {
        warn(
            "the prompt is longer than the model reads; its end was left out (--prompt-syntax webui reads all of it)",
        );
    }
    session.say(
        &outcome,
        &format!("{} (sha256 {})", outcome.file, outcome.sha256),
    )
}

async fn generate(args: &GenerateArgs, suite: &Suite) -> Result<Outcome> {
    let progress = Progress::start("rendering", args.steps.into());
    let reply = suite
        .diffusion
        .clone()
        .generate_images(request(args, suite))
        .await;
    let mut stream = reply.map_err(|status| complaint(&status))?.into_inner();
    while let Some(message) = stream
        .message()
        .await
        .map_err(|status| complaint(&status))?
    {
        match message.result {
            Some(generate_images_response::Result::Progress(step)) => {
                progress.set(step.done_step_count.into(), step.step_count.into(), "steps");
            }
            Some(generate_images_response::Result::Image(generated)) => {
                let image = generated.image.context("the reply holds no image")?;
                let Some(Content::Data(data)) = image.content else {
                    bail!("the image did not come inline")
                };
                files::write(&args.out, &data)?;
                progress.finish(&format!("{}×{} pixels", image.width_px, image.height_px));
                return Ok(Outcome {
                    file: args.out.display().to_string(),
                    sha256: image.sha256,
                    seed: args.seed,
                    prompt_truncated: generated.prompt_truncated,
                });
            }
            Some(generate_images_response::Result::Failure(failure)) => {
                return Err(refusal(&failure));
            }
            None => {}
        }
    }
    bail!("the service ended its stream without a picture")
}

/// The model with its adapters, as a service is told of them.
fn model(args: &GenerateArgs) -> String {
    let parts = std::iter::once(&args.model).chain(&args.lora);
    parts.map(String::as_str).collect::<Vec<_>>().join("+")
}

fn request(args: &GenerateArgs, suite: &Suite) -> GenerateImagesRequest {
    // A service in this process was started with the model; a remote one is told its name.
    let model = if suite.is_embedded(ServiceName::Diffusion) {
        String::new()
    } else {
        model(args)
    };
    let item = ImageItem {
        sample_id: SAMPLE_ID.to_owned(),
        prompt: args.prompt.clone(),
        negative_prompt: args.negative.clone(),
        seed: args.seed,
        ..ImageItem::default()
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
