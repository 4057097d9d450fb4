//! `diptych curate`: candidates for an ability's examples, kept or dropped by a person.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::{BadInput, Session, open_dataset};
use crate::{
    cli::{CurateArgs, CurateKind},
    curate::{
        AbilityFile, Counts, Curation, Errand, Journal, Listen, Request, Source, Verdict, gather,
        serve,
    },
    suite::{JOURNALS, Needs, ServiceName},
};

#[derive(Debug, Serialize)]
struct Outcome {
    file: String,
    entered: Counts,
}

pub(super) async fn execute(args: CurateArgs, session: &Session) -> Result<()> {
    let listen = Listen::new(args.listen, args.insecure)?;
    let file = AbilityFile::find(&session.assets, &args.ability)?;
    let folder = args.out.clone();
    let folder = folder.unwrap_or_else(|| ["runs", "curate", &args.ability].iter().collect());
    let journal = Journal::open(&folder, file.ability())?;
    let mut curation = Curation::new(file, args.kind, journal)?;
    if let Some(ids) = &args.keep {
        let ids = read_ids(ids)?;
        if !ids.iter().all(|id| curation.has(id)) {
            fill(&mut curation, &args, session).await?;
        }
        return keep(curation, &ids, session);
    }
    fill(&mut curation, &args, session).await?;
    let shown = curation.shown();
    if session.global.json {
        return session.say(&curation.cards(&shown), "");
    }
    let ended = serve(curation, shown, listen).await?;
    session.say(&ended.summary, &ended.summary)
}

/// Gathers candidates until enough wait for a decision.
async fn fill(curation: &mut Curation, args: &CurateArgs, session: &Session) -> Result<()> {
    let open_count = args.count as usize;
    if curation.open_count() >= open_count {
        return Ok(());
    }
    let source = match &args.from {
        Some(place) => Source::Dataset(Box::new(open_dataset(place).await?), place.clone()),
        None => Source::Services(Box::new(errand(curation, args, session).await?)),
    };
    let request = Request { open_count, source };
    let gathered = gather(curation, &request).await;
    if let Source::Services(errand) = request.source {
        errand.suite.close().await?;
    }
    gathered
}

async fn errand(curation: &Curation, args: &CurateArgs, session: &Session) -> Result<Errand> {
    let writers = match args.kind {
        CurateKind::Prompts => vec![ServiceName::Promptgen],
        CurateKind::Dialogues | CurateKind::Both => {
            vec![ServiceName::Promptgen, ServiceName::Dialogue]
        }
    };
    let backend = args.backend.iter();
    let backends =
        backend.flat_map(|name| writers.iter().map(move |&writer| (writer, name.clone())));
    let backends: BTreeMap<ServiceName, String> = backends.collect();
    let mut services = writers.clone();
    services.extend(args.pictures.then_some(ServiceName::Diffusion));
    let needs = Needs {
        image_model: args.model.clone(),
        backends,
        journals: Some(curation.folder().join(JOURNALS)),
        ..Needs::services(&services)
    };
    Ok(Errand {
        suite: session.open(&needs).await?,
        seed: args.seed,
        kind: args.kind,
        image_model: args.pictures.then(|| args.model.clone()),
    })
}

fn read_ids(file: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the ids in {}", file.display()))
        .context(BadInput)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

/// Keeps what was named, and enters it.
fn keep(mut curation: Curation, ids: &[String], session: &Session) -> Result<()> {
    let unknown: Vec<&str> = ids
        .iter()
        .map(String::as_str)
        .filter(|id| !curation.has(id))
        .collect();
    let known = || -> Result<()> {
        ensure!(
            unknown.is_empty(),
            "there is no candidate {}; --json lists them",
            unknown.join(", ")
        );
        Ok(())
    };
    known().context(BadInput)?;
    for id in ids {
        curation.decide(id, Verdict::Keep, None)?;
    }
    let entered = curation.save()?;
    let outcome = Outcome {
        file: curation.file().display().to_string(),
        entered,
    };
    session.say(&outcome, &curation.summary(&[]))
}
