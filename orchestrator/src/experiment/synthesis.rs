//! The first step: pictures and conversations that pass the gates.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use anyhow::{Result, ensure};

use super::Run;
use crate::{
    progress::Progress,
    suite::Suite,
    synth::{self, Plan, Share, Summary},
};

impl Run<'_> {
    pub(super) async fn synthesize(&mut self) -> Result<()> {
        let started_at = Instant::now();
        let models = model_hashes(self.suite).await?;
        let plan = Plan::training(self.recipe).with_evaluation_sets(self.assets)?;
        self.note_models(models, &plan).await?;
        let summary = synthesize_with_progress(
            self.suite,
            &plan,
            &self.folder.dataset(),
            Share::ALL,
            "synthesis",
        )
        .await?;
        self.record
            .manifest_sha256
            .clone_from(&summary.manifest_sha256);
        self.record.synthesis = summary;
        self.finish_step("synthesis", started_at)
    }

    /// Notes the weights that make the dataset. A dataset is of one model: once begun, its record
    /// stays, and going on with other weights is refused.
    async fn note_models(&mut self, models: BTreeMap<String, String>, plan: &Plan) -> Result<()> {
        let before = &self.record.models;
        let dataset = self.folder.dataset();
        let is_begun = synth::accepted(plan, &dataset, Share::ALL).await? > 0;
        if before.is_empty() || !is_begun {
            self.record.models = models;
            return self.save();
        }
        if synth::is_complete(plan, &dataset).await? {
            return Ok(());
        }
        let changed = before
            .iter()
            .find(|&(name, sha256)| models.get(name) != Some(sha256));
        ensure!(
            changed.is_none(),
            "{} was begun with other weights of {}; bring them back, or choose another --out",
            self.folder.root().display(),
            changed.map_or("a model", |(name, _)| name)
        );
        Ok(())
    }
}

/// Synthesizes with a bar that counts accepted samples.
///
/// # Errors
/// As [`synth::synthesize`].
pub async fn synthesize_with_progress(
    suite: &Suite,
    plan: &Plan,
    out: &Path,
    share: Share,
    name: &str,
) -> Result<Summary> {
    let wanted = synth::wanted(plan, share);
    let present = synth::accepted(plan, out, share).await?;
    let watcher = BarWatcher {
        progress: Progress::start(name, wanted),
        wanted,
        accepted: AtomicU64::new(present),
        images: AtomicU64::new(0),
    };
    let summary = synth::synthesize(suite, plan, out, share, &watcher).await?;
    let rejected: u64 = summary.rejected.values().sum();
    let mut text = format!(
        "{} of {wanted} samples, {rejected} rejected on the way",
        summary.accepted
    );
    if summary.missing > 0 {
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

async fn model_hashes(suite: &Suite) -> Result<BTreeMap<String, String>> {
    let request = proto::diffusion::v1::GetCapabilitiesRequest {};
    let reply = suite.diffusion.clone().get_capabilities(request).await;
    let reply = reply.map_err(|status| anyhow::anyhow!("{}", runtime::explain(&status)))?;
    let models = reply.into_inner().capabilities.unwrap_or_default().models;
    Ok(models
        .into_iter()
        .map(|model| (model.name, model.sha256))
        .collect())
}
