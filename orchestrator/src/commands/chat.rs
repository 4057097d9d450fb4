//! `diptych chat`.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use proto::{
    dataset::v1::{Image, image::Content},
    eval::v1::{
        AnswerQuestionsRequest, Candidate, QuestionItem, answer_questions_response, candidate,
    },
};
use serde::Serialize;

use super::{BadInput, Session};
use crate::{
    bad_input::{complaint, refusal},
    cli::ChatArgs,
    jobs::artefact,
    suite::{Needs, ServiceName, Suite},
};

#[derive(Debug, Serialize)]
struct Outcome {
    answer: String,
    rendered_prompt: String,
    tokens: u32,
}

pub(super) async fn execute(args: ChatArgs, session: &Session) -> Result<()> {
    let image = read_image(&args.image).map_err(|error| error.context(BadInput))?;
    let (model, root) = match args.model.strip_prefix("builtin:") {
        Some(_) => (candidate::Model::ModelName(args.model.clone()), None),
        None => {
            let path = Path::new(&args.model);
            let is_there = || -> Result<()> {
                ensure!(path.is_dir(), "there is no folder {}", path.display());
                Ok(())
            };
            is_there().map_err(|error| error.context(BadInput))?;
            (
                candidate::Model::Checkpoint(artefact(path, true)?),
                Some(std::path::absolute(path)?),
            )
        }
    };
    // The service keeps records of jobs under its first root; a chat has none worth keeping.
    let records = tempfile::tempdir().context("cannot make a temporary folder")?;
    let roots = [
        records.path().to_path_buf(),
        session.assets.root().to_path_buf(),
    ];
    let needs = Needs {
        artefact_roots: roots.into_iter().chain(root).collect(),
        ..Needs::services(&[ServiceName::Eval])
    };
    let suite = session.open(&needs).await?;
    let outcome = ask(&args, model, image, &suite).await;
    suite.close().await?;
    let outcome = outcome?;
    session.say(&outcome, &outcome.answer)
}

async fn ask(
    args: &ChatArgs,
    model: candidate::Model,
    image: Image,
    suite: &Suite,
) -> Result<Outcome> {
    let request = AnswerQuestionsRequest {
        model: Some(Candidate {
            model: Some(model),
            ..Candidate::default()
        }),
        items: vec![QuestionItem {
            question_id: "1".to_owned(),
            images: vec![image],
            text: args.question.clone(),
        }],
        max_new_token_count: args.max_new_tokens,
    };
    let reply = suite.eval.clone().answer_questions(request).await;
    let mut stream = reply.map_err(|status| complaint(&status))?.into_inner();
    let message = stream.message().await;
    let message = message.map_err(|status| complaint(&status))?;
    match message
        .and_then(|message| message.result)
        .context("the service gave no answer")?
    {
        answer_questions_response::Result::Answer(answer) => Ok(Outcome {
            answer: answer.text,
            rendered_prompt: answer.rendered_prompt,
            tokens: answer.token_count,
        }),
        answer_questions_response::Result::Failure(failure) => Err(refusal(&failure)),
    }
}

fn read_image(path: &Path) -> Result<Image> {
    let data = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let format = image::guess_format(&data)
        .with_context(|| format!("{} is no PNG or JPEG", path.display()))?;
    let picture = image::load_from_memory(&data)
        .with_context(|| format!("{} cannot be decoded", path.display()))?;
    Ok(Image {
        content: Some(Content::Data(data.into())),
        media_type: format.to_mime_type().to_owned(),
        width_px: picture.width(),
        height_px: picture.height(),
        ..Image::default()
    })
}
