//! Rules of `diptych.dialogue.v1.DialogueService`, from the comments in its schema.

mod checks;
mod conversations;

use std::time::Duration;

use proto::{
    dataset::v1::{
        Attribute, Capabilities, Conversation, Facts, Prompt, PromptSyntax, Subject as Thing,
    },
    dialogue::v1::{
        CheckDialogueRequest, DialogueItem, Disagreement, GetCapabilitiesRequest,
        WriteDialoguesRequest, dialogue_service_client::DialogueServiceClient,
        write_dialogues_response::Result as Outcome,
    },
};
use runtime::Channel;
use tonic::Status;

use super::{
    Case, Subject, client, deadline,
    ledger::{Ledger, Miss, Refusal, Rule, collect, holds, sample_id},
    manners,
};

/// Conversations that are asked for together.
const ITEMS: usize = 4;
/// Deadline of a call for as many conversations as one may hold.
const DEADLINE: Duration = Duration::from_millis(5);
/// The ability that prompts are of, where it is known; else the first that is.
const ABILITY: &str = "animal";

pub(super) async fn judge(case: &Case, channel: &Channel, ledger: &mut Ledger) {
    let client = client!(DialogueServiceClient, channel);
    let mut stage = Stage {
        client,
        ability: ABILITY.to_owned(),
    };
    let told = manners::capabilities(ledger, Subject::Dialogue, stage.capabilities()).await;
    let told = told.unwrap_or_default();
    if !told.abilities.iter().any(|ability| ability == ABILITY) {
        stage.ability = told.abilities.first().cloned().unwrap_or(stage.ability);
    }
    stage.refusals(ledger, &told).await;
    stage.conversations(ledger).await;
    stage.seeds(ledger).await;
    stage.checks(ledger).await;
    let most = (told.max_items_per_request as usize).clamp(1, 10_000);
    let call = async |wire, origin, request| {
        DialogueServiceClient::with_origin(wire, origin)
            .write_dialogues(request)
            .await
    };
    deadline::judge(ledger, case, DEADLINE, stage.asking(90, most), call).await;
}

struct Stage {
    client: DialogueServiceClient<Channel>,
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

    async fn ask(
        &self,
        request: WriteDialoguesRequest,
    ) -> Result<Vec<(String, Option<Outcome>)>, Status> {
        let messages = collect(self.client.clone().write_dialogues(request).await).await?;
        Ok(messages
            .into_iter()
            .map(|message| (message.sample_id, message.result))
            .collect())
    }

    /// The conversations of a request in which no item may fail.
    async fn written(&self, request: WriteDialoguesRequest) -> Result<Vec<Conversation>, Miss> {
        let conversation = |(id, result)| match result {
            Some(Outcome::Conversation(conversation)) => Ok(conversation),
            Some(Outcome::Failure(failure)) => Err(Miss::broken(format!(
                "{id} failed: {}: {}",
                failure.reason, failure.message
            ))),
            None => Err(Miss::broken(format!("{id} has no result"))),
        };
        self.ask(request)
            .await?
            .into_iter()
            .map(conversation)
            .collect()
    }

    async fn check(
        &self,
        conversation: Option<Conversation>,
        prompts: Vec<Prompt>,
    ) -> Result<Vec<Disagreement>, Status> {
        let request = CheckDialogueRequest {
            conversation,
            prompts,
        };
        Ok(self
            .client
            .clone()
            .check_dialogue(request)
            .await?
            .into_inner()
            .disagreements)
    }

    fn asking(&self, rule: u64, count: usize) -> WriteDialoguesRequest {
        let item = |index: usize| {
            let sample_id = sample_id(rule, index);
            let prompts = vec![self.prompt(&sample_id)];
            DialogueItem {
                sample_id,
                prompts,
                images: Vec::new(),
            }
        };
        let items = (0..count).map(item).collect();
        WriteDialoguesRequest {
            items,
            seed: 7,
            ..WriteDialoguesRequest::default()
        }
    }

    fn prompt(&self, sample_id: &str) -> Prompt {
        let brown = Attribute {
            name: "color".to_owned(),
            value: "brown".to_owned(),
        };
        let fox = Thing {
            name: "fox".to_owned(),
            category: self.ability.clone(),
            count: 1,
            attributes: vec![brown],
        };
        let facts = Facts {
            subjects: vec![fox],
            scene: "beach".to_owned(),
            ..Facts::default()
        };
        Prompt {
            sample_id: sample_id.to_owned(),
            ability: self.ability.clone(),
            keyword: "fox".to_owned(),
            text: "brown fox, beach".to_owned(),
            syntax: PromptSyntax::Plain.into(),
            facts: Some(facts),
            ..Prompt::default()
        }
    }

    async fn refusals(&self, ledger: &mut Ledger, told: &Capabilities) {
        let most = told.max_items_per_request.min(10_000) as usize;
        let change = |count: usize, change: &dyn Fn(&mut WriteDialoguesRequest)| {
            let mut request = self.asking(1, count);
            change(&mut request);
            request
        };
        let cases = [
            (
                Refusal::invalid("no_item", "A request without items", "items"),
                self.asking(1, 0),
            ),
            (
                Refusal::invalid(
                    "repeated_id",
                    "A request that names an id twice",
                    "items.sample_id",
                ),
                change(2, &|request| request.items[1].sample_id = sample_id(1, 0)),
            ),
            (
                Refusal::invalid(
                    "malformed_id",
                    "An id that is not 32 lower-case hexadecimal digits",
                    "items.sample_id",
                ),
                change(1, &|request| request.items[0].sample_id = "FOX".to_owned()),
            ),
            (
                Refusal::invalid(
                    "item_without_prompt",
                    "An item without a prompt",
                    "items.prompts",
                ),
                change(1, &|request| request.items[0].prompts.clear()),
            ),
            (
                Refusal::invalid("too_many_rounds", "A round_count over 16", "round_count"),
                change(1, &|request| request.round_count = 17),
            ),
            (
                Refusal::invalid(
                    "unknown_kind",
                    "A kind of question that the schema does not know",
                    "kinds",
                )
                .advised(),
                change(1, &|request| request.kinds = vec![999]),
            ),
            (
                Refusal::not_found("unknown_ability", "An ability that is not known"),
                change(1, &|request| {
                    request.items[0].prompts[0].ability = "levitation".to_owned()
                }),
            ),
        ];
        for (refusal, request) in cases {
            ledger.refused(refusal, self.ask(request)).await;
        }
        let many = self.asking(1, most + 1);
        let refusal = Refusal::too_many_items().advised();
        ledger.bounded(refusal, most, self.ask(many)).await;
    }

    async fn seeds(&self, ledger: &mut Ledger) {
        let first = self
            .written(self.asking(20, ITEMS))
            .await
            .and_then(|written| {
                let is_seeded =
                    |one: &Conversation| one.provenance.as_ref().is_some_and(|made| made.seeded);
                match written.iter().all(is_seeded) {
                    true => Ok(written),
                    false => Err(Miss::not_judged(
                        "its provenance says that it is not seeded",
                    )),
                }
            });
        let rule = Rule::must(
            "same_seed_same_conversation",
            "Where provenance says seeded, the same seed and items give the same conversations.",
            "draw from a generator of seed and sample_id alone",
        );
        ledger
            .judge(rule, async {
                let again = self.written(self.asking(20, ITEMS)).await?;
                holds(again == first.clone()?, "the conversations differ")?;
                Ok(format!("{ITEMS} equal conversations"))
            })
            .await;
        let rule = Rule::must(
            "alone_or_in_company",
            "Where provenance says seeded, an item alone, or asked for again as missing, gives what it gave among others.",
            "let nothing depend on the other items of a request",
        );
        ledger
            .judge(rule, async {
                let mut request = self.asking(20, ITEMS);
                let alone = request.items.swap_remove(2);
                let request = WriteDialoguesRequest {
                    items: vec![alone],
                    ..request
                };
                let again = self.written(request).await?;
                holds(
                    first.clone()?.get(2) == again.first(),
                    "item 2 differs from what it was among others",
                )?;
                Ok(format!("item 2 as among {ITEMS}"))
            })
            .await;
        let rule = Rule::should(
            "other_seed_other_conversations",
            "Where provenance says seeded, another seed gives other conversations.",
            "let the request's seed decide the choice of questions",
        );
        ledger
            .judge(rule, async {
                let request = WriteDialoguesRequest {
                    seed: 8,
                    ..self.asking(20, ITEMS)
                };
                let other = self.written(request).await?;
                let turns = |written: &[Conversation]| {
                    written
                        .iter()
                        .map(|one| one.turns.clone())
                        .collect::<Vec<_>>()
                };
                holds(
                    turns(&other) != turns(&first.clone()?),
                    "all turns are the same",
                )?;
                Ok("they differ".to_owned())
            })
            .await;
    }
}
