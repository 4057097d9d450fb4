//! Rules of `diptych.diffusion.v1.ImageScoringService`, from the comments in its schema.

use proto::{
    dataset::v1::Image,
    diffusion::v1::{
        ImageScore, SafetyVerdict, ScoreImagesRequest, ScoreImagesResponse, ScoreItem,
        ScoreMeasure, image_scoring_service_client::ImageScoringServiceClient,
    },
};
use runtime::Channel;
use tonic::{Code, Status};

use super::{
    client,
    ledger::{Ledger, Miss, Refusal, Rule, Seen, holds, is_sha256},
    pictures,
    text_embedding::farthest,
};

/// How far a length may be from 1, and a score from itself in other company.
const TOLERANCE: f32 = 1e-3;
/// Texts that a picture is held against.
const TEXTS: [&str; 3] = ["a red disc", "a blue disc", "a fox in the snow"];

/// Judges an endpoint of its own.
pub(super) async fn judge(channel: &Channel, ledger: &mut Ledger) {
    Stage {
        client: client!(ImageScoringServiceClient, channel),
    }
    .judge(ledger)
    .await;
}

/// Judges what stands beside diffusion, where it does.
pub(super) async fn judge_beside(channel: &Channel, ledger: &mut Ledger) {
    let stage = Stage {
        client: client!(ImageScoringServiceClient, channel),
    };
    match stage.score(Vec::new(), &[ScoreMeasure::Alignment]).await {
        Err(status) if status.code() == Code::Unimplemented => {
            let rule = Rule::should("image_scoring", "The endpoint scores images too.", "");
            let why =
                "the endpoint offers no scoring: it may stand at another, --service image-scoring";
            ledger.note(rule, Err(Miss::not_judged(why)));
        }
        _ => stage.judge(ledger).await,
    }
}

struct Stage {
    client: ImageScoringServiceClient<Channel>,
}

impl Stage {
    async fn score(
        &self,
        items: Vec<ScoreItem>,
        measures: &[ScoreMeasure],
    ) -> Result<ScoreImagesResponse, Status> {
        let measures = measures.iter().map(|&measure| measure.into()).collect();
        let request = ScoreImagesRequest {
            items,
            measures,
            model: String::new(),
        };
        Ok(self
            .client
            .clone()
            .score_images(request)
            .await?
            .into_inner())
    }

    async fn judge(&self, ledger: &mut Ledger) {
        use ScoreMeasure::{Alignment, Embedding, Unspecified};
        let rule = Rule::must(
            "score_per_image",
            "There is one score per image, in order, with what was asked for and nothing else, and the model is named.",
            "fill alignment_cosine and embedding where they were asked for, safety always, and model",
        );
        ledger.judge(rule, self.scores()).await;
        let rule = Rule::must(
            "score_alone_or_in_company",
            "A picture has the same scores alone and among others.",
            "score pictures one by one, or in batches of a fixed shape",
        );
        ledger.judge(rule, self.company()).await;
        let rule = Rule::must(
            "damaged_image_fails_alone",
            "An image that does not decode carries its failure, and the others have their scores.",
            "fill ImageScore.failure for the one and go on with the others",
        );
        ledger.judge(rule, self.damaged()).await;
        let one = || red().map(|image| vec![item(image)]).unwrap_or_default();
        let many = (0..65).flat_map(|_| one()).collect();
        let cases = [
            (
                Refusal::invalid("no_image", "A request without images", "items"),
                Vec::new(),
                vec![Alignment],
            ),
            (
                Refusal::invalid(
                    "too_many_images",
                    "A request with more than 64 images",
                    "items",
                ),
                many,
                vec![Alignment],
            ),
            (
                Refusal::invalid("no_measure", "A request that names no measure", "measures"),
                one(),
                Vec::new(),
            ),
            (
                Refusal::invalid(
                    "unspecified_measure",
                    "A measure that is not stated",
                    "measures",
                ),
                one(),
                vec![Unspecified],
            ),
        ];
        for (refusal, items, measures) in cases {
            ledger.refused(refusal, self.score(items, &measures)).await;
        }
        let refusal = Refusal::not_found(
            "unknown_scoring_model",
            "A scoring model that is not served",
        );
        let request = ScoreImagesRequest {
            items: one(),
            measures: vec![Embedding.into()],
            model: "no such model".to_owned(),
        };
        ledger
            .refused(refusal.advised(), self.client.clone().score_images(request))
            .await;
    }

    async fn scores(&self) -> Seen {
        use ScoreMeasure::{Alignment, Embedding, Safety};
        let items = || Ok::<_, Miss>(vec![item(red()?), item(blue()?)]);
        let reply = self
            .score(items()?, &[Alignment, Embedding, Safety])
            .await?;
        holds(
            reply.scores.len() == 2,
            format!("{} scores for 2 images", reply.scores.len()),
        )?;
        for score in &reply.scores {
            whole(score)?;
        }
        let named = !reply.model.is_empty() && is_sha256(&reply.model_sha256);
        holds(
            named,
            format!("model {:?}, hash {:?}", reply.model, reply.model_sha256),
        )?;
        let bare = self.score(items()?, &[Alignment]).await?;
        let unasked = bare.scores.iter().any(|score| !score.embedding.is_empty());
        holds(!unasked, "an embedding that nobody asked for")?;
        Ok(format!(
            "cosines {:?} by {:?}",
            reply.scores[0].alignment_cosine, reply.model
        ))
    }

    async fn company(&self) -> Seen {
        use ScoreMeasure::{Alignment, Embedding};
        let measures = [Alignment, Embedding];
        let together = self
            .score(vec![item(blue()?), item(red()?)], &measures)
            .await?;
        let alone = self.score(vec![item(red()?)], &measures).await?;
        let (Some(together), Some(alone)) = (together.scores.get(1), alone.scores.first()) else {
            return Err(Miss::broken("a score is missing"));
        };
        let distance = farthest(&together.embedding, &alone.embedding).max(farthest(
            &together.alignment_cosine,
            &alone.alignment_cosine,
        ));
        holds(
            distance < TOLERANCE,
            format!("the values differ by {distance}"),
        )?;
        Ok(format!("within {distance:.1e}"))
    }

    async fn damaged(&self) -> Seen {
        let items = vec![item(pictures::damaged()), item(red()?)];
        let reply = self.score(items, &[ScoreMeasure::Alignment]).await?;
        let [bad, good] = reply.scores.as_slice() else {
            return Err(Miss::broken(format!(
                "{} scores for 2 images",
                reply.scores.len()
            )));
        };
        let failure = bad
            .failure
            .clone()
            .ok_or_else(|| Miss::broken("it has a score"))?;
        let fine = good.failure.is_none() && good.alignment_cosine.len() == TEXTS.len();
        holds(fine, "the good image failed too")?;
        Ok(format!("{}: {}", failure.reason, failure.message))
    }
}

/// That a score has all that was asked for.
fn whole(score: &ImageScore) -> Result<(), Miss> {
    if let Some(failure) = &score.failure {
        return Err(Miss::broken(format!(
            "{}: {}",
            failure.reason, failure.message
        )));
    }
    let cosines = &score.alignment_cosine;
    let in_range = cosines
        .iter()
        .all(|cosine| (-1.001..=1.001).contains(cosine));
    let fits = cosines.len() == TEXTS.len() && in_range;
    holds(
        fits,
        format!("cosines {cosines:?} for {} texts", TEXTS.len()),
    )?;
    let length = score
        .embedding
        .iter()
        .map(|value| value * value)
        .sum::<f32>()
        .sqrt();
    holds(
        (length - 1.0).abs() < TOLERANCE,
        format!("an embedding of length {length}"),
    )?;
    holds(
        score.safety() != SafetyVerdict::Unspecified,
        "safety is not stated",
    )
}

fn item(image: Image) -> ScoreItem {
    let texts = TEXTS.map(str::to_owned).to_vec();
    ScoreItem {
        image: Some(image),
        texts,
    }
}

fn red() -> Result<Image, Miss> {
    pictures::drawn([200, 20, 20])
}

fn blue() -> Result<Image, Miss> {
    pictures::drawn([20, 20, 200])
}
