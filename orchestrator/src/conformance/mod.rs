//! Holds an implementation of one service against its contract: the comments in `proto/`, rule by
//! rule, over the network alone. For whoever replaces a stage with one of their own.
//!
//! [`judge`] asks the rules of one [`Subject`]; [`report`] is what it hands back. [`ledger`] keeps
//! the verdicts, [`manners`] has the rules of every service, [`jobs`] those of long work, and each
//! stage has a file with its own. A function that asks rules one after the other is as long as its
//! list of rules: each has its name, its sentence and its remedy beside the look at it.

mod deadline;
mod dialogue;
mod diffusion;
mod eval;
mod image_scoring;
mod jobs;
mod ledger;
mod manners;
mod pictures;
mod promptgen;
mod report;
mod text_embedding;
mod trainer;

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use runtime::{Channel, Telemetry, options::ClientOptions};

pub use self::report::{Finding, Report, Severity, Verdict};
use self::{ledger::Ledger, manners::Manners};
use crate::bad_input::BadInput;

/// A service that has a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// Writes image prompts.
    Promptgen,
    /// Renders images.
    Diffusion,
    /// Writes conversations.
    Dialogue,
    /// Trains models.
    Trainer,
    /// Evaluates models.
    Eval,
    /// Scores images, at diffusion's endpoint or one of its own.
    ImageScoring,
    /// Embeds texts, at promptgen's endpoint or one of its own.
    TextEmbedding,
}

/// What to judge, and within which bounds.
#[derive(Debug, Clone)]
pub struct Case {
    /// The service.
    pub subject: Subject,
    /// Where it listens, `http://…` or `https://…`.
    pub endpoint: String,
    /// Longest time that one rule may take.
    pub limit: Duration,
    /// Folder of this machine that a trainer or an evaluator may read and write; without one, what
    /// needs files is not judged.
    pub folder: Option<PathBuf>,
    /// How the service is reached.
    pub client: ClientOptions,
}

/// Largest message read and sent: an image is under 4 MiB, a reply may hold several.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Asks every rule of the case's service, in the order in which an implementer meets them.
///
/// # Errors
/// Nobody listens at the endpoint, or it is no URL: nothing was judged.
pub async fn judge(case: &Case, telemetry: &Telemetry) -> Result<Report> {
    let name = case.subject.name();
    let connected = Channel::connect(name, &case.endpoint, &case.client, telemetry).await;
    let channel = connected.map_err(|error| {
        // Other commands take endpoints by name; this one takes one.
        let sentence = runtime::error::chain(&error).replace("--endpoints", "--endpoint");
        anyhow!("{sentence}").context(BadInput)
    })?;
    other_service(case, &channel).await?;
    let mut ledger = Ledger::new(case.limit);
    let manners = Manners::new(case, &channel);
    manners.judge(&mut ledger).await;
    match case.subject {
        Subject::Promptgen => promptgen::judge(case, &channel, &mut ledger).await,
        Subject::Diffusion => diffusion::judge(case, &channel, &mut ledger).await,
        Subject::Dialogue => dialogue::judge(case, &channel, &mut ledger).await,
        Subject::Trainer => trainer::judge(case, &channel, &mut ledger).await,
        Subject::Eval => eval::judge(case, &channel, &mut ledger).await,
        Subject::ImageScoring => image_scoring::judge(&channel, &mut ledger).await,
        Subject::TextEmbedding => text_embedding::judge(&channel, &mut ledger).await,
    }
    Ok(ledger.into_report(name, &case.endpoint))
}

/// Refuses an endpoint that, by its own list, serves others and not this one: every rule would be
/// broken, and none of the sentences would say why.
async fn other_service(case: &Case, channel: &Channel) -> Result<()> {
    let listed = tokio::time::timeout(case.limit, manners::services(channel)).await;
    let Ok(Ok(listed)) = listed else {
        // Without a list the rules find out.
        return Ok(());
    };
    let ours = Subject::value_variants().iter();
    let served: Vec<&str> = ours
        .filter(|subject| listed.iter().any(|name| name == subject.grpc_name()))
        .map(|subject| subject.name())
        .collect();
    let asked = case.subject.name();
    if served.is_empty() || served.contains(&asked) {
        return Ok(());
    }
    let other = anyhow!(
        "{} serves {} and no {asked}: correct --service or --endpoint",
        case.endpoint,
        served.join(" and ")
    );
    Err(other.context(BadInput))
}

impl Subject {
    /// The name as the command line writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Promptgen => "promptgen",
            Self::Diffusion => "diffusion",
            Self::Dialogue => "dialogue",
            Self::Trainer => "trainer",
            Self::Eval => "eval",
            Self::ImageScoring => "image-scoring",
            Self::TextEmbedding => "text-embedding",
        }
    }

    /// The full gRPC name.
    pub fn grpc_name(self) -> &'static str {
        match self {
            Self::Promptgen => "diptych.promptgen.v1.PromptgenService",
            Self::Diffusion => "diptych.diffusion.v1.DiffusionService",
            Self::Dialogue => "diptych.dialogue.v1.DialogueService",
            Self::Trainer => "diptych.trainer.v1.TrainerService",
            Self::Eval => "diptych.eval.v1.EvalService",
            Self::ImageScoring => "diptych.diffusion.v1.ImageScoringService",
            Self::TextEmbedding => "diptych.promptgen.v1.TextEmbeddingService",
        }
    }
}

/// A generated client with the bounds of this command.
macro_rules! client {
    ($client:ident, $channel:expr) => {
        $client::new($channel.clone())
            .max_decoding_message_size(crate::conformance::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(crate::conformance::MAX_MESSAGE_BYTES)
    };
}
pub(crate) use client;
