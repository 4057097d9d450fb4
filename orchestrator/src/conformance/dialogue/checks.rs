//! CheckDialogue: that it finds a lie, and calls nothing else one.

use proto::dataset::v1::{Conversation, QuestionKind, Role, Turn};

use super::Stage;
use crate::conformance::ledger::{Ledger, Miss, Refusal, Rule, holds, sample_id};

impl Stage {
    pub(super) async fn checks(&self, ledger: &mut Ledger) {
        let id = sample_id(30, 0);
        let rule = Rule::must(
            "own_words_agree",
            "CheckDialogue finds nothing wrong with what WriteDialogues wrote.",
            "check with the facts that the conversation was written from",
        );
        ledger
            .judge(rule, async {
                let written = self.written(self.asking(30, 1)).await?;
                let found = self
                    .check(written.into_iter().next(), vec![self.prompt(&id)])
                    .await?;
                let reasons: Vec<String> = found.into_iter().map(|one| one.reason).collect();
                holds(reasons.is_empty(), format!("{reasons:?}"))?;
                Ok("no disagreement".to_owned())
            })
            .await;
        let rule = Rule::must(
            "a_lie_is_found",
            "CheckDialogue names the turn of an answer that contradicts the facts.",
            "hold each answer against Prompt.facts, and give the turn's index",
        );
        ledger
            .judge(rule, async {
                let found = self.check(Some(lie(&id)), vec![self.prompt(&id)]).await?;
                let one = found
                    .first()
                    .ok_or_else(|| Miss::broken("it calls the fox a cat, and nothing was found"))?;
                holds(one.turn_index < 2, format!("turn {} of 2", one.turn_index))?;
                Ok(format!("turn {}: {}", one.turn_index, one.reason))
            })
            .await;
        let refusal = Refusal::invalid(
            "check_without_conversation",
            "A check without a conversation",
            "conversation",
        );
        ledger
            .refused(refusal, self.check(None, vec![self.prompt(&id)]))
            .await;
        let refusal = Refusal::invalid(
            "check_without_prompt",
            "A check without a prompt",
            "prompts",
        );
        ledger
            .refused(refusal, self.check(Some(lie(&id)), Vec::new()))
            .await;
    }
}

fn lie(id: &str) -> Conversation {
    let turn = |role: Role, text: &str, image_index| Turn {
        role: role.into(),
        text: text.to_owned(),
        image_index,
        kind: QuestionKind::Wh.into(),
        answer_keywords: Vec::new(),
    };
    let question = turn(Role::User, "What animal is it?", vec![0]);
    let mut answer = turn(Role::Assistant, "It is a cat.", Vec::new());
    answer.answer_keywords.push("cat".to_owned());
    Conversation {
        sample_id: id.to_owned(),
        turns: vec![question, answer],
        provenance: None,
    }
}
