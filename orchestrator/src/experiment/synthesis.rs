//! The first step: pictures and conversations that pass the gates.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use anyhow::{Result, bail, ensure};
use dataset::{identity::sha256_hex, store::Location};
use prost::Message as _;
use proto::{dataset::v1::Capabilities, promptgen::v1::GetAbilityRequest};

use super::Run;
use crate::{
    bad_input::complaint,
    progress::Progress,
    suite::{ServiceName, Suite},
    synth::{self, Plan, Share, Summary},
};

impl Run<'_> {
    pub(super) async fn synthesize(&mut self) -> Result<()> {
        let started_at = Instant::now();
        let plan = Plan::training(self.recipe).with_evaluation_sets(self.assets)?;
        let makers = makers(self.suite, &plan).await?;
        self.note_makers(makers, &plan).await?;
        let summary = synthesize_with_progress(
            self.suite,
            &plan,
            &Location::Folder(self.folder.dataset()),
            Share {
                budget: self.budget,
                ..Share::ALL
            },
            "synthesis",
        )
        .await?;
        let stopped = summary.stopped_at_budget;
        self.record
            .manifest_sha256
            .clone_from(&summary.manifest_sha256);
        self.record.synthesis = summary;
        self.finish_step("synthesis", started_at)?;
        ensure!(
            !stopped,
            "stopped at the budget of {}: run it again to go on",
            self.budget
        );
        Ok(())
    }

    /// Notes who makes the dataset. A dataset has one set of makers: once begun, its record stays,
    /// and going on with others is refused.
    async fn note_makers(&mut self, makers: BTreeMap<String, String>, plan: &Plan) -> Result<()> {
        let before = &self.record.models;
        let dataset = Location::Folder(self.folder.dataset());
        let is_begun = synth::accepted(plan, &dataset, Share::ALL).await? > 0;
        if before.is_empty() || !is_begun {
            self.record.models = makers;
            return self.save();
        }
        if synth::is_complete(plan, &dataset).await? {
            return Ok(());
        }
        let same = |&(name, version): &(&String, &String)| makers.get(name) == Some(version);
        let Some((name, version)) = before.iter().find(|made| !same(made)) else {
            return Ok(());
        };
        bail!(
            "{} was begun with another {name} ({version}, now {}); bring it back, or choose another --out",
            self.folder.root().display(),
            makers.get(name).map_or("absent", String::as_str)
        )
    }
}

/// Synthesizes with a bar that counts accepted samples.
///
/// # Errors
/// As [`synth::synthesize`].
pub async fn synthesize_with_progress(
    suite: &Suite,
    plan: &Plan,
    place: &Location,
    share: Share,
    name: &str,
) -> Result<Summary> {
    let wanted = synth::wanted(plan, share);
    let present = synth::accepted(plan, place, share).await?;
    let watcher = BarWatcher {
        progress: Progress::start(name, wanted),
        wanted,
        accepted: AtomicU64::new(present),
        images: AtomicU64::new(0),
    };
    let summary = synth::synthesize(suite, plan, place, share, &watcher).await?;
    let rejected: u64 = summary.rejected.values().sum();
    let mut text = format!(
        "{} of {wanted} samples, {rejected} rejected on the way",
        summary.accepted
    );
    if rejected > 0 {
        let counts = summary.rejected.iter();
        let counts: Vec<String> = counts
            .map(|(gate, count)| format!("{gate} {count}"))
            .collect();
        text.push_str(&format!(" ({})", counts.join(", ")));
    }
    if summary.missing > 0 && !summary.stopped_at_budget {
        text.push_str(&format!(
            "; {} could not be made within the attempts",
            summary.missing
        ));
    }
    watcher.progress.finish(&text);
    Ok(summary)
}

struct BarWatcher {
    progress: Progress,
    wanted: u64,
    accepted: AtomicU64,
    images: AtomicU64,
}

impl synth::Watcher for BarWatcher {
    fn image_done(&self) {
        let images = self.images.fetch_add(1, Ordering::Relaxed) + 1;
        self.progress.set(
            self.accepted.load(Ordering::Relaxed),
            self.wanted,
            format!("accepted, {images} pictures"),
        );
    }

    fn sample_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }
}

/// What decides the dataset beside the recipe, as the services tell it: their back-ends and versions,
/// the hashes of their models, and of the abilities in use.
async fn makers(suite: &Suite, plan: &Plan) -> Result<BTreeMap<String, String>> {
    let mut makers = BTreeMap::new();
    for service in [
        ServiceName::Promptgen,
        ServiceName::Diffusion,
        ServiceName::Dialogue,
    ] {
        let Capabilities {
            backend,
            version,
            models,
            measuring_models,
            ..
        } = suite.capabilities(service).await?;
        makers.insert(service.to_string(), format!("{backend} {version}"));
        let models = models.into_iter().chain(measuring_models);
        makers.extend(models.map(|model| (model.name, model.sha256)));
    }
    for name in plan.wanted.sample_counts.keys() {
        let request = GetAbilityRequest { name: name.clone() };
        let reply = suite.promptgen.clone().get_ability(request).await;
        let reply = reply.map_err(|status| complaint(&status))?.into_inner();
        let ability = reply.ability.unwrap_or_default().encode_to_vec();
        makers.insert(format!("ability {name}"), sha256_hex(ability));
    }
    Ok(makers)
}
