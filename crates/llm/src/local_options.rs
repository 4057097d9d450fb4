//! What the operator decides about a language model in this process.

use std::path::PathBuf;

use clap::Args;

/// Where a local language model lies, how it answers, and every bound on it. `Default` is what clap
/// gives without arguments.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Local language model")]
pub struct LocalOptions {
    /// The model: a folder in the layout of transformers (config.json, safetensors, tokenizer.json) or
    /// a .gguf file, of Llama, Qwen2 or Qwen3, with a chat template.
    #[arg(
        id = "language_model",
        long = "language-model",
        env = "DIPTYCH_LANGUAGE_MODEL",
        value_name = "PATH"
    )]
    pub path: Option<PathBuf>,
    /// Most tokens of an answer.
    #[arg(id = "language_model_max_tokens", long = "language-model-max-tokens", env = "DIPTYCH_LANGUAGE_MODEL_MAX_TOKENS", default_value_t = MAX_TOKENS, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    pub max_tokens: u32,
    /// Temperature; 0 takes the likeliest word every time [default: the service's].
    #[arg(
        id = "language_model_temperature",
        long = "language-model-temperature",
        env = "DIPTYCH_LANGUAGE_MODEL_TEMPERATURE",
        value_name = "NUMBER"
    )]
    pub temperature: Option<f32>,
    /// Draws from the fewest likeliest words whose probabilities reach this sum.
    #[arg(id = "language_model_top_p", long = "language-model-top-p", env = "DIPTYCH_LANGUAGE_MODEL_TOP_P", default_value_t = TOP_P, value_name = "NUMBER")]
    pub top_p: f32,
    /// Most calls that wait while one is answered; the next is refused.
    #[arg(id = "language_model_max_waiting", long = "language-model-max-waiting", env = "DIPTYCH_LANGUAGE_MODEL_MAX_WAITING", default_value_t = MAX_WAITING, value_name = "COUNT")]
    pub max_waiting: usize,
    /// Requests for a corrected answer where one fits its schema and is wrong otherwise.
    #[arg(id = "language_model_max_corrections", long = "language-model-max-corrections", env = "DIPTYCH_LANGUAGE_MODEL_MAX_CORRECTIONS", default_value_t = MAX_CORRECTIONS, value_parser = clap::value_parser!(u32).range(..=16), value_name = "COUNT")]
    pub max_corrections: u32,
}

const MAX_TOKENS: u32 = 1024;
const TOP_P: f32 = 0.95;
const MAX_WAITING: usize = 256;
const MAX_CORRECTIONS: u32 = 2;

impl Default for LocalOptions {
    fn default() -> Self {
        Self {
            path: None,
            max_tokens: MAX_TOKENS,
            temperature: None,
            top_p: TOP_P,
            max_waiting: MAX_WAITING,
            max_corrections: MAX_CORRECTIONS,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        local: LocalOptions,
        #[command(flatten)]
        remote: crate::Options,
    }

    #[test]
    fn the_default_is_what_the_command_line_gives_and_both_kinds_of_model_stand_beside_each_other()
    {
        let parsed = Program::try_parse_from(["program"]).expect("no argument is needed");
        let expected = format!("{:?}", LocalOptions::default());
        assert_eq!(format!("{:?}", parsed.local), expected);
        let line = ["program", "--language-model", "m.gguf", "--llm-model", "n"];
        let parsed = Program::try_parse_from(line).expect("a valid line");
        assert_eq!(parsed.local.path, Some(PathBuf::from("m.gguf")));
        assert_eq!(parsed.remote.model.as_deref(), Some("n"));
    }
}
