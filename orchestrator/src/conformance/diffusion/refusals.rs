//! What must be refused.

use proto::{
    dataset::v1::Capabilities,
    diffusion::v1::{GenerateImagesRequest, ImageItem, SamplingSettings},
};
use tonic::Status;

use super::{Brought, Stage, asking, item, settings};
use crate::conformance::ledger::{Ledger, Refusal};

impl Stage {
    pub(super) async fn refusals(&self, ledger: &mut Ledger, told: &Capabilities) {
        let refused = |rule, what, field| Refusal::invalid(rule, what, field);
        let most = told.max_items_per_request.min(10_000) as usize;
        let with = |change: &dyn Fn(&mut SamplingSettings)| {
            let mut request = asking(vec![item(1, 0, 1)]);
            request.settings.iter_mut().for_each(change);
            request
        };
        let with_item = |change: &dyn Fn(&mut ImageItem)| {
            let mut item = item(1, 0, 1);
            change(&mut item);
            asking(vec![item])
        };
        let twice = asking(vec![item(1, 0, 1), item(1, 0, 2)]);
        let many = asking((0..=most).map(|index| item(1, index, 1)).collect());
        let cases = [
            (
                refused("no_item", "A request without items", "items"),
                asking(Vec::new()),
            ),
            (
                refused(
                    "repeated_id",
                    "A request that names an id twice",
                    "items.sample_id",
                ),
                twice,
            ),
            (
                refused(
                    "malformed_id",
                    "An id that is not 32 lower-case hexadecimal digits",
                    "items.sample_id",
                ),
                with_item(&|item| item.sample_id = "FOX".to_owned()),
            ),
            (
                refused(
                    "strength_without_image",
                    "A strength without init_image",
                    "items.strength",
                ),
                with_item(&|item| item.strength = 0.5),
            ),
            (
                refused(
                    "too_many_steps",
                    "A step_count over 1000",
                    "settings.step_count",
                ),
                with(&|s| s.step_count = 1001),
            ),
            (
                refused(
                    "guidance_bound",
                    "A guidance_scale over 100",
                    "settings.guidance_scale",
                )
                .advised(),
                with(&|s| s.guidance_scale = Some(101.0)),
            ),
            (
                refused(
                    "unknown_scheduler",
                    "A scheduler that the schema does not know",
                    "settings.scheduler",
                ),
                with(&|s| s.scheduler = 999),
            ),
            (
                refused(
                    "unknown_syntax",
                    "A prompt syntax that the schema does not know",
                    "settings.prompt_syntax",
                )
                .advised(),
                with(&|s| s.prompt_syntax = 999),
            ),
            (
                refused(
                    "size_bound",
                    "A width over 2048 pixels",
                    "settings.width_px",
                ),
                with(&|s| s.width_px = 1 << 20),
            ),
            (
                Refusal::not_found("unknown_model", "A model that is not served"),
                GenerateImagesRequest {
                    model: "no such model".to_owned(),
                    ..asking(vec![item(1, 0, 1)])
                },
            ),
        ];
        for (refusal, request) in cases {
            ledger.refused(refusal, self.ask(request)).await;
        }
        ledger
            .bounded(Refusal::too_many_items(), most, self.ask(many))
            .await;
        let refusal = refused(
            "size_multiple",
            "A width that is no multiple of the model's",
            "settings.width_px",
        );
        ledger.refused(refusal, self.odd_width()).await;
    }

    async fn odd_width(&self) -> Result<Brought, Status> {
        let model = self
            .list(0, String::new())
            .await?
            .into_iter()
            .next()
            .unwrap_or_default();
        // A model of any width refuses nothing here; then an impossible one stands for it.
        let width_px = match model.size_multiple_px {
            0 | 1 => u32::MAX,
            _ => model.default_width_px + 1,
        };
        let mut request = asking(vec![item(2, 0, 1)]);
        request.settings = Some(SamplingSettings {
            width_px,
            ..settings()
        });
        self.ask(request).await
    }
}
