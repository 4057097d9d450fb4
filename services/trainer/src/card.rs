//! The model card that goes beside an exported model.

use std::fmt::Write as _;

use crate::plan::{Plan, StageKind};

/// What the steps came to.
#[derive(Debug)]
pub(crate) struct Totals {
    pub(crate) skipped_sample_count: u64,
    pub(crate) final_loss: f64,
    pub(crate) supervised_token_count: u64,
}

/// The card in Markdown: base, data with hashes, settings, last loss.
pub(crate) fn write(plan: &Plan, lineage: &[Vec<String>], totals: &Totals) -> String {
    let mut card = String::from(
        "---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\n---\n\n# A LLaVA model trained by Diptych\n\n",
    );
    let mut line = |text: String| {
        let _infallible = writeln!(card, "{text}");
    };
    line(format!(
        "Started from `{}`; seed {}; trainer {}.\n",
        plan.base_name,
        plan.seed,
        env!("CARGO_PKG_VERSION")
    ));
    for (stage, sources) in plan.stages.iter().zip(lineage) {
        let what = match stage.kind {
            StageKind::Alignment => "projector alone, captions (template `plain`)",
            StageKind::Instruction => {
                "projector and language model, conversations (template `vicuna_v1`), loss on answers"
            }
        };
        line(format!("## Stage `{}`\n", stage.name));
        line(format!("* {what}"));
        line(format!(
            "* {} steps of {} samples",
            stage.step_count, stage.batch_size
        ));
        let settings = &stage.optimizer;
        line(format!(
            "* AdamW, peak rate {} (projector {}), {:?} after a warm-up of {} of the steps, weight decay {}, gradient norm {}",
            settings.learning_rate,
            settings.projector_learning_rate,
            settings.shape,
            settings.warmup_ratio,
            settings.weight_decay,
            settings
                .max_gradient_norm
                .map_or("unbounded".to_owned(), |norm| format!("at most {norm}")),
        ));
        for source in sources {
            line(format!("* data: {source}"));
        }
        line(String::new());
    }
    line("## Outcome\n".into());
    line(format!(
        "* loss of the last step: {:.4} nats per supervised token",
        totals.final_loss
    ));
    line(format!(
        "* supervised tokens: {}",
        totals.supervised_token_count
    ));
    line(format!(
        "* samples skipped because nothing in them is supervised: {}",
        totals.skipped_sample_count
    ));
    card
}
