//! Who makes a dataset. It has one set of makers: what one model began another does not continue, since
//! nobody could say which rows are whose.

use std::{collections::BTreeMap, fmt::Display};

use anyhow::{Result, anyhow};
use dataset::identity::sha256_hex;
use prost::Message as _;
use proto::{
    dataset::v1::{Capabilities, Image, image::Content},
    diffusion::v1::{ScoreImagesRequest, ScoreImagesResponse, ScoreItem, ScoreMeasure},
    promptgen::v1::{EmbedTextsRequest, GetAbilityRequest},
};

use super::{Plan, stages};
use crate::{
    bad_input::{BadInput, complaint},
    suite::{ServiceName, Suite},
};

/// Names and versions, hashes where there are some.
pub type Makers = BTreeMap<String, String>;

/// What decides the dataset beside the recipe, as the services tell it: their back-ends and versions,
/// the hashes of their models, those that score pictures, tell their safety and embed texts where a gate
/// asks for it, and of the abilities in use.
///
/// # Errors
/// A service that does not answer.
pub async fn makers(suite: &Suite, plan: &Plan) -> Result<Makers> {
    let mut makers = Makers::new();
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
    for (name, judge) in [
        (SCORING, scoring(suite, plan).await?),
        (SAFETY, safety(suite, plan).await?),
        (EMBEDDING, embedding(suite, plan).await?),
    ] {
        let model = judge.map(|model| model.unwrap_or_else(|| NOBODY.to_owned()));
        makers.extend(model.map(|model| (name.to_owned(), model)));
    }
    for name in plan.wanted.sample_counts.keys() {
        let request = GetAbilityRequest { name: name.clone() };
        let reply = match suite.promptgen.clone().get_ability(request.clone()).await {
            Ok(reply) => reply.into_inner(),
            Err(status) if stages::is_worth_retrying(&status) => {
                let again = || {
                    let (mut client, request) = (suite.promptgen.clone(), request.clone());
                    async move { client.get_ability(request).await }
                };
                stages::unary("promptgen", again).await?
            }
            Err(status) => return Err(complaint(&status)),
        };
        let ability = reply.ability.unwrap_or_default().encode_to_vec();
        makers.insert(format!("ability {name}"), sha256_hex(ability));
    }
    Ok(makers)
}

const SCORING: &str = "scoring";
const SAFETY: &str = "safety";
const EMBEDDING: &str = "embedding";
/// In the place of a model that a gate asks for and nobody offers: what was begun unchecked is not
/// continued checked.
const NOBODY: &str = "none";

/// Refuses to go on with other makers than a dataset was begun with. Models may be served beside them
/// that nothing asks.
///
/// # Errors
/// Names the first that is another, and the ways out.
pub fn check_makers(before: &Makers, now: &Makers, place: &dyn Display) -> Result<()> {
    let same = |&(name, version): &(&String, &String)| now.get(name) == Some(version);
    let judges = [SCORING, SAFETY, EMBEDDING].into_iter();
    let mut new = judges.filter(|name| now.contains_key(*name) && !before.contains_key(*name));
    let nobody = NOBODY.to_owned();
    let first = before.iter().find(|made| !same(made));
    let first = first.map(|(name, version)| (name.as_str(), version));
    let Some((name, version)) = first.or_else(|| Some((new.next()?, &nobody))) else {
        return Ok(());
    };
    let way_out = "bring it back, or choose another --out";
    let other = match (version.as_str(), now.get(name)) {
        // A model elsewhere may have a name and no hash.
        ("", None) => anyhow!("{place} was begun with {name}, which is absent now; {way_out}"),
        (version, now) => {
            let now = now.map_or("absent", String::as_str);
            anyhow!("{place} was begun with another {name} ({version}, now {now}); {way_out}")
        }
    };
    Err(other.context(BadInput))
}

/// A model that a gate asks for, if anybody offers it; nothing where no gate asks.
type Judge = Option<Option<String>>;

/// The model that scores pictures, where a gate asks it and somebody offers it. The answers carry its
/// name, so it is asked about a small one.
async fn scoring(suite: &Suite, plan: &Plan) -> Result<Judge> {
    let rules = &plan.gates;
    let is_asked = rules.min_alignment.is_some()
        || rules.min_alignment_lead.is_some()
        || rules.max_image_cosine.is_some()
        || plan.seeds_per_prompt > 1;
    if !is_asked {
        return Ok(None);
    }
    let request = ScoreImagesRequest {
        items: vec![ScoreItem {
            image: Some(grey()?),
            texts: vec!["grey".to_owned()],
        }],
        measures: vec![ScoreMeasure::Alignment.into()],
        model: plan.measure.scoring_model.clone(),
    };
    let reply = scored(suite, request).await?;
    Ok(Some(reply.and_then(|reply| {
        named(&reply.model, &reply.model_sha256)
    })))
}

/// The model that tells whether pictures are safe, where a gate asks it and the scoring endpoint has
/// one. That endpoint may be another than the one that renders, whose models are makers already.
async fn safety(suite: &Suite, plan: &Plan) -> Result<Judge> {
    if !plan.gates.refuse_unsafe {
        return Ok(None);
    }
    let request = ScoreImagesRequest {
        items: vec![ScoreItem {
            image: Some(grey()?),
            texts: Vec::new(),
        }],
        measures: vec![ScoreMeasure::Safety.into()],
        model: String::new(),
    };
    let reply = scored(suite, request).await?;
    Ok(Some(reply.and_then(|reply| {
        named(&reply.safety_model, &reply.safety_model_sha256)
    })))
}

/// What the scoring endpoint answers; none where it does not score.
async fn scored(suite: &Suite, request: ScoreImagesRequest) -> Result<Option<ScoreImagesResponse>> {
    let reply = stages::unary("image scoring", || {
        let (mut client, request) = (suite.scoring.clone(), request.clone());
        async move { client.score_images(request).await }
    });
    match reply.await {
        Ok(reply) => Ok(Some(reply)),
        Err(error) if stages::is_unimplemented(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The model that embeds texts, likewise.
async fn embedding(suite: &Suite, plan: &Plan) -> Result<Judge> {
    if plan.gates.max_prompt_cosine.is_none() {
        return Ok(None);
    }
    let request = EmbedTextsRequest {
        texts: vec!["grey".to_owned()],
        model: plan.measure.embedding_model.clone(),
    };
    let reply = stages::unary("text embedding", || {
        let (mut client, request) = (suite.embedding.clone(), request.clone());
        async move { client.embed_texts(request).await }
    });
    match reply.await {
        Ok(reply) => Ok(Some(named(&reply.model, &reply.model_sha256))),
        Err(error) if stages::is_unimplemented(&error) => Ok(Some(None)),
        Err(error) => Err(error),
    }
}

fn named(model: &str, sha256: &str) -> Option<String> {
    let named = format!("{model} {sha256}");
    let named = named.trim();
    (!named.is_empty()).then(|| named.to_owned())
}

/// A small grey picture.
pub(super) fn grey() -> Result<Image> {
    const SIDE_PX: u32 = 64;
    let pixels = image::RgbImage::from_pixel(SIDE_PX, SIDE_PX, image::Rgb([128; 3]));
    let mut file = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut file, image::ImageFormat::Png)?;
    let file = file.into_inner();
    Ok(Image {
        sample_id: "grey".to_owned(),
        media_type: "image/png".to_owned(),
        width_px: SIDE_PX,
        height_px: SIDE_PX,
        sha256: sha256_hex(&file),
        content: Some(Content::Data(file.into())),
        ..Image::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataset_is_not_continued_by_another_model() {
        let makers = |scoring: &str| {
            let pairs = [("diffusion", "candle 1"), ("scoring", scoring)];
            Makers::from(pairs.map(|(name, version)| (name.to_owned(), version.to_owned())))
        };
        assert!(check_makers(&makers("clip a"), &makers("clip a"), &"runs/x").is_ok());
        let refused = check_makers(&makers("clip a"), &makers("clip b"), &"runs/x").unwrap_err();
        let refused = format!("{refused:#}");
        assert!(
            refused.contains("runs/x was begun with another scoring (clip a, now clip b)"),
            "{refused}"
        );
        assert!(check_makers(&makers("clip a"), &Makers::new(), &"runs/x").is_err());
        assert!(check_makers(&Makers::new(), &makers("clip a"), &"runs/x").is_err());
        assert!(check_makers(&makers(NOBODY), &makers("clip a"), &"runs/x").is_err());
        assert!(check_makers(&makers("clip a"), &makers(NOBODY), &"runs/x").is_err());
        // A model more that is served is nobody's business.
        let mut more = makers("clip a");
        more.insert("another model".to_owned(), "b".to_owned());
        assert!(check_makers(&makers("clip a"), &more, &"runs/x").is_ok());
    }
}
