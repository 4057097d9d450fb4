//! What is true of every prompt.

use proto::{dataset::v1::PromptSyntax, promptgen::v1::GeneratePromptsRequest};

use super::{ITEMS, Stage};
use crate::conformance::ledger::{Ledger, Rule, Seen, holds};

impl Stage {
    pub(super) async fn prompts(&self, ledger: &mut Ledger) {
        let rule = Rule::must(
            "one_end_per_item",
            "Each item has one result, in the order of the request.",
            "stream one prompt or failure per item, in order, with the item's sample_id",
        );
        ledger
            .judge(rule, async {
                let request = self.asking(10, 0..ITEMS);
                let wanted: Vec<String> = request
                    .items
                    .iter()
                    .map(|item| item.sample_id.clone())
                    .collect();
                let got: Vec<String> = self
                    .ask(request)
                    .await?
                    .into_iter()
                    .map(|(id, _)| id)
                    .collect();
                holds(got == wanted, format!("{got:?}"))?;
                Ok(format!("{ITEMS} items, {ITEMS} results in order"))
            })
            .await;
        let rule = Rule::must(
            "prompt_filled",
            "A prompt has its sample's id, its ability, a keyword of that ability, a text and facts with a subject.",
            "fill sample_id, ability, keyword, text and facts.subjects",
        );
        ledger.judge(rule, self.filled()).await;
        let rule = Rule::must(
            "syntax_as_asked",
            "A prompt states the syntax that was asked for; unspecified means webui.",
            "write in the syntax of the request and set Prompt.syntax",
        );
        ledger.judge(rule, self.syntaxes()).await;
        let rule = Rule::must(
            "provenance",
            "Provenance says who wrote the prompt, and where the seed decides, with which.",
            "fill producer, and seed where seeded is true",
        );
        ledger
            .judge(rule, async {
                let prompts = self.written(self.asking(10, 0..1)).await?;
                let made = prompts
                    .into_iter()
                    .next()
                    .and_then(|prompt| prompt.provenance)
                    .unwrap_or_default();
                holds(!made.producer.is_empty(), "producer is empty")?;
                Ok(format!("{:?}, seeded {}", made.producer, made.seeded))
            })
            .await;
    }

    async fn filled(&self) -> Seen {
        let keywords = self.describe(&self.ability).await?.keywords;
        let request = self.asking(10, 0..ITEMS);
        let prompts = self.written(request.clone()).await?;
        for (item, prompt) in request.items.iter().zip(&prompts) {
            holds(
                prompt.sample_id == item.sample_id,
                format!(
                    "the prompt of {} says {:?}",
                    item.sample_id, prompt.sample_id
                ),
            )?;
            holds(
                prompt.ability == self.ability,
                format!("ability {:?}", prompt.ability),
            )?;
            let known = keywords
                .iter()
                .any(|keyword| keyword.text == prompt.keyword);
            holds(
                known,
                format!("keyword {:?} is none of the ability's", prompt.keyword),
            )?;
            let subjects = prompt
                .facts
                .as_ref()
                .map_or(0, |facts| facts.subjects.len());
            holds(
                !prompt.text.trim().is_empty() && subjects > 0,
                format!("{:?} with {subjects} subjects", prompt.text),
            )?;
        }
        let first = prompts.into_iter().next().unwrap_or_default();
        Ok(format!("{:?} …", first.text))
    }

    async fn syntaxes(&self) -> Seen {
        use PromptSyntax::{Plain, Unspecified, Webui};
        for (asked, meant) in [(Plain, Plain), (Webui, Webui), (Unspecified, Webui)] {
            let request = GeneratePromptsRequest {
                syntax: asked.into(),
                ..self.asking(11, 0..2)
            };
            for prompt in self.written(request).await? {
                let said = prompt.syntax();
                holds(
                    said == meant,
                    format!(
                        "{} where {} was asked",
                        said.as_str_name(),
                        asked.as_str_name()
                    ),
                )?;
            }
        }
        Ok("plain, webui and the default".to_owned())
    }
}
