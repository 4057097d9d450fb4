//! What the operator decides about the remote model.

use std::{path::PathBuf, time::Duration};

use clap::Args;

/// How a remote language model is reached, and every bound on it. `Default` is what clap gives
/// without arguments.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Remote language model")]
pub struct Options {
    /// Base address of an OpenAI-compatible server, with its version: http://127.0.0.1:8000/v1.
    #[arg(
        id = "llm_url",
        long = "llm-url",
        env = "DIPTYCH_LLM_URL",
        value_name = "URL"
    )]
    pub url: Option<String>,
    /// Name of the model, as the server knows it.
    #[arg(
        id = "llm_model",
        long = "llm-model",
        env = "DIPTYCH_LLM_MODEL",
        value_name = "NAME"
    )]
    pub model: Option<String>,
    /// Name of the environment variable that holds the key [default: DIPTYCH_LLM_KEY, where set].
    #[arg(
        id = "llm_key_env",
        long = "llm-key-env",
        env = "DIPTYCH_LLM_KEY_ENV",
        value_name = "VARIABLE"
    )]
    pub key_env: Option<String>,
    /// File that holds the key; read before every request.
    #[arg(
        id = "llm_key_file",
        long = "llm-key-file",
        env = "DIPTYCH_LLM_KEY_FILE",
        value_name = "FILE"
    )]
    pub key_file: Option<PathBuf>,
    /// Authority that signed the server's certificate, PEM, beside those of the system.
    #[arg(
        id = "llm_ca_file",
        long = "llm-ca-file",
        env = "DIPTYCH_LLM_CA_FILE",
        value_name = "FILE"
    )]
    pub ca_file: Option<PathBuf>,
    /// Send the key in plaintext beyond this machine.
    #[arg(
        id = "llm_insecure",
        long = "llm-insecure",
        env = "DIPTYCH_LLM_INSECURE"
    )]
    pub insecure: bool,
    /// Prices of models, TOML; without it, costs are not known.
    #[arg(
        id = "llm_price_file",
        long = "llm-price-file",
        env = "DIPTYCH_LLM_PRICE_FILE",
        value_name = "FILE"
    )]
    pub price_file: Option<PathBuf>,
    /// Most tokens of an answer, where the request does not say.
    #[arg(id = "llm_max_tokens", long = "llm-max-tokens", env = "DIPTYCH_LLM_MAX_TOKENS", default_value_t = MAX_TOKENS, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    pub max_tokens: u32,
    /// Temperature, where the request does not say [default: the server's].
    #[arg(
        id = "llm_temperature",
        long = "llm-temperature",
        env = "DIPTYCH_LLM_TEMPERATURE",
        value_name = "NUMBER"
    )]
    pub temperature: Option<f64>,
    /// Take answers as streams: a stalled server is then noticed after the idle time-out.
    #[arg(id = "llm_stream", long = "llm-stream", env = "DIPTYCH_LLM_STREAM")]
    pub stream: bool,
    /// Most requests in flight; the client finds out how many the server bears.
    #[arg(id = "llm_max_concurrency", long = "llm-max-concurrency", env = "DIPTYCH_LLM_MAX_CONCURRENCY", default_value_t = MAX_CONCURRENCY, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    pub max_concurrency: u32,
    /// Most calls that wait for their turn; the next is refused.
    #[arg(id = "llm_max_waiting", long = "llm-max-waiting", env = "DIPTYCH_LLM_MAX_WAITING", default_value_t = MAX_WAITING, value_name = "COUNT")]
    pub max_waiting: usize,
    /// Requests per minute that the provider allows [default: no bound].
    #[arg(id = "llm_rpm", long = "llm-rpm", env = "DIPTYCH_LLM_RPM", value_parser = clap::value_parser!(u64).range(1..), value_name = "COUNT")]
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute, of questions and answers, that the provider allows [default: no bound].
    #[arg(id = "llm_tpm", long = "llm-tpm", env = "DIPTYCH_LLM_TPM", value_parser = clap::value_parser!(u64).range(1..), value_name = "COUNT")]
    pub tokens_per_minute: Option<u64>,
    /// Attempts at one request, the first included; answers of overload do not count, nor does a
    /// server that has answered before and cannot be reached.
    #[arg(id = "llm_max_attempts", long = "llm-max-attempts", env = "DIPTYCH_LLM_MAX_ATTEMPTS", default_value_t = MAX_ATTEMPTS, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    pub max_attempts: u32,
    /// Retries in reserve for all calls together; each success gives half of one back.
    #[arg(id = "llm_retry_budget", long = "llm-retry-budget", env = "DIPTYCH_LLM_RETRY_BUDGET", default_value_t = RETRY_BUDGET, value_name = "COUNT")]
    pub retry_budget: u32,
    /// Wait before the first retry, in milliseconds; it doubles from there, less a random half.
    #[arg(id = "llm_first_delay_ms", long = "llm-first-delay-ms", env = "DIPTYCH_LLM_FIRST_DELAY_MS", default_value_t = FIRST_DELAY_MS, value_name = "MS")]
    pub first_delay_ms: u64,
    /// Longest wait before a retry, in milliseconds, where the server names none.
    #[arg(id = "llm_max_delay_ms", long = "llm-max-delay-ms", env = "DIPTYCH_LLM_MAX_DELAY_MS", default_value_t = MAX_DELAY_MS, value_name = "MS")]
    pub max_delay_ms: u64,
    /// Requests for a corrected answer where one does not fit its schema.
    #[arg(id = "llm_max_repairs", long = "llm-max-repairs", env = "DIPTYCH_LLM_MAX_REPAIRS", default_value_t = MAX_REPAIRS, value_parser = clap::value_parser!(u32).range(..=16), value_name = "COUNT")]
    pub max_repairs: u32,
    /// Longest wait for a connection, in milliseconds.
    #[arg(id = "llm_connect_timeout_ms", long = "llm-connect-timeout-ms", env = "DIPTYCH_LLM_CONNECT_TIMEOUT_MS", default_value_t = CONNECT_TIMEOUT_MS, value_name = "MS")]
    pub connect_timeout_ms: u64,
    /// Longest time for one attempt, in milliseconds.
    #[arg(id = "llm_timeout_ms", long = "llm-timeout-ms", env = "DIPTYCH_LLM_TIMEOUT_MS", default_value_t = TIMEOUT_MS, value_name = "MS")]
    pub timeout_ms: u64,
    /// Longest silence in a stream, in milliseconds, the wait for its first word included.
    #[arg(id = "llm_idle_timeout_ms", long = "llm-idle-timeout-ms", env = "DIPTYCH_LLM_IDLE_TIMEOUT_MS", default_value_t = IDLE_TIMEOUT_MS, value_name = "MS")]
    pub idle_timeout_ms: u64,
    /// Longest time for one call with its turn and its retries, in seconds.
    #[arg(id = "llm_deadline_seconds", long = "llm-deadline-seconds", env = "DIPTYCH_LLM_DEADLINE_SECONDS", default_value_t = DEADLINE_SECONDS, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS), value_name = "SECONDS")]
    pub deadline_seconds: u64,
    /// Largest answer that is read, in bytes.
    #[arg(id = "llm_max_answer_bytes", long = "llm-max-answer-bytes", env = "DIPTYCH_LLM_MAX_ANSWER_BYTES", default_value_t = MAX_ANSWER_BYTES, value_name = "BYTES")]
    pub max_answer_bytes: usize,
}

/// A year: more than any wait here, and far from where clocks and timers overflow.
const MAX_SECONDS: u64 = 365 * 24 * 3600;
const MAX_TOKENS: u32 = 1024;
const MAX_CONCURRENCY: u32 = 64;
const MAX_WAITING: usize = 4096;
const MAX_ATTEMPTS: u32 = 6;
const RETRY_BUDGET: u32 = 20;
const FIRST_DELAY_MS: u64 = 500;
const MAX_DELAY_MS: u64 = 30_000;
const MAX_REPAIRS: u32 = 2;
const CONNECT_TIMEOUT_MS: u64 = 5_000;
const TIMEOUT_MS: u64 = 300_000;
const IDLE_TIMEOUT_MS: u64 = 120_000;
const DEADLINE_SECONDS: u64 = 1_800;
const MAX_ANSWER_BYTES: usize = 8 << 20;

impl Default for Options {
    fn default() -> Self {
        Self {
            url: None,
            model: None,
            key_env: None,
            key_file: None,
            ca_file: None,
            insecure: false,
            price_file: None,
            max_tokens: MAX_TOKENS,
            temperature: None,
            stream: false,
            max_concurrency: MAX_CONCURRENCY,
            max_waiting: MAX_WAITING,
            requests_per_minute: None,
            tokens_per_minute: None,
            max_attempts: MAX_ATTEMPTS,
            retry_budget: RETRY_BUDGET,
            first_delay_ms: FIRST_DELAY_MS,
            max_delay_ms: MAX_DELAY_MS,
            max_repairs: MAX_REPAIRS,
            connect_timeout_ms: CONNECT_TIMEOUT_MS,
            timeout_ms: TIMEOUT_MS,
            idle_timeout_ms: IDLE_TIMEOUT_MS,
            deadline_seconds: DEADLINE_SECONDS,
            max_answer_bytes: MAX_ANSWER_BYTES,
        }
    }
}

impl Options {
    /// See [`Options::timeout_ms`].
    pub fn timeout(&self) -> Duration {
        milliseconds(self.timeout_ms)
    }

    /// See [`Options::idle_timeout_ms`].
    pub fn idle_timeout(&self) -> Duration {
        milliseconds(self.idle_timeout_ms)
    }

    /// See [`Options::connect_timeout_ms`].
    pub fn connect_timeout(&self) -> Duration {
        milliseconds(self.connect_timeout_ms)
    }

    /// See [`Options::deadline_seconds`].
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline_seconds.min(MAX_SECONDS))
    }
}

/// A wait of so many milliseconds, a year at most.
pub(crate) fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count.min(MAX_SECONDS * 1000))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn the_default_is_what_the_command_line_gives_without_arguments() {
        let parsed = Program::try_parse_from(["program"]).expect("no argument is needed");
        assert_eq!(
            format!("{:?}", parsed.options),
            format!("{:?}", Options::default())
        );
        let line = ["program", "--llm-url", "http://h/v1", "--llm-rpm", "60"];
        let options = Program::try_parse_from(line).expect("a valid line").options;
        assert_eq!(options.requests_per_minute, Some(60));
        let endless = ["program", "--llm-max-concurrency", "0"];
        let error = Program::try_parse_from(endless).expect_err("nothing could run");
        assert!(
            error.to_string().contains("--llm-max-concurrency"),
            "{error}"
        );
    }
}
