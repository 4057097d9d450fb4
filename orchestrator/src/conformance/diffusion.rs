//! Rules of `diptych.diffusion.v1.DiffusionService`, from the comments in its schema.

mod company;
mod optional;
mod pictures;
mod refusals;
mod settings;

use std::{collections::BTreeMap, time::Duration};

use proto::{
    dataset::v1::{Capabilities, PromptSyntax},
    diffusion::v1::{
        DiffusionModel, GenerateImagesRequest, GenerateImagesResponse, GeneratedImage,
        GetCapabilitiesRequest, ImageItem, ListModelsRequest, SamplingSettings, StepProgress,
        diffusion_service_client::DiffusionServiceClient,
        generate_images_response::Result as Outcome,
    },
};
use runtime::Channel;
use tonic::Status;

use super::{
    Case, Subject, client, deadline, image_scoring,
    ledger::{Ledger, Miss, Rule, Seen, collect, holds, sample_id},
    manners,
};

/// Steps of a picture that need not be good.
const STEPS: u32 = 2;
/// Steps of a picture that is to take long.
const MANY_STEPS: u32 = 1000;
/// Deadline of a call for such pictures.
const DEADLINE: Duration = Duration::from_millis(500);

pub(super) async fn judge(case: &Case, channel: &Channel, ledger: &mut Ledger) {
    let stage = Stage {
        client: client!(DiffusionServiceClient, channel),
    };
    let told = manners::capabilities(ledger, Subject::Diffusion, stage.capabilities()).await;
    let told = told.unwrap_or_default();
    stage.models(ledger, &told).await;
    stage.refusals(ledger, &told).await;
    stage.pictures(ledger).await;
    stage.seeds(ledger, &told).await;
    stage.settings(ledger).await;
    stage.optional(ledger, &told).await;
    stage.company(ledger).await;
    let call = async |wire, origin, request| {
        DiffusionServiceClient::with_origin(wire, origin)
            .generate_images(request)
            .await
    };
    deadline::judge(ledger, case, DEADLINE, stage.long(40), call).await;
    image_scoring::judge_beside(channel, ledger).await;
}

struct Stage {
    client: DiffusionServiceClient<Channel>,
}

/// What a call brought, by the id of the item.
#[derive(Default)]
struct Brought {
    ends: BTreeMap<String, Vec<Outcome>>,
    progress: Vec<(String, StepProgress)>,
}

impl Stage {
    async fn capabilities(&self) -> Result<Option<Capabilities>, Status> {
        let reply = self
            .client
            .clone()
            .get_capabilities(GetCapabilitiesRequest {})
            .await?;
        Ok(reply.into_inner().capabilities)
    }

    async fn list(
        &self,
        page_size: u32,
        page_token: String,
    ) -> Result<Vec<DiffusionModel>, Status> {
        let request = ListModelsRequest {
            page_size,
            page_token,
        };
        Ok(self
            .client
            .clone()
            .list_models(request)
            .await?
            .into_inner()
            .models)
    }

    async fn ask(&self, request: GenerateImagesRequest) -> Result<Brought, Status> {
        let messages = collect(self.client.clone().generate_images(request).await).await?;
        Ok(Brought::read(messages))
    }

    /// The one picture of a request for one.
    async fn one(&self, request: GenerateImagesRequest) -> Result<GeneratedImage, Miss> {
        let id = request.items.first().map(|item| item.sample_id.clone());
        self.ask(request).await?.picture(&id.unwrap_or_default())
    }

    /// Pictures that take long, for who will not wait for them.
    fn long(&self, rule: u64) -> GenerateImagesRequest {
        let mut request = asking((0..4).map(|index| item(rule, index, 1)).collect());
        request.settings = Some(SamplingSettings {
            step_count: MANY_STEPS,
            ..settings()
        });
        request.report_progress = true;
        request
    }

    async fn models(&self, ledger: &mut Ledger, told: &Capabilities) {
        let rule = Rule::must(
            "models_listed",
            "ListModels gives the models of the capabilities, default first, with size and multiple.",
            "list the same names in the same order, with default_width_px, default_height_px and size_multiple_px",
        );
        ledger
            .judge(rule, async {
                let listed = self.list(0, String::new()).await?;
                let name = |model: &DiffusionModel| model.info.clone().unwrap_or_default().name;
                let names: Vec<String> = listed.iter().map(name).collect();
                let known: Vec<&String> = told.models.iter().map(|model| &model.name).collect();
                holds(
                    names.iter().eq(known.iter().copied()),
                    format!("{names:?}, told {known:?}"),
                )?;
                let sized = |model: &DiffusionModel| {
                    model.default_width_px > 0
                        && model.default_height_px > 0
                        && model.size_multiple_px > 0
                };
                holds(
                    !listed.is_empty() && listed.iter().all(sized),
                    "no model, or one without a size",
                )?;
                Ok(names.join(", "))
            })
            .await;
        manners::paging(ledger, "models", async |page_size, page_token| {
            let request = ListModelsRequest {
                page_size,
                page_token,
            };
            let page = self.client.clone().list_models(request).await?.into_inner();
            let name = |model: DiffusionModel| model.info.unwrap_or_default().name;
            Ok((
                page.models.into_iter().map(name).collect(),
                page.next_page_token,
            ))
        })
        .await;
    }
}

impl Brought {
    fn read(messages: Vec<GenerateImagesResponse>) -> Self {
        let mut brought = Self::default();
        for GenerateImagesResponse {
            sample_id, result, ..
        } in messages
        {
            match result {
                Some(Outcome::Progress(step)) => brought.progress.push((sample_id, step)),
                Some(end) => brought.ends.entry(sample_id).or_default().push(end),
                None => {}
            }
        }
        brought
    }

    fn ends_once(&self, items: &[ImageItem]) -> Seen {
        let strange = self
            .ends
            .keys()
            .find(|id| items.iter().all(|item| item.sample_id != **id));
        holds(
            strange.is_none(),
            format!("an end for {strange:?}, which nobody asked for"),
        )?;
        for item in items {
            let count = self.ends.get(&item.sample_id).map_or(0, Vec::len);
            holds(count == 1, format!("{count} ends for {}", item.sample_id))?;
        }
        Ok(format!("{} items, {} ends", items.len(), self.ends.len()))
    }

    fn picture(mut self, id: &str) -> Result<GeneratedImage, Miss> {
        match self.ends.remove(id).and_then(|mut ends| ends.pop()) {
            Some(Outcome::Image(picture)) => Ok(picture),
            Some(Outcome::Failure(failure)) => Err(Miss::broken(format!(
                "the item failed: {}: {}",
                failure.reason, failure.message
            ))),
            _ => Err(Miss::broken(format!("no picture for {id}"))),
        }
    }
}

fn item(rule: u64, index: usize, seed: u64) -> ImageItem {
    ImageItem {
        sample_id: sample_id(rule, index),
        prompt: "fox, snow".to_owned(),
        seed,
        ..ImageItem::default()
    }
}

fn settings() -> SamplingSettings {
    SamplingSettings {
        step_count: STEPS,
        guidance_scale: Some(3.0),
        prompt_syntax: PromptSyntax::Plain.into(),
        ..SamplingSettings::default()
    }
}

fn asking(items: Vec<ImageItem>) -> GenerateImagesRequest {
    GenerateImagesRequest {
        items,
        settings: Some(settings()),
        ..GenerateImagesRequest::default()
    }
}
