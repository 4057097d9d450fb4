//! GGUF files of llama.cpp: metadata, and tensors whose blocks are kept as they are.
//!
//! candle reads the container. Architectures `llama`, `qwen2` and `qwen3` are known; an entry of
//! theirs that would change the result and is not implemented is refused by name.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{Device, Tensor};

use super::config::{DecoderConfig, Family, RopeScaling};
use super::error::Error;
use super::source::Source;

/// An opened GGUF file.
pub(crate) struct Gguf {
    path: PathBuf,
    content: Content,
    file: BufReader<File>,
}

/// Entries `{architecture}.…` that are read below, or that change nothing here.
const KNOWN: &[&str] = &[
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "vocab_size",
];

/// The most rotary frequencies: half the width of a head.
const MAX_FREQUENCIES: usize = 4096;

impl Gguf {
    /// Opens a file and reads everything but its tensors.
    ///
    /// # Errors
    /// [`Error::Read`], and [`Error::Gguf`] for a file that is damaged.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| Error::Read {
            path: path.into(),
            source,
        })?;
        let mut file = BufReader::new(file);
        // candle divides by the file's own alignment, which may be 0.
        let content = catch_unwind(AssertUnwindSafe(|| Content::read(&mut file)));
        let bad = |reason: String| Error::Gguf {
            path: path.into(),
            reason: format!("not a whole GGUF file: {reason}"),
        };
        let content = content
            .map_err(|_| bad("its header is nonsense".into()))?
            .map_err(|e| bad(e.to_string()))?;
        Ok(Self {
            path: path.into(),
            content,
            file,
        })
    }

    /// The error that the file is wrong because of `reason`.
    pub(crate) fn bad(&self, reason: impl Into<String>) -> Error {
        Error::Gguf {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    /// An entry of the metadata.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    /// A text, if it is there.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.bad(format!("`{key}` is not a string"))),
        }
    }

    /// A boolean, if it is there.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.bad(format!("`{key}` is not a boolean"))),
        }
    }

    /// A count, if it is there.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>, Error> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let count = integer(value).and_then(|n| usize::try_from(n).ok());
        count
            .map(Some)
            .ok_or_else(|| self.bad(format!("`{key}` is not a count")))
    }

    /// A token id, if it is there.
    pub(crate) fn token(&self, key: &str) -> Result<Option<u32>, Error> {
        let Some(id) = self.count(key)? else {
            return Ok(None);
        };
        let id = u32::try_from(id).map_err(|_| self.bad(format!("`{key}` is not a token")))?;
        Ok(Some(id))
    }

    /// A list, if it is there.
    pub(crate) fn list(&self, key: &str) -> Result<Option<&[Value]>, Error> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(_) => Err(self.bad(format!("`{key}` is not a list"))),
        }
    }

    /// The decoder's shape.
    ///
    /// # Errors
    /// Names the entry that is missing, contradictory or not supported.
    pub(crate) fn decoder_config(&mut self, device: &Device) -> Result<DecoderConfig, Error> {
        let divisors = self.rope_divisors(device)?;
        let name = self.text("general.architecture")?.unwrap_or_default();
        let family = match name {
            "llama" => Family::Llama,
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            _ => {
                let reason = format!(
                    "`general.architecture` = \"{name}\" is not supported (llama, qwen2, qwen3)"
                );
                return Err(self.bad(reason));
            }
        };
        self.refuse_unknown(name)?;
        let config = self.shape(name, family, divisors)?;
        match config.check() {
            Ok(()) => Ok(config),
            Err((field, reason)) => Err(self.bad(format!("{field} {reason}"))),
        }
    }

    fn shape(
        &self,
        name: &str,
        family: Family,
        divisors: Option<Vec<f32>>,
    ) -> Result<DecoderConfig, Error> {
        let count = |leaf: &str| self.count(&format!("{name}.{leaf}"));
        let need = |leaf: &str| {
            count(leaf)?.ok_or_else(|| self.bad(format!("`{name}.{leaf}` is missing")))
        };
        let real = |leaf: &str, default: f64| self.real(&format!("{name}.{leaf}"), default);
        let (hidden_size, query_heads) = (need("embedding_length")?, need("attention.head_count")?);
        let head_dim = match count("attention.key_length")? {
            Some(dim) => dim,
            None => hidden_size / query_heads.max(1),
        };
        for leaf in ["attention.value_length", "rope.dimension_count"] {
            if count(leaf)?.is_some_and(|dim| dim != head_dim) {
                let reason =
                    format!("`{name}.{leaf}` differs from the width of a head, {head_dim}");
                return Err(self.bad(reason));
            }
        }
        let table = self.content.tensor_infos.get("token_embd.weight");
        let table = table.ok_or_else(|| self.bad("no tensor `token_embd.weight`"))?;
        Ok(DecoderConfig {
            family,
            vocab_size: table.shape.dims().first().copied().unwrap_or(0),
            hidden_size,
            intermediate_size: need("feed_forward_length")?,
            layer_count: need("block_count")?,
            query_heads,
            key_heads: count("attention.head_count_kv")?.unwrap_or(query_heads),
            head_dim,
            max_positions: need("context_length")?,
            rms_norm_eps: real("attention.layer_norm_rms_epsilon", 1e-6)?,
            tied: !self.content.tensor_infos.contains_key("output.weight"),
            rope_theta: real("rope.freq_base", 10_000.0)?,
            rope_scaling: self.rope_scaling(name, head_dim, divisors)?,
            // llama.cpp's converter reorders the rows of Llama's queries and keys, Qwen's not.
            rope_interleaved: family == Family::Llama,
            qkv_bias: self.content.tensor_infos.contains_key("blk.0.attn_q.bias"),
            output_bias: self
                .content
                .tensor_infos
                .contains_key("blk.0.attn_output.bias"),
            mlp_bias: self
                .content
                .tensor_infos
                .contains_key("blk.0.ffn_gate.bias"),
            end_tokens: self.end_tokens()?,
        })
    }

    fn refuse_unknown(&self, name: &str) -> Result<(), Error> {
        let prefix = format!("{name}.");
        let keys: BTreeSet<&String> = self.content.metadata.keys().collect();
        for key in keys {
            let Some(leaf) = key.strip_prefix(&prefix) else {
                continue;
            };
            // Dense files say that they have no experts.
            let zero = self.value(key).and_then(integer) == Some(0);
            if !KNOWN.contains(&leaf) && !zero {
                return Err(self.bad(format!("`{key}` is not supported")));
            }
        }
        Ok(())
    }

    fn rope_scaling(
        &self,
        name: &str,
        head_dim: usize,
        divisors: Option<Vec<f32>>,
    ) -> Result<RopeScaling, Error> {
        if let Some(divisors) = divisors {
            return match divisors.len() == head_dim / 2 {
                true => Ok(RopeScaling::Divisors(divisors)),
                false => Err(self.bad("`rope_freqs.weight` has another length than half a head")),
            };
        }
        let key = format!("{name}.rope.scaling.type");
        match self.text(&key)? {
            None | Some("none") => Ok(RopeScaling::None),
            Some("linear") => {
                let factor = self.real(&format!("{name}.rope.scaling.factor"), 1.0)?;
                match factor.is_finite() && factor > 0.0 {
                    true => Ok(RopeScaling::Linear(factor)),
                    false => Err(self.bad(format!("`{name}.rope.scaling.factor` is not above 0"))),
                }
            }
            Some(other) => {
                let reason = format!("`{key}` = \"{other}\" is not supported (none, linear)");
                Err(self.bad(reason))
            }
        }
    }

    fn rope_divisors(&mut self, device: &Device) -> Result<Option<Vec<f32>>, Error> {
        let Some(info) = self.content.tensor_infos.get("rope_freqs.weight") else {
            return Ok(None);
        };
        if !matches!(info.shape.dims(), [length] if *length <= MAX_FREQUENCIES) {
            let reason = format!("`rope_freqs.weight` is no list of at most {MAX_FREQUENCIES}");
            return Err(self.bad(reason));
        }
        let tensor = self.tensor("rope_freqs.weight", device)?;
        let values: Vec<f32> = tensor
            .dequantize(device)?
            .flatten_all()?
            .to_vec1()
            .map_err(Error::Tensor)?;
        match values.iter().all(|v| v.is_finite() && *v > 0.0) {
            true => Ok(Some(values)),
            false => Err(self.bad("`rope_freqs.weight` holds a value that is not above 0")),
        }
    }

    fn end_tokens(&self) -> Result<Vec<u32>, Error> {
        let mut tokens = Vec::new();
        for name in ["eos", "eot", "eom"] {
            tokens.extend(self.token(&format!("tokenizer.ggml.{name}_token_id"))?);
        }
        Ok(tokens)
    }

    fn real(&self, key: &str, default: f64) -> Result<f64, Error> {
        match self.value(key) {
            None => Ok(default),
            Some(Value::F32(value)) => Ok(f64::from(*value)),
            Some(Value::F64(value)) => Ok(*value),
            Some(_) => Err(self.bad(format!("`{key}` is not a number"))),
        }
    }

    fn tensor(&mut self, name: &str, device: &Device) -> Result<QTensor, Error> {
        let tensor = self.content.tensor(&mut self.file, name, device);
        tensor.map_err(|e| self.bad(format!("tensor `{name}`: {e}")))
    }
}

/// The tensors of a GGUF file on a device.
pub(crate) struct GgufSource<'a> {
    gguf: &'a mut Gguf,
    device: &'a Device,
    dequantise: bool,
    asked: BTreeSet<String>,
}

impl<'a> GgufSource<'a> {
    /// With `dequantise`, blocks are widened to `f32` when loaded.
    pub(crate) fn new(gguf: &'a mut Gguf, device: &'a Device, dequantise: bool) -> Self {
        let asked = BTreeSet::from(["rope_freqs.weight".to_owned()]);
        Self {
            gguf,
            device,
            dequantise,
            asked,
        }
    }

    fn take(&mut self, name: &str, shape: &[usize]) -> Result<QTensor, Error> {
        let name = gguf_name(name);
        let Some(info) = self.gguf.content.tensor_infos.get(&name) else {
            return Err(self.gguf.bad(format!("no tensor `{name}`")));
        };
        if info.shape.dims() != shape {
            let found = info.shape.dims();
            let reason = format!("`{name}` has shape {found:?}, the metadata ask for {shape:?}");
            return Err(self.gguf.bad(reason));
        }
        let tensor = self.gguf.tensor(&name, self.device)?;
        self.asked.insert(name);
        Ok(tensor)
    }
}

impl Source for GgufSource<'_> {
    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<QMatMul, Error> {
        let tensor = self.take(name, &shape)?;
        match self.dequantise {
            true => Ok(QMatMul::Tensor(tensor.dequantize(self.device)?)),
            false => Ok(QMatMul::from_qtensor(tensor)?),
        }
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Tensor, Error> {
        Ok(self.take(name, &[length])?.dequantize(self.device)?)
    }

    fn finish(&self) -> Result<(), Error> {
        let names: BTreeSet<&String> = self.gguf.content.tensor_infos.keys().collect();
        match names.into_iter().find(|name| !self.asked.contains(*name)) {
            Some(name) => Err(self.gguf.bad(format!("tensor `{name}` is not known"))),
            None => Ok(()),
        }
    }
}

/// `model.layers.3.self_attn.q_proj.weight` → `blk.3.attn_q.weight`
fn gguf_name(name: &str) -> String {
    const WHOLE: [(&str, &str); 3] = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
    ];
    const LEAVES: [(&str, &str); 11] = [
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let (stem, kind) = name.rsplit_once('.').unwrap_or((name, ""));
    if let Some((_, ours)) = WHOLE.iter().find(|(theirs, _)| *theirs == stem) {
        return format!("{ours}.{kind}");
    }
    let inner = stem.strip_prefix("model.layers.").unwrap_or(stem);
    let (layer, leaf) = inner.split_once('.').unwrap_or(("", inner));
    let ours = LEAVES.iter().find(|(theirs, _)| *theirs == leaf);
    format!("blk.{layer}.{}.{kind}", ours.map_or(leaf, |(_, ours)| ours))
}

fn integer(value: &Value) -> Option<i64> {
    match *value {
        Value::U8(v) => Some(v.into()),
        Value::I8(v) => Some(v.into()),
        Value::U16(v) => Some(v.into()),
        Value::I16(v) => Some(v.into()),
        Value::U32(v) => Some(v.into()),
        Value::I32(v) => Some(v.into()),
        Value::U64(v) => v.try_into().ok(),
        Value::I64(v) => Some(v),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language_model::{LanguageModel, LoadOptions};

    fn logits(name: &str, dequantise: bool) -> Vec<f32> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/language_models");
        let options = LoadOptions {
            dequantise,
            ..LoadOptions::default()
        };
        let model = LanguageModel::load_with(&folder.join(name), &options).unwrap();
        let tokens: Vec<u32> = (0..48).map(|n| n * 5).collect();
        let mut cache = model.decoder().cache();
        model.decoder().extend(&mut cache, &tokens).unwrap()
    }

    #[test]
    fn blocks_as_they_are_and_widened_blocks_give_the_same_logits_to_eight_bits() {
        for name in ["llama-q8_0.gguf", "qwen2-q4_0.gguf"] {
            let (stored, exact) = (logits(name, false), logits(name, true));
            let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| x * x).sum::<f32>().sqrt();
            let difference = norm(&mut stored.iter().zip(&exact).map(|(a, b)| a - b));
            let error = difference / norm(&mut exact.iter().copied());
            // Rounding 32 numbers to eight bits is 0.5 % off; a random network makes 2.6 % of it.
            assert!(error > 0.0 && error < 0.05, "{name}: {error}");
        }
    }
}
