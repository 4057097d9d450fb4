//! The parts that only pipelines with a transformer have.

use anyhow::{Result, ensure};
use models::mmdit::flux::Flux;
use models::mmdit::sd3::Sd3;
use models::ops::precision::Precision;
use models::t5::T5;
use models::t5_tokenizer::T5Tokenizer;
use models::weights::Adapters;

use super::{Fixture, Row, numbers};

/// Of T5's states the fixture has every eighth.
const KEPT: usize = 8;

impl Fixture {
    pub(super) fn joint(&self) -> Result<Vec<Row>> {
        let mut rows = vec![self.transformer("", Vec::new())?];
        if self.has("t5_ids") {
            rows.push(self.t5()?);
        }
        Ok(rows)
    }

    fn t5(&self) -> Result<Row> {
        let prompts: Vec<String> = serde_json::from_value(self.settings["prompts"].clone())?;
        let end = if self.has("guidance") { "_2" } else { "_3" };
        let tokenizer = T5Tokenizer::load(&self.part(&format!("tokenizer{end}")))?;
        let text = T5::load(&self.part(&format!("text_encoder{end}")))?;
        let ids = self.values("t5_ids")?;
        let length = ids.len() / prompts.len();
        let mut states = Vec::new();
        for (prompt, ids) in prompts.iter().zip(ids.chunks(length)) {
            let framed = tokenizer.framed(&tokenizer.encode(prompt)?, length);
            let same = framed.iter().map(|id| *id as f32).eq(ids.iter().copied());
            ensure!(same, "{prompt}: other tokens: {framed:?}, not {ids:?}");
            let hidden = numbers(&text.encode(&framed)?)?;
            let width = text.config().hidden_size;
            states.extend(hidden.chunks(width).step_by(KEPT).flatten());
        }
        self.row("T5 states".to_owned(), &states, "t5_hidden")
    }

    /// With adapters, whose `mark` stands behind the name of what is expected.
    pub(super) fn transformer(&self, mark: &str, adapters: Adapters) -> Result<Row> {
        let (latents, times) = (self.tensor("transformer_in")?, self.values("timesteps")?);
        let (states, pooled) = (
            self.tensor("transformer_states")?,
            self.tensor("transformer_pooled")?,
        );
        let folder = self.part("transformer");
        let guidance = match self.has("guidance") {
            true => self.values("guidance")?,
            false => Vec::new(),
        };
        let mut contexts = Vec::new();
        let found = if guidance.is_empty() {
            let model = Sd3::load(&folder, adapters, Precision::F32)?;
            for i in 0..times.len() {
                let pooled = numbers(&pooled.get(i)?)?;
                contexts.push(model.context(&states.get(i)?, &pooled)?);
            }
            model.forward(&latents, &times, &contexts.iter().collect::<Vec<_>>())?
        } else {
            let model = Flux::load(&folder, adapters, Precision::F32)?;
            for (i, guidance) in guidance.iter().enumerate() {
                let pooled = numbers(&pooled.get(i)?)?;
                contexts.push(model.context(&states.get(i)?, &pooled, *guidance)?);
            }
            model.forward(&latents, &times, &contexts.iter().collect::<Vec<_>>())?
        };
        ensure!(contexts.len() == times.len(), "a context for each sample");
        let name = format!("transformer_out{mark}");
        self.row(format!("transformer{mark}"), &numbers(&found)?, &name)
    }
}
