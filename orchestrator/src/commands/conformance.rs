//! `diptych conformance`: does this implementation keep the contract?

use std::time::Duration;

use anyhow::Result;

use super::Session;
use crate::{
    cli::ConformanceArgs,
    conformance::{Case, Report, judge},
};

pub(super) async fn execute(args: ConformanceArgs, session: &Session) -> Result<()> {
    let case = Case {
        subject: args.service,
        endpoint: args.endpoint,
        limit: Duration::from_secs(args.timeout),
        folder: args.folder,
        client: session.global.client.clone(),
    };
    let report = judge(&case, &session.telemetry).await?;
    session.say(&report, &report.table())?;
    let Report {
        service, broken, ..
    } = &report;
    anyhow::ensure!(
        *broken == 0,
        "{broken} rules that an implementation of {service} must keep are broken; see above"
    );
    Ok(())
}
