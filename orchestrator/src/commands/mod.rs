//! One file per command; what they share is how they start and how they end.

mod audit;
mod chat;
mod conformance;
mod curate;
mod doctor;
mod eval;
mod export;
mod folder;
mod generate;
mod import;
mod plan;
mod preview;
mod report;
mod run;
mod score;
mod synth;
mod train;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use dataset::store::{Location, Reader};
use runtime::Telemetry;
use serde::Serialize;

use self::folder::{check_target, make_folder};
pub use self::{
    audit::AuditArgs,
    export::{ExportArgs, ExportFormat},
    import::{ImportArgs, ImportFormat},
    plan::PlanArgs,
    preview::PreviewArgs,
    run::RunArgs,
    score::{BenchmarkArg, ScoreArgs, ScoreMode},
    synth::SynthArgs,
    train::{StageArg, TrainArgs},
};
pub(crate) use crate::bad_input::BadInput;
use crate::{
    Cli,
    assets::Assets,
    bad_input::is_bad_input,
    cli::{Command, Global},
    output,
    suite::{Needs, Suite, parse_endpoints},
};

/// Runs one command line: exit code 0 done, 2 bad usage or input, 1 failed.
pub async fn execute(cli: Cli) -> ExitCode {
    let Cli { command, global } = cli;
    let outcome = match Session::start(global) {
        Ok(session) => {
            let name = command.name();
            let telemetry = session.telemetry.clone();
            let outcome = telemetry.in_span(name, dispatch(command, &session)).await;
            telemetry.shutdown().await;
            outcome
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

/// What every command starts with.
pub(crate) struct Session {
    pub(crate) global: Global,
    pub(crate) assets: Assets,
    pub(crate) telemetry: Telemetry,
}

/// Opens a dataset that the caller named. Which of its errors are the caller's, the store says: a bucket
/// that does not answer is a failure.
async fn open_dataset(place: &Location) -> Result<Reader> {
    let opened = async { Reader::open(place.open()?).await };
    let opened: Result<Reader, dataset::store::Error> = opened.await;
    Ok(opened?)
}

impl Session {
    fn start(mut global: Global) -> Result<Self> {
        // A command speaks through its progress and its result; the logs of services in its
        // process are for whoever asks.
        global
            .telemetry
            .log
            .get_or_insert_with(|| "warn".to_owned());
        let telemetry = Telemetry::start(&global.telemetry, "orchestrator")?;
        parse_endpoints(&global.endpoints).map_err(|error| error.context(BadInput))?;
        let assets =
            Assets::find(global.assets.as_deref()).map_err(|error| error.context(BadInput))?;
        Ok(Self {
            global,
            assets,
            telemetry,
        })
    }

    async fn open(&self, needs: &Needs) -> Result<Suite> {
        Suite::open(&self.global, &self.assets, &self.telemetry, needs).await
    }

    /// Prints a result: JSON where asked for, else the sentence.
    fn say<T: Serialize>(&self, result: &T, sentence: &str) -> Result<()> {
        if self.global.json {
            output::result(&serde_json::to_string_pretty(result)?)
        } else {
            output::result(sentence)
        }
    }
}

async fn dispatch(command: Command, session: &Session) -> Result<()> {
    match command {
        Command::Up(args) => up::execute(args, session).await,
        Command::Run(args) => run::execute(args, session).await,
        Command::Plan(args) => plan::execute(args, session).await,
        Command::Preview(args) => preview::execute(args, session).await,
        Command::Synth(args) => synth::execute(args, session).await,
        Command::Train(args) => train::execute(args, session).await,
        Command::Eval(args) => eval::execute(args, session).await,
        Command::Report(args) => report::execute(args, session).await,
        Command::Export(args) => export::execute(args, session).await,
        Command::Import(args) => import::execute(args, session).await,
        Command::Audit(args) => audit::execute(args, session).await,
        Command::Curate(args) => curate::execute(args, session).await,
        Command::Generate(args) => generate::execute(args, session).await,
        Command::Chat(args) => chat::execute(args, session).await,
        Command::Score(args) => score::execute(args, session).await,
        Command::Doctor => doctor::execute(session).await,
        Command::Conformance(args) => conformance::execute(args, session).await,
    }
}

impl Command {
    fn name(&self) -> &'static str {
        match self {
            Self::Up(_) => "diptych up",
            Self::Run(_) => "diptych run",
            Self::Plan(_) => "diptych plan",
            Self::Preview(_) => "diptych preview",
            Self::Synth(_) => "diptych synth",
            Self::Train(_) => "diptych train",
            Self::Eval(_) => "diptych eval",
            Self::Report(_) => "diptych report",
            Self::Export(_) => "diptych export",
            Self::Import(_) => "diptych import",
            Self::Audit(_) => "diptych audit",
            Self::Curate(_) => "diptych curate",
            Self::Generate(_) => "diptych generate",
            Self::Chat(_) => "diptych chat",
            Self::Score(_) => "diptych score",
            Self::Doctor => "diptych doctor",
            Self::Conformance(_) => "diptych conformance",
        }
    }
}

/// An error with its causes in one line.
fn sentence(error: &anyhow::Error) -> String {
    let causes: Vec<String> = error
        .chain()
        .filter(|cause| cause.downcast_ref::<BadInput>().is_none())
        .map(|cause| cause.to_string().trim_end().to_owned())
        .filter(|text| text != "bad input")
        .collect();
    causes.join(": ")
}

/// One sentence with its causes on stderr, and the exit code.
fn complain(error: &anyhow::Error) -> ExitCode {
    output::note(&format!("error: {}", sentence(error)));
    match is_bad_input(error) {
        true => ExitCode::from(2),
        false => ExitCode::FAILURE,
    }
}
