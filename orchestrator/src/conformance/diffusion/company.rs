//! Callers at the same time, callers that leave, and callers that ask too much.

use tonic::Code;

use super::{DEADLINE, Stage, asking, item};
use crate::conformance::{
    MAX_MESSAGE_BYTES,
    ledger::{Ledger, Miss, Rule, Seen, collect, holds, sentence},
};

/// Calls at the same time.
const CALLERS: usize = 4;

impl Stage {
    pub(super) async fn company(&self, ledger: &mut Ledger) {
        let rule = Rule::must(
            "calls_at_the_same_time",
            "Calls at the same time are answered, or refused at once with RESOURCE_EXHAUSTED.",
            "queue calls for the device with a bound, and answer RESOURCE_EXHAUSTED beyond it",
        );
        ledger.judge(rule, self.callers()).await;
        let rule = Rule::must(
            "who_leaves_is_forgotten",
            "A caller that leaves ends quietly: the next one gets its picture.",
            "look at the call's cancellation between steps and give the device free",
        );
        ledger.judge(rule, self.leaver()).await;
        let rule = Rule::should(
            "large_message_is_refused",
            "A request far beyond any prompt (32 MiB) is refused with a status, and the service goes on.",
            "bound the size of messages, 16 MiB say",
        );
        ledger.judge(rule, self.huge()).await;
    }

    async fn callers(&self) -> Seen {
        let calls = (0..CALLERS).map(|index| self.ask(asking(vec![item(30, index, 1)])));
        let (mut answered, mut refused) = (0, 0);
        for reply in futures::future::join_all(calls).await {
            match reply {
                Ok(_) => answered += 1,
                Err(status) if status.code() == Code::ResourceExhausted => refused += 1,
                Err(status) => return Err(status.into()),
            }
        }
        holds(answered > 0, "all were refused")?;
        Ok(format!(
            "{answered} answered, {refused} refused with RESOURCE_EXHAUSTED"
        ))
    }

    async fn leaver(&self) -> Seen {
        let mut stream = self
            .client
            .clone()
            .generate_images(self.long(31))
            .await?
            .into_inner();
        // Its first word shows that the work is under way; a service may also say nothing yet.
        let first = tokio::time::timeout(DEADLINE, stream.message()).await;
        if let Ok(word) = first {
            word?;
        }
        drop(stream);
        let begun = std::time::Instant::now();
        self.one(asking(vec![item(32, 0, 1)])).await?;
        Ok(format!(
            "the next picture took {:.2} s",
            begun.elapsed().as_secs_f64()
        ))
    }

    async fn huge(&self) -> Seen {
        let mut item = item(33, 0, 1);
        item.prompt = "fox ".repeat(8 << 20);
        let mut client = self
            .client
            .clone()
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let reply = collect(client.generate_images(asking(vec![item])).await).await;
        self.capabilities().await?;
        match reply {
            Ok(_) => Err(Miss::broken("it was accepted")),
            Err(status) => Ok(sentence(&status)),
        }
    }
}
