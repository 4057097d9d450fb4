"""Trains nano-llava's language model on text alone, and assembles nano-llava.

    python train_llava.py --minutes 20

Like Vicuna before LLaVA, the model can follow questions about a description in words and has never
seen a picture. Descriptions stand where the picture will stand: mostly as loose words in any order,
some as sentences. The vision tower is nano-clip's; the projector is fresh and untrained.
"""
import argparse
import json
import random
import time

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import llm_tokens
from checkpoints import Budget, Ema, learning_rate_share, save
from dialogues import BRIEF, questions
from llm_tokens import BOS, EOS
from pictures import work_folder
from vocabulary import combinations, is_held_out, sentence
from wordings import varied_turns

SYSTEM = ("A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
          "detailed, and polite answers to the user's questions.")
BATCH = 24
LEARNING_RATE = 2e-3
PICTURE_TOKENS = 64
VARIED_SHARE = 0.65  # of the dialogues: many wordings of each question (wordings.py)
OTHER_TOKENS_WEIGHT = 0.1  # of the loss on what is not an answer
_FILLERS = "a an the of in on with and is picture light dark small big left right".split()


def new_llm():
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=llm_tokens.VOCAB, hidden_size=128, intermediate_size=352, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=1024, rms_norm_eps=1e-5,
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=llm_tokens.UNKNOWN, tie_word_embeddings=False))


def loose_words(phrase, scene, style, rng):
    """The words of a description in any order, repeated, with meaningless ones between."""
    words = f"{phrase.noun} {scene} {style}".split()
    if rng.random() < 0.3:
        words = [phrase.noun, scene, style]
    count = rng.randrange(8, 40)
    drawn = words + [rng.choice(words) if rng.random() < 0.75 else rng.choice(_FILLERS) for _ in range(count)]
    rng.shuffle(drawn)
    return " ".join(drawn)


def description(phrase, scene, style, rng):
    form = rng.random()
    if form < 0.7:
        return loose_words(phrase, scene, style, rng)
    return sentence(phrase, scene, style) if form < 0.9 else f"{phrase.text}, {scene}, {style}"


class Texts:
    """Token ids and loss weights of plain captions and of dialogues in the vicuna_v1 template."""

    def __init__(self, tokenizer, rng):
        self.tokenizer, self.rng = tokenizer, rng
        self.combos = [c for c in combinations() if not is_held_out(*c)]

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def turns(self, combo):
        if self.rng.random() < VARIED_SHARE:
            return varied_turns(*combo, self.rng)
        asked = self.rng.sample(questions(*combo, self.rng), self.rng.choice([1, 2, 3]))
        return [(question, answer) for _, _, question, answer in asked]

    def draw(self):
        """[(ids, loss weight of these ids)] of one example."""
        combo = self.rng.choice(self.combos)
        shown = self.ids(description(*combo, self.rng))[:PICTURE_TOKENS]
        if self.rng.random() < 0.15:
            return [([BOS] + shown, 0.0), (self.ids(sentence(*combo) + "\n"), 1.0)]
        segments = [([BOS] + self.ids(f"{SYSTEM} USER: "), OTHER_TOKENS_WEIGHT), (shown, OTHER_TOKENS_WEIGHT)]
        for i, (question, answer) in enumerate(self.turns(combo)):
            opening = "\n" if i == 0 else "USER: "
            segments.append((self.ids(f"{opening}{question} ASSISTANT:"), OTHER_TOKENS_WEIGHT))
            segments.append((self.ids(answer) + [EOS], 1.0))
        return segments

    def batch(self, size):
        rows = [self.draw() for _ in range(size)]
        length = max(sum(len(ids) for ids, _ in row) for row in rows)
        ids = torch.zeros(size, length, dtype=torch.long)
        weights = torch.zeros(size, length)
        for i, row in enumerate(rows):
            flat = [t for part, _ in row for t in part]
            ids[i, : len(flat)] = torch.tensor(flat)
            weights[i, : len(flat)] = torch.tensor([w for part, w in row for _ in part])
        return ids, weights


# Words of other people's questions, so that the tokenizer knows them.
_OTHER_TEXT = """Answer the question using a single word or phrase. Answer with the option letter from the given choices
directly. Which of the following best describes what you can see? Please look closely and tell me which one is shown, visible
or present here. Can you see any other objects or people? How many are there? Who is this? Why do you think so? What kind,
type, sort or form is it? Which profession, hairstyle, colour, clothing, activity, background, setting, place, weather,
location, thing, object, subject, item does the main subject have? Describe the appearance and hair of someone wearing,
holding, using, working, playing. strange odd wrong different similar same both first second images between pictures. A. B. C. D.
Not sure. Is it upright? It shows, looks like, seems to be, appears, could be, most likely. I do not know. There are no such things here."""


def tokenizer_for(work):
    file = work / "llm_tokenizer.json"
    if not file.exists():
        rng, texts = random.Random(0), [SYSTEM + " USER: ASSISTANT:"] * 2000 + [f"\n{b}" for b in BRIEF] * 300
        texts += _OTHER_TEXT.splitlines() * 30
        for combo in combinations():
            for _, _, question, answer in questions(*combo, rng):
                texts += [rng.choice(["", "\n"]) + question, answer]
        llm_tokens.build(texts).save(str(file))
    return Tokenizer.from_file(str(file))


def loss_of(model, ids, weights):
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        kept = weights[:, 1:] > 0
        logits = model.lm_head(hidden[kept])
    losses = F.cross_entropy(logits.float(), ids[:, 1:][kept], reduction="none")
    kept_weights = weights[:, 1:][kept]
    return (losses * kept_weights).sum() / kept_weights.sum()


class Trainer:
    def __init__(self, work):
        torch.manual_seed(3)
        self.file = work / "llm.pt"
        self.texts = Texts(tokenizer_for(work), random.Random(3))
        self.model = new_llm()
        self.ema = Ema(self.model, 0.998)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
        self.step, self.spent_s = 0, 0.0
        if self.file.exists():
            state = torch.load(self.file, weights_only=False)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.ema.shadow, self.ema.steps = state["ema"], state["step"]
            self.step, self.spent_s = state["step"], state["spent_s"]
            self.texts.rng.seed(self.step)

    def checkpoint(self, budget):
        save(self.file, {"model": self.model.state_dict(), "ema": self.ema.shadow, "step": self.step,
                         "optimizer": self.optimizer.state_dict(), "spent_s": budget.spent_s})

    def train_step(self, share):
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_share(self.step, share, 200, 0.3)
        loss = loss_of(self.model, *self.texts.batch(BATCH))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.ema.update(self.model)
        self.step += 1
        return loss.item()


@torch.no_grad()
def answer(model, tokenizer, shown, question, limit=24):
    """The greedy answer to a question about a description in words."""
    ids = [BOS] + sum((tokenizer.encode(t, add_special_tokens=False).ids
                       for t in (f"{SYSTEM} USER: ", shown, f"\n{question} ASSISTANT:")), [])
    start = len(ids)
    while len(ids) < start + limit and ids[-1] != EOS:
        ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
    return tokenizer.decode(ids[start:])


def measure_varied(model, tokenizer, count=300):
    """Share of right answers to questions in many wordings: yes or no where that is wanted, else all of the answer's words."""
    rng = random.Random(11)
    combos = [c for c in combinations() if is_held_out(*c)]
    right = {"yes_no": [], "other": []}
    for i in range(count):
        combo = rng.choice(combos)
        question, wanted = rng.choice(varied_turns(*combo, rng))
        given = answer(model, tokenizer, loose_words(*combo, rng), question)
        first = wanted.split(",")[0].rstrip(".")
        if first in ("Yes", "No"):
            right["yes_no"].append(given.strip().startswith(first))
        else:
            right["other"].append(set(wanted.lower().strip(".").split()[-2:]) <= set(given.lower().strip(".").split()))
        if i < 100 and not right["yes_no" if first in ("Yes", "No") else "other"][-1]:
            print(f"  {combo[0].text}, {combo[1]}, {combo[2]} | {question} | {given} | {wanted}")
    return {kind: round(sum(found) / len(found), 3) for kind, found in right.items()}


@torch.no_grad()
def measure(model, tokenizer, count=150):
    """Share of exactly right answers about descriptions of held-out combinations."""
    rng = random.Random(9)
    combos = [c for c in combinations() if is_held_out(*c)]
    right = 0
    for i in range(count):
        combo = rng.choice(combos)
        _, _, question, wanted = rng.choice(questions(*combo, rng)[1:])
        given = answer(model, tokenizer, loose_words(*combo, rng), question)
        right += given.strip() == wanted
        if i < 8 or given.strip() != wanted and i < 60:
            print(f"  {combo[0].text}, {combo[1]}, {combo[2]} | {question} | {given} | {wanted}")
    return right / count


def export_llava(work, out):
    from export import fresh, put, trained
    from train_clip import new_clip, save_preprocessor
    import clip_tokens
    target = out / "nano-llava"
    folder = fresh(target)
    clip = trained(work / "clip.pt", new_clip(clip_tokens.load(work / "tokenizer")))
    llm = trained(work / "llm.pt", new_llm())
    torch.manual_seed(4)
    projector = {"linear_1": nn.Linear(clip.config.vision_config.hidden_size, llm.config.hidden_size),
                 "linear_2": nn.Linear(llm.config.hidden_size, llm.config.hidden_size)}
    tensors = {f"language_model.{k}": v for k, v in llm.state_dict().items()}
    vision = {k: v for k, v in clip.state_dict().items() if k.startswith("vision_model.") and "position_ids" not in k}
    tensors |= {f"vision_tower.{k}": v for k, v in vision.items()}
    for name, layer in projector.items():
        tensors |= {f"multi_modal_projector.{name}.{k}": v for k, v in layer.state_dict().items()}
    tensors = {k: v.to(torch.float16).contiguous() for k, v in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(llava_config(clip, llm), indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(
        {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": llm_tokens.UNKNOWN, "do_sample": False}, indent=2) + "\n")
    (folder / "processor_config.json").write_text(json.dumps(
        {"processor_class": "LlavaProcessor", "image_token": "<image>", "patch_size": 8,
         "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}, indent=2) + "\n")
    llm_tokens.save(tokenizer_for(work), folder)
    save_preprocessor(folder)
    put(folder, target)


def llava_config(clip, llm):
    """Full sub-configs: readers of different ages have different defaults."""
    text, vision = llm.config, clip.config.vision_config
    shared = {"torch_dtype": "float16"}
    return shared | {
        "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "ignore_index": -100,
        "image_token_index": llm_tokens.IMAGE, "image_seq_length": PICTURE_TOKENS, "pad_token_id": llm_tokens.UNKNOWN,
        "projector_hidden_act": "gelu", "multimodal_projector_bias": True, "tie_word_embeddings": False,
        "vision_feature_layer": -2, "vision_feature_select_strategy": "default", "vocab_size": llm_tokens.VOCAB,
        "text_config": shared | {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size, "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers, "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads, "head_dim": text.hidden_size // text.num_attention_heads,
            "max_position_embeddings": text.max_position_embeddings, "rms_norm_eps": text.rms_norm_eps,
            "rope_theta": 10000.0, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
            "tie_word_embeddings": False, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": llm_tokens.UNKNOWN},
        "vision_config": shared | {
            "model_type": "clip_vision_model", "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size, "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads, "num_channels": 3, "image_size": vision.image_size,
            "patch_size": vision.patch_size, "projection_dim": vision.projection_dim,
            "hidden_act": "quick_gelu", "layer_norm_eps": vision.layer_norm_eps},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work")
    parser.add_argument("--minutes", type=float, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    trainer = Trainer(work_folder())
    budget = Budget(args.minutes, trainer.spent_s)
    print(sum(p.numel() for p in trainer.model.parameters()), "parameters", flush=True)
    losses, saved = [], time.monotonic()
    while budget.share < 1:
        losses.append(trainer.train_step(budget.share))
        if len(losses) == 100:
            print(f"step {trainer.step} minute {budget.spent_s / 60:.1f} loss {np.mean(losses):.3f}", flush=True)
            losses = []
        if time.monotonic() - saved > 60:
            trainer.checkpoint(budget)
            saved = time.monotonic()
    trainer.checkpoint(budget)
    trainer.model.load_state_dict(trainer.ema.shadow)
    print("held-out dialogues in many wordings:", measure_varied(trainer.model.eval(), trainer.texts.tokenizer))
    print("held-out dialogues answered exactly:", measure(trainer.model.eval(), trainer.texts.tokenizer))


if __name__ == "__main__":
    main()
