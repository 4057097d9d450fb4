//! Rules of `diptych.promptgen.v1.PromptgenService`, from the comments in its schema.

mod order;
mod prompts;
mod several;

use std::{collections::BTreeSet, time::Duration};

use proto::{
    dataset::v1::{Ability, Capabilities, Prompt},
    promptgen::v1::{
        GeneratePromptsRequest, GetAbilityRequest, GetCapabilitiesRequest, ListAbilitiesRequest,
        PromptItem, generate_prompts_response::Result as Outcome,
        promptgen_service_client::PromptgenServiceClient,
    },
};
use runtime::Channel;
use tonic::Status;

use super::{
    Case, Subject, client, deadline,
    ledger::{Ledger, Miss, Refusal, Rule, collect, holds, sample_id},
    manners, text_embedding,
};

/// Prompts that are asked for together.
const ITEMS: usize = 8;
/// Slots of the run that they belong to.
const SLOT_COUNT: u64 = 64;
/// Deadline of a call for as many prompts as one may hold.
const DEADLINE: Duration = Duration::from_millis(5);

pub(super) async fn judge(case: &Case, channel: &Channel, ledger: &mut Ledger) {
    let client = client!(PromptgenServiceClient, channel);
    let mut stage = Stage {
        client,
        ability: String::new(),
    };
    let told = manners::capabilities(ledger, Subject::Promptgen, stage.capabilities()).await;
    let told = told.unwrap_or_default();
    stage.ability = told.abilities.first().cloned().unwrap_or_default();
    stage.abilities(ledger, &told).await;
    stage.refusals(ledger, &told).await;
    stage.prompts(ledger).await;
    stage.seeds(ledger).await;
    stage.order(ledger).await;
    stage.several(ledger).await;
    let most = (told.max_items_per_request as usize).clamp(1, 10_000);
    let request = GeneratePromptsRequest {
        slot_count: most as u64,
        ..stage.asking(90, 0..most)
    };
    let call = async |wire, origin, request| {
        PromptgenServiceClient::with_origin(wire, origin)
            .generate_prompts(request)
            .await
    };
    deadline::judge(ledger, case, DEADLINE, request, call).await;
    text_embedding::judge_beside(channel, ledger).await;
}

struct Stage {
    client: PromptgenServiceClient<Channel>,
    ability: String,
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

    async fn page(
        &self,
        page_size: u32,
        page_token: String,
    ) -> Result<(Vec<Ability>, String), Status> {
        let request = ListAbilitiesRequest {
            page_size,
            page_token,
        };
        let page = self
            .client
            .clone()
            .list_abilities(request)
            .await?
            .into_inner();
        Ok((page.abilities, page.next_page_token))
    }

    async fn describe(&self, name: &str) -> Result<Ability, Status> {
        let request = GetAbilityRequest {
            name: name.to_owned(),
        };
        let reply = self.client.clone().get_ability(request).await?.into_inner();
        Ok(reply.ability.unwrap_or_default())
    }

    /// The results in the order in which they came.
    async fn ask(
        &self,
        request: GeneratePromptsRequest,
    ) -> Result<Vec<(String, Option<Outcome>)>, Status> {
        let messages = collect(self.client.clone().generate_prompts(request).await).await?;
        Ok(messages
            .into_iter()
            .map(|message| (message.sample_id, message.result))
            .collect())
    }

    /// The prompts of a request in which no item may fail.
    async fn written(&self, request: GeneratePromptsRequest) -> Result<Vec<Prompt>, Miss> {
        let results = self.ask(request).await?.into_iter();
        let prompt = |(id, result)| match result {
            Some(Outcome::Prompt(prompt)) => Ok(prompt),
            Some(Outcome::Failure(failure)) => Err(Miss::broken(format!(
                "{id} failed: {}: {}",
                failure.reason, failure.message
            ))),
            None => Err(Miss::broken(format!("{id} has no result"))),
        };
        results.map(prompt).collect()
    }

    fn asking(&self, rule: u64, slots: std::ops::Range<usize>) -> GeneratePromptsRequest {
        let item = |slot: usize| PromptItem {
            sample_id: sample_id(rule, slot),
            slot: slot as u64,
            ..PromptItem::default()
        };
        GeneratePromptsRequest {
            ability: self.ability.clone(),
            items: slots.map(item).collect(),
            seed: 7,
            slot_count: SLOT_COUNT,
            ..GeneratePromptsRequest::default()
        }
    }

    async fn abilities(&self, ledger: &mut Ledger, told: &Capabilities) {
        let rule = Rule::must(
            "abilities_listed",
            "ListAbilities gives the abilities of the capabilities, ordered by name, each with keywords and kinds of question.",
            "list every ability once, sorted by name, with its keywords and question_kinds",
        );
        ledger
            .judge(rule, async {
                let (abilities, _) = self.page(100, String::new()).await?;
                let names: Vec<&str> = abilities
                    .iter()
                    .map(|ability| ability.name.as_str())
                    .collect();
                holds(!names.is_empty(), "there is none")?;
                holds(names.is_sorted(), format!("{names:?} are not in order"))?;
                let known: BTreeSet<&str> = told.abilities.iter().map(String::as_str).collect();
                holds(
                    known == names.iter().copied().collect(),
                    format!("{names:?}, told {known:?}"),
                )?;
                let bare = abilities.iter().find(|ability| {
                    ability.keywords.is_empty() || ability.question_kinds.is_empty()
                });
                holds(
                    bare.is_none(),
                    format!(
                        "{:?} lacks keywords or kinds",
                        bare.map(|ability| &ability.name)
                    ),
                )?;
                Ok(format!("{} in order", names.len()))
            })
            .await;
        manners::paging(ledger, "abilities", async |size, token| {
            let (abilities, next) = self.page(size, token).await?;
            Ok((
                abilities.into_iter().map(|ability| ability.name).collect(),
                next,
            ))
        })
        .await;
        let rule = Rule::must(
            "ability_described",
            "GetAbility describes an ability as ListAbilities does.",
            "answer both calls from the same description",
        );
        ledger
            .judge(rule, async {
                let one = self.describe(&self.ability).await?;
                let (all, _) = self.page(100, String::new()).await?;
                holds(all.contains(&one), "the two differ")?;
                Ok(format!("{}: {} keywords", one.name, one.keywords.len()))
            })
            .await;
        ledger
            .refused(
                Refusal::not_found(
                    "unknown_ability_described",
                    "An ability that is not known, in GetAbility,",
                ),
                self.describe("levitation"),
            )
            .await;
    }

    async fn refusals(&self, ledger: &mut Ledger, told: &Capabilities) {
        let most = told.max_items_per_request.min(100_000) as usize;
        let many = GeneratePromptsRequest {
            slot_count: most as u64 + 1,
            ..self.asking(1, 0..most + 1)
        };
        let mut malformed = self.asking(1, 0..1);
        malformed.items[0].sample_id = "FOX".to_owned();
        let mut twice = self.asking(1, 0..2);
        twice.items[1].sample_id = twice.items[0].sample_id.clone();
        let unknown = GeneratePromptsRequest {
            ability: "levitation".to_owned(),
            ..self.asking(1, 0..1)
        };
        let cases = [
            (
                Refusal::invalid("no_item", "A request without items", "items"),
                self.asking(1, 0..0),
            ),
            (
                Refusal::invalid(
                    "malformed_id",
                    "An id that is not 32 lower-case hexadecimal digits",
                    "items.sample_id",
                ),
                malformed,
            ),
            (
                Refusal::invalid(
                    "repeated_id",
                    "A request that names an id twice",
                    "items.sample_id",
                ),
                twice,
            ),
            (
                Refusal::not_found("unknown_ability", "An ability that is not known"),
                unknown,
            ),
        ];
        for (refusal, request) in cases {
            ledger.refused(refusal, self.ask(request)).await;
        }
        ledger
            .bounded(Refusal::too_many_items(), most, self.ask(many))
            .await;
    }
}
