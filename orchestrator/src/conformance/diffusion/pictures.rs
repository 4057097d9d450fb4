//! What is true of every picture, and how its seed decides it.

use std::cell::Cell;

use proto::{
    dataset::v1::{Capabilities, Image},
    diffusion::v1::{GenerateImagesRequest, GeneratedImage, ImageItem, SafetyVerdict},
};

use super::{Stage, asking, item};
use crate::conformance::{
    ledger::{Ledger, Miss, Rule, Seen, Words, holds, is_sha256},
    pictures,
};

/// The most that an inline picture may have, in bytes.
const MAX_IMAGE_BYTES: usize = 4 << 20;

impl Stage {
    pub(super) async fn pictures(&self, ledger: &mut Ledger) {
        let rule = Rule::must(
            "one_end_per_item",
            "Each item ends once, with a picture or a failure, under its own id.",
            "send exactly one image or failure per item, with the item's sample_id",
        );
        let items = vec![item(10, 0, 1), item(10, 1, 2), item(10, 2, 3)];
        let got = self.ask(asking(items.clone())).await.map_err(Miss::from);
        let ended = got
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|got| got.ends_once(&items));
        ledger.note(rule, ended);
        let picture = got.and_then(|got| got.picture(&items[0].sample_id));
        for (rule, look) in TRUTHS {
            let seen = picture.as_ref().map_err(Clone::clone).and_then(|picture| {
                let image = picture
                    .image
                    .as_ref()
                    .ok_or_else(|| Miss::broken("the reply holds no image"))?;
                look(picture, image, &items[0])
            });
            ledger.note(rule.into(), seen);
        }
    }

    pub(super) async fn seeds(&self, ledger: &mut Ledger, told: &Capabilities) {
        let is_seeded = Cell::new(true);
        let first = self.one(asking(vec![item(10, 0, 1)])).await;
        let bytes = |picture: &GeneratedImage| {
            let image = picture.image.clone().unwrap_or_default();
            is_seeded.set(image.provenance.as_ref().is_some_and(|made| made.seeded));
            pictures::inline(&image).map(<[u8]>::to_vec)
        };
        let first = first.and_then(|picture| bytes(&picture));
        let unseeded = || Miss::not_judged("its provenance says that it is not seeded");
        let again = async |request: GenerateImagesRequest, is_same: bool| {
            let (first, id) = (first.clone()?, item(10, 0, 1).sample_id);
            let other = bytes(&self.ask(request).await?.picture(&id)?)?;
            if is_same && !is_seeded.get() {
                return Err(unseeded());
            }
            let seen = match first == other {
                true => format!("the same {} bytes", first.len()),
                false => format!(
                    "sha256 {}… and {}…",
                    &pictures::sha256(&first)[..8],
                    &pictures::sha256(&other)[..8]
                ),
            };
            holds((first == other) == is_same, seen.clone()).map(|()| seen)
        };
        let rule = Rule::must(
            "same_seed_same_picture",
            "Where provenance says seeded, the same item gives the same bytes.",
            "draw all noise from a generator of the item's own seed, or say seeded = false",
        );
        ledger
            .judge(rule, again(asking(vec![item(10, 0, 1)]), true))
            .await;
        let rule = Rule::must(
            "other_seed_other_picture",
            "Another seed gives another picture.",
            "seed the initial noise with ImageItem.seed",
        );
        ledger
            .judge(rule, again(asking(vec![item(10, 0, 77)]), false))
            .await;
        let rule = Rule::must(
            "alone_or_in_company",
            "Where provenance says seeded, an item gives the same bytes alone and among others, in any place.",
            "render items one by one, or with one generator and one product of matrices per item",
        );
        let company = asking(vec![item(10, 5, 9), item(10, 6, 8), item(10, 0, 1)]);
        ledger.judge(rule, again(company, true)).await;
        let rule = Rule::must(
            "negative_prompt",
            "Where the capabilities name negative_prompts, a negative prompt changes the picture.",
            "give negative_prompt to the unconditional half of guidance",
        );
        let offered = told
            .features
            .iter()
            .any(|feature| feature == "negative_prompts");
        let mut negative = item(10, 0, 1);
        negative.negative_prompt = "fox, snow".to_owned();
        let look = async {
            if !offered {
                return Err(Miss::not_judged(
                    "the capabilities do not name negative_prompts",
                ));
            }
            again(asking(vec![negative]), false).await
        };
        ledger.judge(rule, look).await;
    }
}

type Look = fn(&GeneratedImage, &Image, &ImageItem) -> Seen;

/// What is true of every picture.
const TRUTHS: [(Words, Look); 6] = [
    (
        Words::must(
            "picture_decodes",
            "A picture is inline under 4 MiB, decodes as its media type, and has the size that the message states.",
            "state image/png or image/jpeg, width_px and height_px as they are",
        ),
        |_, image, _| {
            let bytes = pictures::inline(image)?.len();
            holds(bytes < MAX_IMAGE_BYTES, format!("{bytes} bytes"))?;
            let (width, height) = pictures::decoded(image)?;
            let stated = (image.width_px, image.height_px);
            holds(
                (width, height) == stated,
                format!("{width}×{height}, stated {stated:?}"),
            )?;
            Ok(format!(
                "{} of {width}×{height} pixels, {bytes} bytes",
                image.media_type
            ))
        },
    ),
    (
        Words::must(
            "picture_hash",
            "Image.sha256 is the hash of the encoded file.",
            "hash the bytes that you send",
        ),
        |_, image, _| pictures::hash_is_true(image).map(|()| image.sha256[..16].to_owned() + "…"),
    ),
    (
        Words::must(
            "picture_id",
            "The picture names the sample that it belongs to, and says that a model made it.",
            "set Image.sample_id to the item's, and ai_generated to true",
        ),
        |_, image, item| {
            let seen = format!("{}, ai_generated {}", image.sample_id, image.ai_generated);
            let is_so = image.sample_id == item.sample_id && image.ai_generated;
            holds(is_so, seen.clone()).map(|()| seen)
        },
    ),
    (
        Words::must(
            "provenance",
            "Provenance says who made the picture, with which model and seed.",
            "fill producer, model and seed, and seeded where the seed decides all",
        ),
        |_, image, item| {
            let made = image.provenance.clone().unwrap_or_default();
            let seen = format!(
                "{:?}, {:?}, seed {}, seeded {}",
                made.producer, made.model, made.seed, made.seeded
            );
            let right =
                !made.producer.is_empty() && !made.model.is_empty() && made.seed == item.seed;
            holds(right, seen.clone()).map(|()| seen)
        },
    ),
    (
        Words::should(
            "provenance_in_full",
            "Provenance has the code's version, the model's hash and the settings.",
            "fill code_version, model_sha256 and parameters (steps, guidance, scheduler)",
        ),
        |_, image, _| {
            let made = image.provenance.clone().unwrap_or_default();
            let seen = format!(
                "version {:?}, hash {:?}, {} parameters",
                made.code_version,
                made.model_sha256,
                made.parameters.len()
            );
            let full = !made.code_version.is_empty()
                && is_sha256(&made.model_sha256)
                && !made.parameters.is_empty();
            holds(full, seen.clone()).map(|()| seen)
        },
    ),
    (
        Words::must(
            "safety_is_told",
            "Each picture says what a safety checker found, or that nothing was checked.",
            "set safety to NOT_CHECKED where there is no checker",
        ),
        |picture, _, _| {
            let said = picture.safety();
            holds(said != SafetyVerdict::Unspecified, said.as_str_name())?;
            Ok(said.as_str_name().to_owned())
        },
    ),
];
