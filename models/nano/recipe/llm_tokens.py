"""nano-llava's tokenizer: byte-pair encoding in LLaMA's manner.

Metaspace (every text segment starts with "▁"), byte fallback, <unk> 0, <s> 1, </s> 2, 256 bytes,
pieces, and `<image>` as the last token.
"""
import json
import re

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCAB = 1152
UNKNOWN, BOS, EOS, IMAGE = 0, 1, 2, VOCAB - 1


def build(texts):
    """Trains on `texts`; words after a line break are learnt without their "▁" too."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pieces = VOCAB - 3 - 256 - 1
    trained.train_from_iterator(map(_marked, texts), trainers.BpeTrainer(vocab_size=pieces, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    learnt = sorted(model["vocab"], key=model["vocab"].get)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *learnt]
    tokens += [f"<unused{i}>" for i in range(VOCAB - 1 - len(tokens))] + ["<image>"]
    vocab = {t: i for i, t in enumerate(tokens)}
    merges = [tuple(m) for m in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>", "<image>")])
    return tokenizer


def _marked(text):
    """Spaces become "▁" of the next word; punctuation stands alone, so that no piece holds both."""
    text = re.sub(r" +", " ▁", "▁" + text).replace("\n", " ")
    return re.sub(r"([.,:?])", r" \1 ", text)


def save(tokenizer, folder):
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "pad_token": "<unk>", "image_token": "<image>", "add_bos_token": True, "add_eos_token": False,
        "clean_up_tokenization_spaces": False, "model_max_length": 1024, "padding_side": "right"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    special = {k: settings[k] for k in ("bos_token", "eos_token", "unk_token", "pad_token")}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
