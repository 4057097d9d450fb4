//! What is true of every conversation.

use proto::{
    dataset::v1::{QuestionKind, Role, Turn},
    dialogue::v1::WriteDialoguesRequest,
};

use super::{ITEMS, Stage};
use crate::conformance::ledger::{Ledger, Miss, Rule, Seen, holds, sample_id};

impl Stage {
    pub(super) async fn conversations(&self, ledger: &mut Ledger) {
        let rule = Rule::must(
            "one_end_per_item",
            "Each item has one result, in the order of the request.",
            "stream one conversation or failure per item, in order, with the item's sample_id",
        );
        ledger
            .judge(rule, async {
                let got: Vec<String> = self
                    .ask(self.asking(10, ITEMS))
                    .await?
                    .into_iter()
                    .map(|(id, _)| id)
                    .collect();
                let wanted: Vec<String> = (0..ITEMS).map(|index| sample_id(10, index)).collect();
                holds(got == wanted, format!("{got:?}"))?;
                Ok(format!("{ITEMS} items, {ITEMS} results in order"))
            })
            .await;
        let rule = Rule::must(
            "turns_alternate",
            "Turns have words and alternate, the user first; answers carry the kind of their question.",
            "write user and assistant in turn, none empty, and give both turns of a round the same kind",
        );
        ledger
            .judge(rule, async {
                let written = self.written(self.asking(10, ITEMS)).await?;
                written
                    .iter()
                    .try_for_each(|conversation| alternates(&conversation.turns))?;
                let turns = written
                    .into_iter()
                    .flat_map(|conversation| conversation.turns);
                let first = turns.into_iter().next().unwrap_or_default();
                Ok(format!("{:?} …", first.text))
            })
            .await;
        let rule = Rule::must(
            "image_is_shown",
            "The image is shown by image_index on a user turn, and never marked in the text.",
            "put 0 into the first user turn's image_index, and no <image> into its text",
        );
        ledger
            .judge(rule, async {
                let written = self.written(self.asking(10, ITEMS)).await?;
                written
                    .iter()
                    .try_for_each(|conversation| shows_its_image(&conversation.turns))?;
                Ok("image 0, once".to_owned())
            })
            .await;
        let rule = Rule::must(
            "round_count",
            "There are as many rounds as asked for; 0 means 3.",
            "write 2 * round_count turns",
        );
        ledger.judge(rule, self.rounds()).await;
        let rule = Rule::must(
            "kinds_as_asked",
            "Only the kinds of question that the request allows are asked.",
            "choose among WriteDialoguesRequest.kinds where it is not empty",
        );
        ledger.judge(rule, self.kinds()).await;
        let rule = Rule::must(
            "provenance",
            "A conversation names its sample, and its provenance who wrote it.",
            "fill sample_id and producer, and seed where seeded is true",
        );
        ledger
            .judge(rule, async {
                let written = self
                    .written(self.asking(10, 1))
                    .await?
                    .into_iter()
                    .next()
                    .unwrap_or_default();
                let made = written.provenance.unwrap_or_default();
                let seen = format!(
                    "{}: {:?}, seeded {}",
                    written.sample_id, made.producer, made.seeded
                );
                let named = written.sample_id == sample_id(10, 0) && !made.producer.is_empty();
                holds(named, seen.clone()).map(|()| seen)
            })
            .await;
    }

    async fn rounds(&self) -> Seen {
        for (asked, meant) in [(0, 3), (1, 1), (2, 2)] {
            let request = WriteDialoguesRequest {
                round_count: asked,
                ..self.asking(11, 2)
            };
            for conversation in self.written(request).await? {
                let count = conversation.turns.len();
                holds(
                    count == 2 * meant,
                    format!("{count} turns where {asked} rounds were asked"),
                )?;
            }
        }
        Ok("3, 1 and 2".to_owned())
    }

    async fn kinds(&self) -> Seen {
        let allowed = QuestionKind::YesNo;
        let request = WriteDialoguesRequest {
            kinds: vec![allowed.into()],
            round_count: 2,
            ..self.asking(12, 2)
        };
        for turn in self
            .written(request)
            .await?
            .iter()
            .flat_map(|conversation| &conversation.turns)
        {
            let kind = turn.kind();
            holds(
                kind == allowed,
                format!("{} in {:?}", kind.as_str_name(), turn.text),
            )?;
        }
        Ok("yes/no alone".to_owned())
    }
}

fn alternates(turns: &[Turn]) -> Result<(), Miss> {
    for (index, pair) in turns.chunks(2).enumerate() {
        let [question, answer] = pair else {
            return Err(Miss::broken(format!("{} turns are no rounds", turns.len())));
        };
        let roles = (question.role(), answer.role()) == (Role::User, Role::Assistant);
        holds(roles, format!("round {index} is not user, assistant"))?;
        let words = !question.text.trim().is_empty() && !answer.text.trim().is_empty();
        holds(words, format!("round {index} has an empty turn"))?;
        let kinds = question.kind() != QuestionKind::Unspecified && question.kind == answer.kind;
        let seen = format!(
            "round {index}: {} and {}",
            question.kind().as_str_name(),
            answer.kind().as_str_name()
        );
        holds(kinds, seen)?;
    }
    Ok(())
}

fn shows_its_image(turns: &[Turn]) -> Result<(), Miss> {
    let shown: Vec<u32> = turns
        .iter()
        .flat_map(|turn| turn.image_index.clone())
        .collect();
    holds(
        shown == [0],
        format!("image_index {shown:?} over all turns"),
    )?;
    let by_user = turns.first().is_some_and(|turn| turn.image_index == [0]);
    holds(by_user, "the first turn does not show it")?;
    let marked = turns.iter().find(|turn| turn.text.contains("<image>"));
    holds(
        marked.is_none(),
        format!("{:?}", marked.map(|turn| &turn.text)),
    )
}
