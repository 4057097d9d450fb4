"""Trains nano-clip: a CLIP of 1.6 million parameters for the pictures and words of the world.

    python train_clip.py --minutes 20

Symmetric contrastive loss in which every true caption of a picture counts, not only its own: "fox"
is true of every fox in the batch. A second loss, whose heads are thrown away, asks the mean of the
patch states that LLaVA will read (the last layer but one) for phrase, keyword, scene and style: that
teaches a small tower to see in a tenth of the time. Vendor 1's art only.
"""
import argparse
import json
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

import clip_tokens
from augment import jiggle
from checkpoints import Budget, Ema, learning_rate_share, save
from pictures import Pictures, work_folder
from vocabulary import PHRASES, SCENE, SCENES, STYLE, STYLES

BATCH = 64
LEARNING_RATE = 1.5e-3
HEADS_WEIGHT = 0.5
MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
# Captions in training are short; shorter padding is the same to a causal text model read at its end.
SHORT = 24


def new_clip(tokenizer):
    both = dict(hidden_size=128, intermediate_size=512, num_attention_heads=4, projection_dim=128)
    special = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    text = dict(both, vocab_size=len(tokenizer), num_hidden_layers=2, max_position_embeddings=clip_tokens.LENGTH, **special)
    vision = dict(both, image_size=64, patch_size=8, num_hidden_layers=5, num_channels=3)
    # Plain attention: PyTorch's fused one has a slow backward on a CPU.
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128, attn_implementation="eager"))


def normalised(images):
    """-1..1 -> what CLIP's image processor makes of the same picture."""
    mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in (MEAN, STD))
    return (images / 2 + 0.5 - mean) / std


class Captions:
    """Random true captions, as text and as a test of which pictures they are true of."""

    def __init__(self, rng):
        self.rng = rng
        self.keywords = {k: i for i, k in enumerate(sorted({p.keyword for p in PHRASES}))}
        self.number = {p.text: i for i, p in enumerate(PHRASES)}

    def facts(self, combos):
        """[N, 4]: phrase, keyword, scene, style as numbers."""
        rows = [(self.number[p.text], self.keywords[p.keyword], SCENES.index(s), STYLES.index(t)) for p, s, t in combos]
        return torch.tensor(rows)

    def draw(self, phrase, scene, style):
        """A caption and its mask over (phrase, keyword, scene, style): what it claims."""
        mask = np.array([1, 0, self.rng.random() < 0.8, self.rng.random() < 0.7])
        if self.rng.random() < 0.12:
            mask = np.array([0, 0, 1, 1])
        elif self.rng.random() < 0.12 and phrase.keyword == phrase.noun:
            mask[:2] = 0, 1
        if self.rng.random() < 0.5:
            parts = [t for t, m in zip((phrase.text, phrase.keyword, scene, style), mask) if m]
            self.rng.shuffle(parts)
            return ", ".join(parts), mask
        subject = phrase.with_article if mask[0] else phrase.keyword if mask[1] else "a picture"
        words = [subject, SCENE[scene]["where"] if mask[2] else "", STYLE[style]["how"] if mask[3] else ""]
        text = " ".join(w for w in words if w)
        return ("a picture of " + text if mask[0] and self.rng.random() < 0.3 else text), mask


def truth(facts, masks):
    """[captions, pictures]: 1 where everything the caption claims is so."""
    same = facts[:, None] == facts[None]
    return (same | ~masks[:, None].bool()).all(-1).float()


def contrastive_loss(logits, match):
    """`logits` [captions, pictures]; targets are spread evenly over what matches."""
    by_text = -(match / match.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    by_picture = -(match / match.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (by_text + by_picture) / 2


class Trainer:
    def __init__(self, work):
        torch.manual_seed(2)
        self.file, self.rng = work / "clip.pt", np.random.default_rng(2)
        self.pictures = Pictures(work)
        self.seen = np.flatnonzero(~self.pictures.held_out)
        self.tokenizer = clip_tokens.load(work / "tokenizer")
        self.captions = Captions(self.rng)
        self.model = new_clip(self.tokenizer)
        self.ema = Ema(self.model, 0.998)
        counts = (len(PHRASES), len(self.captions.keywords), len(SCENES), len(STYLES))
        self.heads = nn.ModuleList(nn.Sequential(nn.LayerNorm(128), nn.Linear(128, n)) for n in counts)
        parameters = [*self.model.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05)
        self.step, self.spent_s = 0, 0.0
        if self.file.exists():
            state = torch.load(self.file, weights_only=False)
            self.model.load_state_dict(state["model"])
            self.heads.load_state_dict(state["heads"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.ema.shadow, self.ema.steps = state["ema"], state["step"]
            self.step, self.spent_s = state["step"], state["spent_s"]
            self._seed()

    def _seed(self):
        """Random numbers from here on after a restart: others than those of the first steps."""
        self.rng = self.captions.rng = np.random.default_rng([2, self.step])
        torch.manual_seed(2 + self.step * 64)

    def checkpoint(self, budget):
        save(self.file, {"model": self.model.state_dict(), "heads": self.heads.state_dict(), "ema": self.ema.shadow, "step": self.step,
                         "optimizer": self.optimizer.state_dict(), "spent_s": budget.spent_s})

    def tokens(self, texts):
        return self.tokenizer(texts, padding="max_length", max_length=SHORT, truncation=True, return_tensors="pt")["input_ids"]

    def train_step(self, share):
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_share(self.step, share, 200, 0.3)
        rows = self.rng.choice(self.seen, BATCH)
        combos = [self.pictures.combos[i] for i in rows]
        texts, masks = zip(*(self.captions.draw(*c) for c in combos))
        images = normalised(jiggle(self.pictures.batch(rows), scale=0.12, shift=0.1, turn=0.1, blur=0.4))
        facts = self.captions.facts(combos)
        with torch.autocast("cpu", torch.bfloat16):
            seen = self.model(input_ids=self.tokens(list(texts)), pixel_values=images, output_hidden_states=True)
            patches = seen.vision_model_output.hidden_states[-2][:, 1:].mean(1)
            guesses = [head(patches).float() for head in self.heads]
        loss = contrastive_loss(seen.logits_per_text.float(), truth(facts, torch.tensor(np.array(masks))))
        loss = loss + HEADS_WEIGHT * sum(F.cross_entropy(g, facts[:, i]) for i, g in enumerate(guesses))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=np.log(100))
        self.ema.update(self.model)
        self.step += 1
        return loss.item()


@torch.no_grad()
def zero_shot(model, tokenizer, images, truths, texts):
    """Accuracy of choosing the right one of `texts` for each picture."""
    ids = tokenizer(texts, padding="max_length", max_length=clip_tokens.LENGTH, return_tensors="pt")["input_ids"]
    text = model.text_projection(model.text_model(ids).pooler_output)
    found = []
    for chunk in normalised(images).split(128):
        image = model.visual_projection(model.vision_model(chunk).pooler_output)
        found.append((F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T).argmax(1))
    return (torch.cat(found) == truths).float().mean().item()


def measure(model, tokenizer, images, combos):
    phrases = [p.text for p in PHRASES]
    parts = {"subject": (phrases, [phrases.index(p.text) for p, _, _ in combos]),
             "scene": (SCENES, [SCENES.index(s) for _, s, _ in combos]),
             "style": (STYLES, [STYLES.index(t) for _, _, t in combos])}
    return {k: zero_shot(model, tokenizer, images, torch.tensor(n), texts) for k, (texts, n) in parts.items()}


def export_clip(work, out):
    from export import edit_json, fresh, put, rename_tensors, save_clip_tokenizer, trained
    target = out / "nano-clip"
    folder = fresh(target)
    model = trained(work / "clip.pt", new_clip(clip_tokens.load(work / "tokenizer")))
    model.to(torch.float16).save_pretrained(folder)
    rename_tensors(folder / "model.safetensors", lambda key: key)
    edit_json(folder / "config.json", torch_dtype="float16", dtype=...)
    save_clip_tokenizer(work, folder)
    save_preprocessor(folder)
    put(folder, target)


def save_preprocessor(folder):
    settings = {
        "image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True, "do_resize": True,
        "size": {"shortest_edge": 64}, "resample": 3, "do_center_crop": True,
        "crop_size": {"height": 64, "width": 64}, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")


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
        if len(losses) == 50:
            print(f"step {trainer.step} minute {budget.spent_s / 60:.1f} loss {np.mean(losses):.3f}", flush=True)
            losses = []
        if time.monotonic() - saved > 60:
            trainer.checkpoint(budget)
            saved = time.monotonic()
    trainer.checkpoint(budget)
    model = new_clip(trainer.tokenizer)
    model.load_state_dict(trainer.ema.shadow)
    rows = np.flatnonzero(trainer.pictures.held_out)
    combos = [trainer.pictures.combos[i] for i in rows]
    print("held out", measure(model.eval(), trainer.tokenizer, trainer.pictures.batch(rows), combos), flush=True)


if __name__ == "__main__":
    main()
