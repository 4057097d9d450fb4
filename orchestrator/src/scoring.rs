//! Where images are scored: it is a service of its own in the schemas, and who replaces diffusion need
//! not bring it.

use anyhow::Result;
use proto::diffusion::v1::{
    ScoreImagesRequest, ScoreMeasure, image_scoring_service_client::ImageScoringServiceClient,
};
use runtime::{Channel, Telemetry};
use tonic::Code;

use crate::{
    assets::Assets,
    cli::Global,
    embedded::Embedded,
    suite::{Needs, ServiceName},
};

/// Name of the image scoring in `--endpoints`.
pub(crate) const SCORING: &str = "scoring";

/// Where images are scored.
pub(crate) struct Scoring {
    /// The way there.
    pub(crate) channel: Channel,
    /// What was started in this process for it.
    pub(crate) host: Embedded,
}

impl Scoring {
    /// At the other end of a channel, whatever is there.
    pub(crate) fn beside(channel: Channel) -> Self {
        Self {
            channel,
            host: Embedded::default(),
        }
    }

    /// The endpoint that was given for it; else diffusion's, where that offers it; else a service
    /// in this process.
    ///
    /// # Errors
    /// Nobody at the given endpoint, or a service that cannot start.
    pub(crate) async fn open(
        global: &Global,
        assets: &Assets,
        telemetry: &Telemetry,
        diffusion: Channel,
        is_foreign: bool,
    ) -> Result<Self> {
        if let Some(endpoint) = scoring_endpoint(&global.endpoints) {
            let channel = Channel::connect(SCORING, endpoint, &global.client, telemetry).await?;
            return Ok(Self::beside(channel));
        }
        if !is_foreign || cfg!(not(feature = "embedded")) || scores_images(&diffusion).await {
            return Ok(Self::beside(diffusion));
        }
        let needs = Needs::services(&[]);
        let host = Embedded::start(global, assets, &needs, &[ServiceName::Diffusion]).await?;
        let endpoint = host
            .endpoints()
            .remove(&ServiceName::Diffusion)
            .unwrap_or_default();
        let channel = Channel::connect(SCORING, &endpoint, &Default::default(), telemetry).await?;
        Ok(Self { channel, host })
    }
}

/// Whether an endpoint scores images: asked to score none, one that does refuses the request, and
/// one that does not, the call.
async fn scores_images(diffusion: &Channel) -> bool {
    let mut client = ImageScoringServiceClient::new(diffusion.clone());
    let request = ScoreImagesRequest {
        measures: vec![ScoreMeasure::Alignment.into()],
        ..ScoreImagesRequest::default()
    };
    let refused = client.score_images(request).await.err();
    refused.is_none_or(|status| status.code() != Code::Unimplemented)
}

/// The endpoint of image scoring in `--endpoints`, where one is given.
fn scoring_endpoint(given: &[String]) -> Option<&str> {
    let named = given.iter().filter_map(|entry| entry.split_once('='));
    let mut scoring = named.filter(|(name, _)| name.trim() == SCORING);
    scoring.next_back().map(|(_, url)| url.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_endpoint_named_scoring_is_its_own() {
        let given = [
            "eval=http://h:1",
            "scoring=http://h:2",
            "scoring= http://h:3",
        ];
        let given = given.map(str::to_owned);
        assert_eq!(scoring_endpoint(&given), Some("http://h:3"));
        assert_eq!(scoring_endpoint(&given[..1]), None);
    }
}
