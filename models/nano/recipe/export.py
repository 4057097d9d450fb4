"""Writes the trained models in the published layouts, f16 safetensors.

    python export.py --out DIR [--only nano-sd,nano-clip,nano-llava]

Each folder is written beside its target and renamed, so that a reader never sees half of one.
"""
import argparse
import json
import os
import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

import clip_tokens
import train_sd
import train_vae
from pictures import work_folder


def put(folder: Path, target: Path):
    """Replaces `target` by `folder`; a model card that lies in the target stays."""
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        for kept in ("README.md",):
            if (target / kept).exists():
                shutil.copy(target / kept, folder / kept)
        os.rename(target, old)
    os.rename(folder, target)
    shutil.rmtree(old, ignore_errors=True)


def fresh(target: Path):
    folder = target.with_name(target.name + ".part")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def rename_tensors(path: Path, rename):
    """Rewrites a safetensors file with `rename(key)` as keys, in f16, with the pt mark."""
    tensors = {rename(k): v.to(torch.float16) if v.is_floating_point() else v for k, v in load_file(path).items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"})


def edit_json(path: Path, **changes):
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in settings.items() if v is not ...}, indent=2) + "\n")


def save_clip_tokenizer(work: Path, folder: Path):
    """All the files that readers of different ages look for."""
    tokenizer = clip_tokens.load(work / "tokenizer")
    tokenizer.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(work / "tokenizer" / name, folder / name)
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    edit_json(folder / "tokenizer_config.json", is_local=..., local_files_only=...)
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def trained(path: Path, module, prefix=""):
    """Loads a checkpoint's moving average into a module, for the tensors under `prefix`."""
    shadow = torch.load(path, weights_only=False)["ema"]
    module.load_state_dict({k.removeprefix(prefix): v for k, v in shadow.items() if k.startswith(prefix)})
    return module.eval()


def pipeline(work: Path):
    """nano-sd as a diffusers pipeline, f32, from the checkpoints of the work folder."""
    tokenizer = clip_tokens.load(work / "tokenizer")
    vae = train_vae.new_vae()
    for part, module in (("decoder", train_vae.Decoder(vae)), ("encoder", train_vae.Encoder(vae))):
        if (work / f"vae_{part}.pt").exists():
            trained(work / f"vae_{part}.pt", module)
    unet = trained(work / "sd.pt", train_sd.new_unet(), "unet.")
    text = trained(work / "sd.pt", train_sd.new_text_encoder(tokenizer), "text.")
    return StableDiffusionPipeline(
        vae=vae.eval(), text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=train_sd.scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def export_sd(work: Path, out: Path):
    target = out / "nano-sd"
    folder = fresh(target)
    pipeline(work).to(torch.float16).save_pretrained(folder)
    save_clip_tokenizer(work, folder / "tokenizer")
    rename_tensors(folder / "text_encoder/model.safetensors",
                   lambda k: k if k.startswith("text_model.") else f"text_model.{k}")
    put(folder, target)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="nano-sd,nano-clip,nano-llava")
    args = parser.parse_args()
    work = work_folder()
    for name in args.only.split(","):
        if name == "nano-sd":
            export_sd(work, args.out)
        elif name == "nano-clip":
            from train_clip import export_clip
            export_clip(work, args.out)
        else:
            from train_llava import export_llava
            export_llava(work, args.out)


if __name__ == "__main__":
    main()
