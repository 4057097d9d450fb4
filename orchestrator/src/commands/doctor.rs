//! `diptych doctor`: what works, and what to do about the rest.

use std::path::Path;

use anyhow::Result;
use runtime::{Channel, cache::Cache};
use serde::Serialize;

use super::{Session, sentence};
use crate::suite::{ServiceName, capabilities, parse_endpoints};

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at.
    subject: String,
    /// `ok`, `off` (works without it) or `broken`.
    state: State,
    /// What was found, and what to do about it.
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Off,
    Broken,
}

impl Finding {
    fn new(subject: impl Into<String>, state: State, message: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            state,
            message: message.into(),
        }
    }
}

pub(super) async fn execute(session: &Session) -> Result<()> {
    let mut findings = vec![abilities(session)];
    findings.extend(["nano-sd", "nano-clip", "nano-llava"].map(|name| built_in(session, name)));
    findings.extend(endpoints(session).await?);
    findings.push(language_model(session));
    findings.push(redis(session).await);
    findings.push(traces(session));
    findings.push(Finding::new(
        "device",
        State::Ok,
        format!("CPU, {} threads; this build has no GPU back-end", threads()),
    ));
    let lines: Vec<String> = findings
        .iter()
        .map(|found| {
            format!(
                "{:<7} {:<20} {}",
                format!("{:?}", found.state).to_lowercase(),
                found.subject,
                found.message
            )
        })
        .collect();
    session.say(&findings, &lines.join("\n"))?;
    let broken = findings
        .iter()
        .filter(|found| found.state == State::Broken)
        .count();
    anyhow::ensure!(
        broken == 0,
        "{broken} of {} things are broken; see above",
        findings.len()
    );
    Ok(())
}

fn abilities(session: &Session) -> Finding {
    let folder = session.assets.root().join("abilities");
    match dataset::ability::Abilities::load_folder(&folder) {
        Ok(abilities) => {
            let count = abilities.names().count();
            Finding::new(
                "abilities",
                State::Ok,
                format!("{count} in {}", folder.display()),
            )
        }
        Err(error) => Finding::new("abilities", State::Broken, runtime::error::chain(&error)),
    }
}

fn built_in(session: &Session, name: &str) -> Finding {
    let folder = session.assets.root().join("models/nano").join(name);
    let subject = format!("builtin:{name}");
    if has_weights(&folder) {
        Finding::new(subject, State::Ok, folder.display().to_string())
    } else {
        Finding::new(
            subject,
            State::Broken,
            format!(
                "no weights in {}; check out the whole repository, or set DIPTYCH_ASSETS",
                folder.display()
            ),
        )
    }
}

fn has_weights(folder: &Path) -> bool {
    [
        "model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    .iter()
    .any(|file| folder.join(file).is_file())
}

/// What a recipe with `backend = "local"` would find.
fn language_model(session: &Session) -> Finding {
    let subject = "language model";
    let given = session.global.language_model.as_deref();
    let Some(path) = given.filter(|path| !path.as_os_str().is_empty()) else {
        let message = "none; the back-end `local` wants --language-model or DIPTYCH_LANGUAGE_MODEL";
        return Finding::new(subject, State::Off, message);
    };
    let is_gguf = path.extension().is_some_and(|ending| ending == "gguf");
    let is_there = match is_gguf {
        true => path.is_file(),
        false => path.join("config.json").is_file(),
    };
    let place = path.display();
    match is_there {
        true => Finding::new(subject, State::Ok, place.to_string()),
        false => Finding::new(
            subject,
            State::Broken,
            format!(
                "{place} is neither a folder with config.json nor a .gguf file; correct --language-model or DIPTYCH_LANGUAGE_MODEL"
            ),
        ),
    }
}

async fn endpoints(session: &Session) -> Result<Vec<Finding>> {
    let given = parse_endpoints(&session.global.endpoints)?;
    let mut findings = Vec::new();
    for name in ServiceName::ALL {
        findings.push(match given.get(&name) {
            None => Finding::new(
                name.as_str(),
                State::Off,
                "no endpoint given; commands start it in their own process",
            ),
            Some(endpoint) => match call(session, name, endpoint).await {
                Ok(backend) => Finding::new(
                    name.as_str(),
                    State::Ok,
                    format!("{endpoint} answers, back-end {backend}"),
                ),
                Err(error) => Finding::new(name.as_str(), State::Broken, sentence(&error)),
            },
        });
    }
    Ok(findings)
}

async fn call(session: &Session, name: ServiceName, endpoint: &str) -> Result<String> {
    let channel = Channel::connect(
        name.as_str(),
        endpoint,
        &session.global.client,
        &session.telemetry,
    )
    .await?;
    Ok(capabilities(name, channel).await?.backend)
}

async fn redis(session: &Session) -> Finding {
    let cache = match Cache::open(&session.global.cache) {
        Ok(cache) => cache,
        Err(error) => return Finding::new("redis", State::Broken, runtime::error::chain(&error)),
    };
    match cache.ping().await {
        None => Finding::new(
            "redis",
            State::Off,
            "REDIS_URL is not set; each process has a cache of its own",
        ),
        Some(Ok(())) => Finding::new("redis", State::Ok, "answers"),
        Some(Err(why)) => Finding::new(
            "redis",
            State::Broken,
            format!("{why}; work goes on without it, but nothing is shared"),
        ),
    }
}

fn traces(session: &Session) -> Finding {
    match session.global.telemetry.otlp_endpoint.as_deref() {
        None | Some("") => Finding::new(
            "traces",
            State::Off,
            "not exported; set OTEL_EXPORTER_OTLP_ENDPOINT to a collector",
        ),
        Some(endpoint) => Finding::new("traces", State::Ok, format!("exported to {endpoint}")),
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
