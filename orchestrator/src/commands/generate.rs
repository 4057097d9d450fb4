//! `diptych generate`.

mod request;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use proto::{
    dataset::v1::image::Content,
    diffusion::v1::{GenerateImagesResponse, GeneratedImage, generate_images_response},
};
use serde::Serialize;

use self::request::Originals;
use super::{Session, check_target};
use crate::{
    bad_input::{complaint, refusal},
    cli::GenerateArgs,
    files,
    progress::Progress,
    progress::warn,
    suite::{Needs, ServiceName, Suite},
};

/// The first picture's fields stand at the top, as where there is one.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    first: Written,
    /// All of them, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    images: Vec<Written>,
}

#[derive(Debug, Clone, Serialize)]
struct Written {
    file: String,
    sha256: String,
    seed: u64,
    prompt_truncated: bool,
    /// What the checkpoint's safety checker said: `safe`, `unsafe` or `not_checked`.
    safety: String,
}

pub(super) async fn execute(args: GenerateArgs, session: &Session) -> Result<()> {
    check_target(&args.out)?;
    let originals = Originals::read(&args)?;
    let needs = Needs {
        image_model: model(&args),
        ..Needs::services(&[ServiceName::Diffusion])
    };
    let suite = session.open(&needs).await?;
    let written = generate(&args, originals, &suite).await;
    suite.close().await?;
    let mut written = written?;
    if written.iter().any(|picture| picture.prompt_truncated) {
        warn(
            "the prompt is longer than the model reads; its end was left out (--prompt-syntax webui reads all of it)",
        );
    }
    let lines: Vec<String> = written
        .iter()
        .map(|picture| format!("{} (sha256 {})", picture.file, picture.sha256))
        .collect();
    let first = written.first().cloned().context("no picture came")?;
    if written.len() == 1 {
        written.clear();
    }
    let outcome = Outcome {
        first,
        images: written,
    };
    session.say(&outcome, &lines.join("\n"))
}

/// Makes the pictures and writes each as it comes; gives them in their order.
async fn generate(
    args: &GenerateArgs,
    originals: Originals,
    suite: &Suite,
) -> Result<Vec<Written>> {
    let offered = suite.capabilities(ServiceName::Diffusion).await?;
    request::check_offer(args, &offered)?;
    // A service in this process was started with the model; a remote one is told its name.
    let model = match suite.is_embedded(ServiceName::Diffusion) {
        true => String::new(),
        false => model(args),
    };
    let progress = Progress::start("rendering", args.steps.into());
    let request = request::request(args, originals, model);
    let reply = suite.diffusion.clone().generate_images(request).await;
    let mut stream = reply.map_err(|status| complaint(&status))?.into_inner();
    let mut written = Vec::new();
    while let Some(message) = stream
        .message()
        .await
        .map_err(|status| complaint(&status))?
    {
        let GenerateImagesResponse {
            result,
            image_index,
            ..
        } = message;
        match result {
            Some(generate_images_response::Result::Progress(step)) => {
                progress.set(step.done_step_count.into(), step.step_count.into(), "steps");
            }
            Some(generate_images_response::Result::Image(generated)) => {
                written.push((image_index, write(args, image_index, generated)?));
            }
            Some(generate_images_response::Result::Failure(failure)) => {
                return Err(refusal(&failure));
            }
            None => {}
        }
    }
    let wanted = args.pictures.num_images as usize;
    ensure!(
        written.len() == wanted,
        "the service ended its stream with {} of {wanted} pictures",
        written.len()
    );
    progress.finish(&format!("{wanted} written"));
    written.sort_by_key(|(index, _)| *index);
    Ok(written.into_iter().map(|(_, picture)| picture).collect())
}

fn write(args: &GenerateArgs, index: u32, generated: GeneratedImage) -> Result<Written> {
    let safety = generated.safety().as_str_name().to_lowercase();
    let safety = safety.trim_start_matches("safety_verdict_").to_owned();
    let image = generated.image.context("the reply holds no image")?;
    let Some(Content::Data(data)) = image.content else {
        bail!("the image did not come inline")
    };
    let file = target(&args.out, index, args.pictures.num_images);
    files::write(&file, &data)?;
    Ok(Written {
        file: file.display().to_string(),
        sha256: image.sha256,
        seed: args.seed.wrapping_add(index.into()),
        prompt_truncated: generated.prompt_truncated,
        safety,
    })
}

/// `FILE.png`, or `FILE-k.png` of several.
fn target(out: &Path, index: u32, count: u32) -> PathBuf {
    if count == 1 {
        return out.to_path_buf();
    }
    let stem = out.file_stem().unwrap_or_default().to_string_lossy();
    let end = out.extension().unwrap_or("png".as_ref()).to_string_lossy();
    out.with_file_name(format!("{stem}-{index}.{end}"))
}

/// The model with its adapters, as a service is told of them.
fn model(args: &GenerateArgs) -> String {
    let parts = std::iter::once(&args.model).chain(&args.lora);
    parts.map(String::as_str).collect::<Vec<_>>().join("+")
}
