//! Scoring of images and embedding of texts. They are services of their own in the schemas, hosted
//! by diffusion and promptgen unless `--endpoints` says otherwise, so that who replaces a stage
//! need not bring them.

use anyhow::{Result, anyhow};
use proto::{
    diffusion::v1::{
        ScoreImagesRequest, ScoreMeasure, image_scoring_service_client::ImageScoringServiceClient,
    },
    promptgen::v1::{EmbedTextsRequest, text_embedding_service_client::TextEmbeddingServiceClient},
};
use runtime::{Channel, Telemetry};
use tonic::{Code, Status};

use crate::{
    assets::Assets,
    bad_input::BadInput,
    cli::Global,
    embedded::Embedded,
    measuring::MeasuringModels,
    suite::{Needs, ServiceName, capabilities},
};

/// A service that another one may host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guest {
    /// Scores images.
    Scoring,
    /// Embeds texts.
    Embedding,
}

/// The way to a guest.
pub(crate) struct Stay {
    pub(crate) channel: Channel,
    /// What was started in this process for it.
    pub(crate) host: Embedded,
}

/// What a guest is looked for with.
pub(crate) struct Search<'a> {
    pub(crate) global: &'a Global,
    pub(crate) assets: &'a Assets,
    pub(crate) telemetry: &'a Telemetry,
    /// Whether the command calls the guest at all, and which models it asks for.
    pub(crate) needs: &'a Needs,
}

impl Guest {
    /// Both of them.
    pub(crate) const ALL: [Self; 2] = [Self::Scoring, Self::Embedding];

    /// The name as `--endpoints` writes it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Scoring => "scoring",
            Self::Embedding => "embedding",
        }
    }

    /// The guest of that name.
    pub(crate) fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|guest| guest.as_str() == text)
    }

    /// Who hosts it unless said otherwise.
    pub(crate) fn host(self) -> ServiceName {
        match self {
            Self::Scoring => ServiceName::Diffusion,
            Self::Embedding => ServiceName::Promptgen,
        }
    }

    /// Its endpoint in `--endpoints`, where one is given; of several the last.
    pub(crate) fn endpoint(self, given: &[String]) -> Option<&str> {
        let named = given.iter().filter_map(|entry| entry.split_once('='));
        let mut own = named.filter(|(name, _)| name.trim() == self.as_str());
        own.next_back().map(|(_, url)| url.trim())
    }

    /// The endpoint that was given for it; else its host's, where that offers it with the models that
    /// are asked for; else a service in this process. `is_foreign` says that the host is not in this
    /// process.
    ///
    /// # Errors
    /// Nobody at its endpoint, no such model there, or its service does not start.
    pub(crate) async fn find(
        self,
        search: Search<'_>,
        host: Channel,
        is_foreign: bool,
    ) -> Result<Stay> {
        let Search {
            global,
            assets,
            telemetry,
            needs,
        } = search;
        let beside = |channel| Stay {
            channel,
            host: Embedded::default(),
        };
        if !needs.measures {
            return Ok(beside(host));
        }
        let (name, client) = (self.as_str(), &global.client);
        if let Some(endpoint) = self.endpoint(&global.endpoints) {
            let channel = Channel::connect(name, endpoint, client, telemetry).await?;
            let model = self.model(&needs.measuring);
            if !model.is_empty() && !self.is_offered_by(&channel, model).await {
                let lacking = anyhow!(
                    "the recipe asks for {name} by `{model}`, which {endpoint} does not serve"
                );
                return Err(lacking.context(BadInput));
            }
            return Ok(beside(channel));
        }
        // A build that links no services has none to start.
        if !is_foreign
            || cfg!(not(feature = "embedded"))
            || self.is_offered_by_host(&host, &needs.measuring).await
        {
            return Ok(beside(host));
        }
        let models_alone = Needs {
            measuring: needs.measuring.clone(),
            ..Needs::services(&[])
        };
        let own = Embedded::start(global, assets, &models_alone, &[self.host()]).await?;
        let endpoint = own.endpoints().remove(&self.host()).unwrap_or_default();
        let channel = Channel::connect(name, &endpoint, &Default::default(), telemetry).await?;
        Ok(Stay { channel, host: own })
    }

    /// The model that a recipe asks of it; empty for any.
    fn model(self, models: &MeasuringModels) -> &str {
        match self {
            Self::Scoring => &models.scoring_model,
            Self::Embedding => &models.embedding_model,
        }
    }

    /// Whether its host offers it with the models that a recipe names. Which one tells safety is in
    /// the host's capabilities alone.
    async fn is_offered_by_host(self, host: &Channel, models: &MeasuringModels) -> bool {
        let safety = &models.safety_model;
        if self == Self::Scoring && !safety.is_empty() {
            let found = capabilities(ServiceName::Diffusion, host.clone()).await;
            let known = found
                .map(|found| found.measuring_models)
                .unwrap_or_default();
            if known.iter().all(|model| model.name != *safety) {
                return false;
            }
        }
        self.is_offered_by(host, self.model(models)).await
    }

    /// Asked about nothing, one that offers it refuses the request, and one that does not, the
    /// call, or the model.
    async fn is_offered_by(self, host: &Channel, model: &str) -> bool {
        let refused = match self {
            Self::Scoring => {
                let request = ScoreImagesRequest {
                    measures: vec![ScoreMeasure::Alignment.into()],
                    model: model.to_owned(),
                    ..ScoreImagesRequest::default()
                };
                let mut client = ImageScoringServiceClient::new(host.clone());
                client.score_images(request).await.err()
            }
            Self::Embedding => {
                let mut client = TextEmbeddingServiceClient::new(host.clone());
                let request = EmbedTextsRequest {
                    model: model.to_owned(),
                    ..EmbedTextsRequest::default()
                };
                client.embed_texts(request).await.err()
            }
        };
        let lacks = |status: Status| matches!(status.code(), Code::Unimplemented | Code::NotFound);
        !refused.is_some_and(lacks)
    }
}
