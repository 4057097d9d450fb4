"""A CLIP tokenizer (vocab.json, merges.txt, tokenizer.json) in which each word of the world is one token."""
import json
import re
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from vocabulary import COLORS, PHRASES, SCENE, SCENES, STYLE, STYLES

LENGTH = 77
_SPECIAL = ["<|startoftext|>", "<|endoftext|>"]
_OTHER_WORDS = """a an the this that is are of in on at with and or no not to from picture photo image
drawing art style scene background drawn painted realistic beautiful small big one two three left right
person people man woman animal plant vehicle food clothes furniture thing object weather color colour
wearing standing sitting holding brown black white gray grey tree hair head light lights day sunny"""


def words():
    """Every word that a caption can hold, sorted."""
    texts = [p.text + " " + p.noun for p in PHRASES] + [p.keyword for p in PHRASES] + list(COLORS) + SCENES + STYLES
    texts += [s["where"] for s in SCENE.values()] + [s["how"] for s in STYLE.values()] + [_OTHER_WORDS]
    texts += [w for row in [*PHRASES] for w in row.also]
    texts += [w for row in [*SCENE.values(), *STYLE.values()] for w in row["also"]]
    return sorted(set(re.findall(r"[a-z]+", " ".join(texts).lower())))


def _byte_alphabet():
    """The 256 byte characters in the order of OpenAI's vocabulary: printable bytes first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def build(folder: Path):
    """Writes the tokenizer to `folder` and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trained.train_from_iterator(words(), trainers.BpeTrainer(
        vocab_size=8000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False))
    merges = [tuple(m) for m in json.loads(trained.to_str())["model"]["merges"]]
    alphabet = _byte_alphabet()
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(m) for m in merges), *_SPECIAL]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    _save(folder, vocab, merges)
    tokenizer = load(folder)
    for word in words():
        if len(tokenizer(word)["input_ids"]) != 3:
            raise SystemExit(f"{word!r} is not one token: {tokenizer.tokenize(word)}")
    return tokenizer


def _save(folder, vocab, merges):
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)
    tokenizer.save_pretrained(folder)


def load(folder):
    return CLIPTokenizer.from_pretrained(folder)
