//! What an endpoint need not offer: it keeps what its capabilities name, and refuses the rest.

use proto::{
    dataset::v1::{Capabilities, Image},
    diffusion::v1::{GenerateImagesRequest, ImageItem, SamplingSettings},
};

use super::{Stage, asking, item, settings};
use crate::conformance::{
    ledger::{Ledger, Miss, Refusal, Rule, Seen, holds},
    pictures,
};

/// Pictures of one item.
const COUNT: u32 = 3;

impl Stage {
    pub(super) async fn optional(&self, ledger: &mut Ledger, told: &Capabilities) {
        let offers = |feature: &str| told.features.iter().any(|known| known == feature);
        let rule = Rule::must(
            "image_to_image",
            "Where the capabilities name image_to_image, a picture of init_image's size comes, and another for another strength.",
            "encode init_image, give it the noise of the step at strength, and go on from there",
        );
        self.judge_or_refuse(
            ledger,
            offers("image_to_image").then_some(rule),
            self.going_on(),
            Refusal::invalid(
                "image_to_image_is_refused",
                "An init_image where the capabilities do not name image_to_image",
                "items.init_image",
            ),
            self.with_picture(0, 0.5).await,
        )
        .await;
        let rule = Rule::must(
            "image_count",
            "Where the capabilities name image_count, picture k of an item is that of an item with the seed plus k.",
            "render image_count pictures with the seeds seed + k, and set image_index and seed",
        );
        let several = ImageItem {
            image_count: COUNT,
            ..item(51, 0, 5)
        };
        self.judge_or_refuse(
            ledger,
            offers("image_count").then_some(rule),
            self.several(several.clone()),
            Refusal::invalid(
                "image_count_is_refused",
                "An image_count over 1 where the capabilities do not name image_count",
                "items.image_count",
            )
            .advised(),
            Ok(asking(vec![several])),
        )
        .await;
        let mut skipping = asking(vec![item(52, 0, 1)]);
        skipping.settings = Some(SamplingSettings {
            clip_skip: 1,
            ..settings()
        });
        let rule = Rule::must(
            "clip_skip",
            "Where the capabilities name clip_skip, it changes the picture.",
            "take the prompt's states before the last clip_skip layers",
        );
        self.judge_or_refuse(
            ledger,
            offers("clip_skip").then_some(rule),
            self.skipping(skipping.clone()),
            Refusal::invalid(
                "clip_skip_is_refused",
                "A clip_skip where the capabilities do not name clip_skip",
                "settings.clip_skip",
            )
            .advised(),
            Ok(skipping),
        )
        .await;
    }

    /// Looks at what is offered, or that it is refused where it is not.
    async fn judge_or_refuse(
        &self,
        ledger: &mut Ledger,
        offered: Option<Rule>,
        look: impl Future<Output = Seen>,
        refusal: Refusal,
        request: Result<GenerateImagesRequest, Miss>,
    ) {
        match (offered, request) {
            (Some(rule), _) => ledger.judge(rule, look).await,
            (None, Ok(request)) => ledger.refused(refusal, self.ask(request)).await,
            (None, Err(_)) => {}
        }
    }

    /// A request that goes on from a drawing of the model's own size.
    async fn with_picture(
        &self,
        index: usize,
        strength: f32,
    ) -> Result<GenerateImagesRequest, Miss> {
        let model = self.list(0, String::new()).await?.into_iter().next();
        let model = model.ok_or_else(|| Miss::not_judged("no model is listed"))?;
        let init: Image = pictures::drawn_sized(
            [200, 60, 40],
            model.default_width_px,
            model.default_height_px,
        )?;
        let item = ImageItem {
            // Inpainting checkpoints want a mask: all of it is repainted.
            mask_image: match model.only_inpaints {
                true => Some(pictures::white(
                    model.default_width_px,
                    model.default_height_px,
                )?),
                false => None,
            },
            init_image: Some(init),
            strength,
            ..item(50, index, 1)
        };
        let mut request = asking(vec![item]);
        request.settings = Some(SamplingSettings {
            step_count: 4,
            ..settings()
        });
        Ok(request)
    }

    async fn going_on(&self) -> Seen {
        let mut found = Vec::new();
        for (index, strength) in [(0, 0.5), (1, 1.0)] {
            let request = self.with_picture(index, strength).await?;
            let sent = request
                .items
                .first()
                .and_then(|item| item.init_image.clone());
            let image = self.one(request).await?.image.unwrap_or_default();
            let size = pictures::decoded(&image)?;
            let sent = sent.unwrap_or_default();
            let seen = format!("{}×{}", size.0, size.1);
            holds(size == (sent.width_px, sent.height_px), seen)?;
            found.push(pictures::inline(&image)?.to_vec());
        }
        holds(found[0] != found[1], "strength changes nothing")?;
        Ok("pictures at strength 0.5 and 1".to_owned())
    }

    async fn several(&self, wanted: ImageItem) -> Seen {
        let (id, seed) = (wanted.sample_id.clone(), wanted.seed);
        let mut brought = self.ask(asking(vec![wanted])).await?;
        let ends = brought.ends.remove(&id).unwrap_or_default();
        let count = ends.len();
        holds(count == COUNT as usize, format!("{count} ends of {COUNT}"))?;
        let mut of_last = None;
        for end in ends {
            if let super::Outcome::Image(picture) = end
                && picture.seed == seed + u64::from(COUNT) - 1
            {
                of_last = picture.image;
            }
        }
        let last = of_last.ok_or_else(|| Miss::broken("no picture states the last seed"))?;
        let alone = self.one(asking(vec![item(51, 1, seed + u64::from(COUNT) - 1)]));
        let alone = alone.await?.image.unwrap_or_default();
        let is_same = pictures::inline(&last)? == pictures::inline(&alone)?;
        let is_seeded = |image: &Image| image.provenance.as_ref().is_some_and(|made| made.seeded);
        holds(
            is_same || !is_seeded(&alone),
            "the last picture is another one than alone",
        )?;
        Ok(format!("{COUNT} pictures, the last as alone"))
    }

    async fn skipping(&self, request: GenerateImagesRequest) -> Seen {
        let skipped = self.one(request).await?.image.unwrap_or_default();
        let usual = self.one(asking(vec![item(52, 1, 1)])).await?;
        let usual = usual.image.unwrap_or_default();
        let is_same = pictures::inline(&skipped)? == pictures::inline(&usual)?;
        holds(!is_same, "the same picture").map(|()| "another picture".to_owned())
    }
}
