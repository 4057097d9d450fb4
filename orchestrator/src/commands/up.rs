//! `diptych up`.

use anyhow::Result;
use serde::Serialize;

use super::Session;
use crate::{
    cli::UpArgs,
    embedded::Embedded,
    suite::{Needs, ServiceName},
};

#[derive(Debug, Serialize)]
struct Started {
    service: &'static str,
    endpoint: String,
}

pub(super) async fn execute(args: UpArgs, session: &Session) -> Result<()> {
    let UpArgs { listen, artefacts } = args;
    let needs = Needs {
        artefact_roots: artefacts.artefact_roots,
        ..Needs::services(&ServiceName::ALL)
    };
    let embedded = Embedded::serve(&session.global, &session.assets, &needs, &listen).await?;
    let started: Vec<Started> = embedded
        .endpoints()
        .into_iter()
        .map(|(name, endpoint)| Started {
            service: name.as_str(),
            endpoint,
        })
        .collect();
    let lines: Vec<String> = started
        .iter()
        .map(|one| format!("{:<10} {}", one.service, one.endpoint))
        .collect();
    session.say(&started, &lines.join("\n"))?;
    embedded.wait().await
}
