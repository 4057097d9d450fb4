//! That settings do what the schema says of them.

use proto::diffusion::v1::SamplingSettings;

use super::{STEPS, Stage, asking, item, settings};
use crate::conformance::{
    ledger::{Ledger, Miss, Rule, Seen, holds},
    pictures,
};

impl Stage {
    pub(super) async fn settings(&self, ledger: &mut Ledger) {
        let rule = Rule::must(
            "size_as_asked",
            "A picture has the size that was asked for.",
            "hand width_px and height_px to the model; 0 means its own size",
        );
        ledger.judge(rule, self.sized()).await;
        let rule = Rule::must(
            "progress",
            "With report_progress each picture tells its steps in order up to step_count; without, none.",
            "send StepProgress after each step, and only where report_progress is true",
        );
        ledger.judge(rule, self.progress()).await;
        let rule = Rule::must(
            "default_step_count",
            "A step_count of 0 means 25.",
            "read step_count 0 as 25",
        );
        ledger.judge(rule, self.default_steps()).await;
        let rule = Rule::should(
            "truncation_is_told",
            "A plain prompt that is longer than the encoder is cut, and prompt_truncated says so.",
            "compare the number of tokens with the encoder's length and set prompt_truncated",
        );
        ledger.judge(rule, self.truncated()).await;
    }

    async fn sized(&self) -> Seen {
        let model = self.list(0, String::new()).await?.into_iter().next();
        let model = model.ok_or_else(|| Miss::not_judged("no model is listed"))?;
        let width_px = model.default_width_px;
        let height_px = model.default_height_px + model.size_multiple_px;
        let mut request = asking(vec![item(20, 0, 1)]);
        request.settings = Some(SamplingSettings {
            width_px,
            height_px,
            ..settings()
        });
        let image = self.one(request).await?.image.unwrap_or_default();
        let found = pictures::decoded(&image)?;
        let seen = format!(
            "{}×{} where {width_px}×{height_px} was asked",
            found.0, found.1
        );
        holds(found == (width_px, height_px), seen.clone()).map(|()| seen)
    }

    async fn progress(&self) -> Seen {
        let mut request = asking(vec![item(21, 0, 1)]);
        let quiet = self.ask(request.clone()).await?.progress.len();
        holds(
            quiet == 0,
            format!("{quiet} messages that nobody asked for"),
        )?;
        request.report_progress = true;
        let steps = self.ask(request).await?.progress;
        let done: Vec<u32> = steps.iter().map(|(_, step)| step.done_step_count).collect();
        let seen = format!("steps {done:?} of {STEPS}");
        let in_order = done.is_sorted() && done.last() == Some(&STEPS);
        let of_all = steps
            .iter()
            .all(|(id, step)| step.step_count == STEPS && *id == item(21, 0, 1).sample_id);
        holds(in_order && of_all, seen.clone()).map(|()| seen)
    }

    async fn default_steps(&self) -> Seen {
        let mut request = asking(vec![item(22, 0, 1)]);
        request.settings = Some(SamplingSettings {
            step_count: 0,
            ..settings()
        });
        request.report_progress = true;
        let steps = self.ask(request).await?.progress;
        let counts = steps.iter().map(|(_, step)| step.step_count).max();
        let count = counts.ok_or_else(|| Miss::not_judged("it told no progress"))?;
        holds(count == 25, format!("{count} steps")).map(|()| "25 steps".to_owned())
    }

    async fn truncated(&self) -> Seen {
        let mut long = item(23, 0, 1);
        long.prompt = "a fox in the snow beside a red barn, ".repeat(20);
        let long = self.one(asking(vec![long])).await?.prompt_truncated;
        let short = self
            .one(asking(vec![item(23, 1, 1)]))
            .await?
            .prompt_truncated;
        let seen = format!("180 words: {long}; two words: {short}");
        holds(long && !short, seen.clone()).map(|()| seen)
    }
}
