//! The services as the client sees them: a channel to each, at a given endpoint or started in
//! this process. Everything outside this file and `embedded.rs` speaks to services alike.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use proto::{
    dataset::v1::Capabilities,
    dialogue::v1::dialogue_service_client::DialogueServiceClient,
    diffusion::v1::{
        diffusion_service_client::DiffusionServiceClient,
        image_scoring_service_client::ImageScoringServiceClient,
    },
    eval::v1::eval_service_client::EvalServiceClient,
    promptgen::v1::{
        promptgen_service_client::PromptgenServiceClient,
        text_embedding_service_client::TextEmbeddingServiceClient,
    },
    trainer::v1::trainer_service_client::TrainerServiceClient,
};
use runtime::{Channel, StartError, Telemetry, error::retry_after};
use tonic::{Code, Status};

use crate::{
    assets::Assets,
    bad_input::{BadInput, complaint},
    beside::{Guest, Search, Stay},
    cli::Global,
    embedded::Embedded,
    recipe::{MeasuringModels, Recipe},
};

/// The five services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServiceName {
    /// Writes image prompts.
    Promptgen,
    /// Renders and scores images.
    Diffusion,
    /// Writes conversations.
    Dialogue,
    /// Trains models.
    Trainer,
    /// Evaluates models.
    Eval,
}

impl ServiceName {
    /// All of them, in the order of a sample's way.
    pub const ALL: [Self; 5] = [
        Self::Promptgen,
        Self::Diffusion,
        Self::Dialogue,
        Self::Trainer,
        Self::Eval,
    ];

    /// The name as the command line writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promptgen => "promptgen",
            Self::Diffusion => "diffusion",
            Self::Dialogue => "dialogue",
            Self::Trainer => "trainer",
            Self::Eval => "eval",
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for ServiceName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|name| name.as_str() == text);
        found.with_context(|| {
            let services = Self::ALL.iter().map(|name| name.as_str());
            let known: Vec<&str> = services.chain(Guest::ALL.map(Guest::as_str)).collect();
            format!(
                "no service is called `{text}`; there are {}",
                known.join(", ")
            )
        })
    }
}

/// Folder, in that of a run or a dataset, of what language models answered.
pub const JOURNALS: &str = "journals";

/// What a command needs of the suite.
#[derive(Debug, Clone)]
pub struct Needs {
    /// Services it calls.
    pub services: Vec<ServiceName>,
    /// Folders that services in this process may read and write.
    pub artefact_roots: Vec<PathBuf>,
    /// Image model to serve in this process, by name or folder; empty for the default.
    pub image_model: String,
    /// Whether it scores images and embeds texts, beside what `services` names.
    pub measures: bool,
    /// Models that measure, as a recipe names them.
    pub measuring: MeasuringModels,
    /// Back-ends that a recipe asks for.
    pub backends: BTreeMap<ServiceName, String>,
    /// Folder of the journals of language models that are asked in this process.
    pub journals: Option<PathBuf>,
}

impl Needs {
    /// Needs of a command that only calls `services` and passes no files.
    pub fn services(services: &[ServiceName]) -> Self {
        Self {
            services: services.to_vec(),
            artefact_roots: Vec::new(),
            image_model: String::new(),
            measures: false,
            measuring: MeasuringModels::default(),
            backends: BTreeMap::new(),
            journals: None,
        }
    }

    /// Needs of a synthesis; language models in this process keep their answers in `journals`.
    pub fn synthesis(recipe: &Recipe, journals: Option<PathBuf>) -> Self {
        let synth = &recipe.synth;
        let backends = [
            (ServiceName::Promptgen, &synth.prompts.backend),
            (ServiceName::Dialogue, &synth.dialogue.backend),
        ];
        let asked = backends.into_iter().filter(|(_, name)| !name.is_empty());
        Self {
            image_model: synth.image.model.clone(),
            measures: true,
            measuring: synth.measure.clone(),
            backends: asked
                .map(|(service, name)| (service, name.clone()))
                .collect(),
            journals,
            ..Self::services(&[
                ServiceName::Promptgen,
                ServiceName::Diffusion,
                ServiceName::Dialogue,
            ])
        }
    }
}

/// Clients of all services. A client of a service that the command did not ask for connects to
/// nothing; it fails on first use.
pub struct Suite {
    /// Image prompts.
    pub promptgen: PromptgenServiceClient<Channel>,
    /// Vectors of texts.
    pub embedding: TextEmbeddingServiceClient<Channel>,
    /// Images.
    pub diffusion: DiffusionServiceClient<Channel>,
    /// Scores of images.
    pub scoring: ImageScoringServiceClient<Channel>,
    /// Conversations.
    pub dialogue: DialogueServiceClient<Channel>,
    /// Training.
    pub trainer: TrainerServiceClient<Channel>,
    /// Evaluation.
    pub eval: EvalServiceClient<Channel>,
    channels: BTreeMap<ServiceName, Channel>,
    embedded: Embedded,
    /// What hosts scoring and embedding in this process, where no endpoint does.
    hosts: [Embedded; 2],
}

/// Messages up to this size are read and sent; an image is under 4 MiB, a request holds several.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// A place where nobody listens, for services that a command did not ask for.
const NOWHERE: &str = "http://127.0.0.1:9";

impl Suite {
    /// Connects to the given endpoints and starts in this process what has none.
    ///
    /// # Errors
    /// An endpoint that is not `name=URL`, nobody there, or a service that cannot start.
    pub async fn open(
        global: &Global,
        assets: &Assets,
        telemetry: &Telemetry,
        needs: &Needs,
    ) -> Result<Self> {
        let mut endpoints =
            parse_endpoints(&global.endpoints).map_err(|error| error.context(BadInput))?;
        let remote: Vec<ServiceName> = endpoints.keys().copied().collect();
        let local: Vec<ServiceName> = needs
            .services
            .iter()
            .copied()
            .filter(|name| !endpoints.contains_key(name))
            .collect();
        let embedded = Embedded::start(global, assets, needs, &local).await?;
        endpoints.extend(embedded.endpoints());
        let mut channels = BTreeMap::new();
        for name in ServiceName::ALL {
            let endpoint = endpoints.get(&name).map_or(NOWHERE, String::as_str);
            let wanted = needs.services.contains(&name);
            let options = if remote.contains(&name) {
                global.client.clone()
            } else {
                Default::default()
            };
            let channel = if wanted {
                Channel::connect(name.as_str(), endpoint, &options, telemetry).await
            } else {
                Channel::lazy(name.as_str(), endpoint, &options, telemetry)
            };
            let channel = channel.map_err(|error| match error {
                StartError::Endpoint { .. } => anyhow::Error::from(error).context(BadInput),
                _ => error.into(),
            })?;
            if wanted && remote.contains(&name) {
                let found = capabilities(name, channel.clone()).await?;
                check_backend(name, &found, needs)?;
            }
            channels.insert(name, channel);
        }
        let find = async |guest: Guest| {
            let search = Search {
                global,
                assets,
                telemetry,
                needs,
            };
            let host = guest.host();
            let stay = guest.find(search, channels[&host].clone(), remote.contains(&host));
            stay.await
        };
        let guests = [find(Guest::Scoring).await?, find(Guest::Embedding).await?];
        Ok(Self::over(channels, embedded, guests))
    }

    /// What a service says it can do.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn capabilities(&self, name: ServiceName) -> Result<Capabilities> {
        capabilities(name, self.channels[&name].clone()).await
    }

    fn over(
        channels: BTreeMap<ServiceName, Channel>,
        embedded: Embedded,
        [scoring, embedding]: [Stay; 2],
    ) -> Self {
        macro_rules! client {
            ($client:ident, $name:ident) => {
                client!($client, over channels[&ServiceName::$name].clone())
            };
            ($client:ident, over $channel:expr) => {
                $client::new($channel)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES)
            };
        }
        Self {
            promptgen: client!(PromptgenServiceClient, Promptgen),
            embedding: client!(TextEmbeddingServiceClient, over embedding.channel),
            diffusion: client!(DiffusionServiceClient, Diffusion),
            scoring: client!(ImageScoringServiceClient, over scoring.channel),
            dialogue: client!(DialogueServiceClient, Dialogue),
            trainer: client!(TrainerServiceClient, Trainer),
            eval: client!(EvalServiceClient, Eval),
            channels,
            embedded,
            hosts: [scoring.host, embedding.host],
        }
    }

    /// Whether a service runs in this process, so that it sees this machine's files.
    pub fn is_embedded(&self, name: ServiceName) -> bool {
        self.embedded.endpoints().contains_key(&name)
    }

    /// Stops what was started in this process and waits for it to drain.
    ///
    /// # Errors
    /// A service that ended with an error.
    pub async fn close(self) -> Result<()> {
        let mut closed = self.embedded.close().await;
        for host in self.hosts {
            closed = closed.and(host.close().await);
        }
        closed
    }
}

/// What the service at the other end says it can do.
///
/// # Errors
/// It does not answer, or is another service than `name`, in one sentence.
pub(crate) async fn capabilities(name: ServiceName, channel: Channel) -> Result<Capabilities> {
    let endpoint = channel.endpoint().to_owned();
    macro_rules! ask {
        ($package:ident, $client:ident) => {{
            let call = async || {
                let request = proto::$package::v1::GetCapabilitiesRequest {};
                let reply = $client::new(channel.clone())
                    .get_capabilities(request)
                    .await;
                reply.map(|reply| reply.into_inner().capabilities)
            };
            once_loaded(call).await
        }};
    }
    let reply = match name {
        ServiceName::Promptgen => ask!(promptgen, PromptgenServiceClient),
        ServiceName::Diffusion => ask!(diffusion, DiffusionServiceClient),
        ServiceName::Dialogue => ask!(dialogue, DialogueServiceClient),
        ServiceName::Trainer => ask!(trainer, TrainerServiceClient),
        ServiceName::Eval => ask!(eval, EvalServiceClient),
    };
    match reply {
        Ok(capabilities) => Ok(capabilities.unwrap_or_default()),
        Err(status) if status.code() == Code::Unimplemented => {
            let other = anyhow!(
                "{endpoint} is no {name} service: it does not speak diptych.{name}.v1; correct --endpoints"
            );
            Err(other.context(BadInput))
        }
        Err(status) => Err(complaint(&status)),
    }
}

/// Refuses an endpoint that writes by another back-end than the recipe asks for.
fn check_backend(name: ServiceName, found: &Capabilities, needs: &Needs) -> Result<()> {
    match needs.backends.get(&name) {
        Some(asked) if *asked != found.backend => {
            let other = anyhow!(
                "the recipe asks for {name} by `{asked}`, the endpoint has `{}`: start it with --backend {asked}, or change the recipe",
                found.backend
            );
            Err(other.context(BadInput))
        }
        _ => Ok(()),
    }
}

/// How long a service may load its models before it is given up on.
const LOADING_TIMEOUT: Duration = Duration::from_secs(120);

/// Calls until the service has loaded its models, as it says itself.
async fn once_loaded<T>(call: impl AsyncFn() -> Result<T, Status>) -> Result<T, Status> {
    let begun = Instant::now();
    loop {
        let status = match call().await {
            Err(status) if status.code() == Code::Unavailable => status,
            done => return done,
        };
        let pause = retry_after(&status).filter(|_| begun.elapsed() < LOADING_TIMEOUT);
        match pause {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Err(status),
        }
    }
}

/// Reads `--endpoints`, but for those of guests, which [`Guest::endpoint`] finds.
pub(crate) fn parse_endpoints(given: &[String]) -> Result<BTreeMap<ServiceName, String>> {
    let mut endpoints = BTreeMap::new();
    for entry in given.iter().filter(|entry| !entry.is_empty()) {
        let Some((name, url)) = entry.split_once('=') else {
            bail!(
                "--endpoints wants name=URL, such as diffusion=http://127.0.0.1:50052, not `{entry}`"
            );
        };
        if Guest::named(name.trim()).is_none() {
            endpoints.insert(name.trim().parse()?, url.trim().to_owned());
        }
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_by_name_and_a_wrong_name_lists_the_right_ones() {
        let good = parse_endpoints(&[
            "diffusion=http://h:1".to_owned(),
            "eval=http://h:2".to_owned(),
        ])
        .unwrap();
        assert_eq!(good[&ServiceName::Diffusion], "http://h:1");
        let apart = ["scoring=http://h:3".to_owned()];
        assert_eq!(Guest::Scoring.endpoint(&apart), Some("http://h:3"));
        assert!(parse_endpoints(&apart).unwrap().is_empty());
        let error = parse_endpoints(&["difusion=http://h:1".to_owned()])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("difusion") && error.contains("promptgen, diffusion"),
            "{error}"
        );
        assert!(parse_endpoints(&["http://h:1".to_owned()]).is_err());
    }
}
