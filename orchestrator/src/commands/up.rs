//! `diptych up`.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::{Session, make_folder};
use crate::{
    cli::UpArgs,
    embedded::Embedded,
    suite::{Needs, ServiceName},
};

/// Where artefacts lie when the operator names no root, as `make demo` has it.
const DEFAULT_ROOT: &str = "runs";

#[derive(Debug, Serialize)]
struct Started {
    service: &'static str,
    endpoint: String,
}

pub(super) async fn execute(args: UpArgs, session: &Session) -> Result<()> {
    let UpArgs {
        listen,
        mut artefacts,
    } = args;
    if artefacts.artefact_roots.is_empty() {
        make_folder(Path::new(DEFAULT_ROOT))?;
        artefacts.artefact_roots.push(DEFAULT_ROOT.into());
    }
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
