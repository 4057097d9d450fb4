//! Rules of `diptych.promptgen.v1.TextEmbeddingService`, from the comments in its schema.

use proto::promptgen::v1::{
    EmbedTextsRequest, EmbedTextsResponse,
    text_embedding_service_client::TextEmbeddingServiceClient,
};
use runtime::Channel;
use tonic::{Code, Status};

use super::{
    client,
    ledger::{Ledger, Miss, Refusal, Rule, Seen, holds, is_sha256},
};

/// How far a length may be from 1, and an embedding from itself in other company.
const TOLERANCE: f32 = 1e-3;

/// Judges an endpoint of its own.
pub(super) async fn judge(channel: &Channel, ledger: &mut Ledger) {
    Stage {
        client: client!(TextEmbeddingServiceClient, channel),
    }
    .judge(ledger)
    .await;
}

/// Judges what stands beside promptgen, where it does.
pub(super) async fn judge_beside(channel: &Channel, ledger: &mut Ledger) {
    let stage = Stage {
        client: client!(TextEmbeddingServiceClient, channel),
    };
    match stage.embed(&["fox"]).await {
        Err(status) if status.code() == Code::Unimplemented => {
            let rule = Rule::should("text_embedding", "The endpoint embeds texts too.", "");
            let why = "the endpoint offers no embedding: it may stand at another, --service text-embedding";
            ledger.note(rule, Err(Miss::not_judged(why)));
        }
        _ => stage.judge(ledger).await,
    }
}

struct Stage {
    client: TextEmbeddingServiceClient<Channel>,
}

impl Stage {
    async fn embed(&self, texts: &[&str]) -> Result<EmbedTextsResponse, Status> {
        let texts = texts.iter().map(|&text| text.to_owned()).collect();
        self.send(EmbedTextsRequest {
            texts,
            model: String::new(),
        })
        .await
    }

    async fn send(&self, request: EmbedTextsRequest) -> Result<EmbedTextsResponse, Status> {
        Ok(self.client.clone().embed_texts(request).await?.into_inner())
    }

    async fn judge(&self, ledger: &mut Ledger) {
        let rule = Rule::must(
            "embedding_per_text",
            "There is one vector of length 1 per text, in order, and the model is named.",
            "normalise each vector in the L2 norm and fill model",
        );
        ledger.judge(rule, self.vectors()).await;
        let rule = Rule::must(
            "embedding_alone_or_in_company",
            "A text has the same vector alone and among others, and other texts have others.",
            "embed text by text, or mask what pads the shorter ones",
        );
        ledger.judge(rule, self.company()).await;
        let (many, long) = (vec!["fox"; 257], "x".repeat(8_193));
        let cases = [
            (
                Refusal::invalid("no_text", "A request without texts", "texts"),
                Vec::new(),
            ),
            (
                Refusal::invalid(
                    "too_many_texts",
                    "A request with more than 256 texts",
                    "texts",
                ),
                many,
            ),
            (
                Refusal::invalid("long_text", "A text over 8,192 characters", "texts"),
                vec![long.as_str()],
            ),
        ];
        for (refusal, texts) in cases {
            ledger.refused(refusal, self.embed(&texts)).await;
        }
        let request = EmbedTextsRequest {
            texts: vec!["fox".to_owned()],
            model: "no such model".to_owned(),
        };
        let refusal = Refusal::not_found(
            "unknown_embedding_model",
            "An embedding model that is not served",
        )
        .advised();
        ledger.refused(refusal, self.send(request)).await;
    }

    async fn vectors(&self) -> Seen {
        let reply = self.embed(&["fox, snow", "a red barn", "?"]).await?;
        let count = reply.embeddings.len();
        holds(count == 3, format!("{count} vectors for 3 texts"))?;
        for vector in reply.embeddings.iter().map(|embedding| &embedding.values) {
            let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
            holds(
                (length - 1.0).abs() < TOLERANCE,
                format!("a vector of length {length}"),
            )?;
        }
        let named = !reply.model.is_empty() && is_sha256(&reply.model_sha256);
        holds(
            named,
            format!("model {:?}, hash {:?}", reply.model, reply.model_sha256),
        )?;
        Ok(format!(
            "3 of {} values by {:?}",
            reply.embeddings[0].values.len(),
            reply.model
        ))
    }

    async fn company(&self) -> Seen {
        let together = self
            .embed(&["a much longer text about a red barn", "fox", "barn"])
            .await?;
        let alone = self.embed(&["fox"]).await?;
        let vector = |reply: &EmbedTextsResponse, index: usize| {
            reply
                .embeddings
                .get(index)
                .map(|found| found.values.clone())
                .unwrap_or_default()
        };
        let distance = farthest(&vector(&together, 1), &vector(&alone, 0));
        holds(
            distance < TOLERANCE,
            format!("the same text's values differ by {distance}"),
        )?;
        let other = farthest(&vector(&together, 2), &vector(&alone, 0));
        holds(other > TOLERANCE, "another text has the same vector")?;
        Ok(format!(
            "itself within {distance:.1e}, another text {other:.2} away"
        ))
    }
}

/// The largest difference of two values in the same place.
pub(super) fn farthest(a: &[f32], b: &[f32]) -> f32 {
    match a.len() == b.len() && !a.is_empty() {
        true => a
            .iter()
            .zip(b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max),
        false => f32::INFINITY,
    }
}
