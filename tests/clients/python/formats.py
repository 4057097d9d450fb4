#!/usr/bin/env python3
"""Loads every export with the library that it is meant for, and compares it with what went in.

Usage: formats.py PATH-OF-DIPTYCH

Draws a few pictures, writes them as LLaVA's JSON, makes a dataset of it with `diptych import`,
exports that in all five formats, and reads each: `datasets`, `webdataset`, `pyarrow`, and LLaVA's
JSON the way its training code opens it. Counts, bytes of the pictures and turns must agree. Prints
a line per check and `N passed, N failed` last. Needs datasets, webdataset and pillow.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here is fetched

import pyarrow.parquet
import webdataset
from datasets import load_dataset
from PIL import Image

COUNT = 150
MAX_FILE_MIB = 1
passed = failed = 0


def check(holds, sentence):
    global passed, failed
    print(f"{'ok    ' if holds else 'FAILED'} {sentence}", flush=True)
    passed, failed = passed + bool(holds), failed + (not holds)


def main():
    diptych = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        expected = write_source(folder / "source")
        run(diptych, "import", "--format", "llava", "--in", folder / "source/data.json", "--out", folder / "dataset")
        exports = {}
        for name in ("llava", "sharegpt", "messages", "webdataset", "hf"):
            exports[name] = folder / name
            size = ("--max-file-mib", MAX_FILE_MIB)
            said = run(diptych, "export", folder / "dataset", "--format", name, "--out", exports[name], *size)
            check((said["samples"], said["images"]) == (COUNT, COUNT + COUNT // 10), f"{name}: {said['samples']} samples, {said['images']} pictures")
        os.environ["HF_HOME"] = str(folder / "cache")
        for name, read in (("llava", read_llava), ("sharegpt", read_sharegpt), ("messages", read_messages),
                           ("webdataset", read_webdataset), ("hf", read_datasets), ("hf", read_pyarrow)):
            found = sorted(read(exports[name]))
            check(found == expected, f"{read.__name__[5:]}: {len(found)} samples with the pictures and turns that went in")
        check_stability(diptych, folder)
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 and passed else 1


def run(diptych, *arguments):
    done = subprocess.run([diptych, *map(str, arguments), "--json"], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def write_source(folder):
    """LLaVA's JSON with its pictures; gives the samples as (hashes of pictures, turns)."""
    (folder / "images").mkdir(parents=True)
    records, expected = [], []
    for number in range(COUNT):
        names = [f"{number}.{'jpg' if number % 3 == 0 else 'png'}"]
        if number % 10 == 0:
            names.append(f"{number}-b.png")
        hashes = []
        for place, name in enumerate(names):
            picture = Image.effect_noise((96, 80), 60 + number + place).convert("RGB")
            picture.save(folder / "images" / name)
            hashes.append(sha256((folder / "images" / name).read_bytes()))
        turns = [f"What is {number}?", f"It is “{number}”, 狐.", "Sure?", f"Yes, \"{number}\"."]
        marked = ["<image>\n" * len(names) + turns[0], *turns[1:]]
        talk = [{"from": ("human", "gpt")[place % 2], "value": words} for place, words in enumerate(marked)]
        records.append({"id": str(number), "image": names[0] if len(names) == 1 else names, "conversations": talk})
        expected.append((hashes, turns))
    (folder / "data.json").write_text(json.dumps(records))
    return sorted(expected)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def opened(path):
    """A file's hash, once the picture in it could be decoded."""
    Image.open(path).convert("RGB")
    return sha256(Path(path).read_bytes())


def unmarked(turns):
    return [turn["value"].replace("<image>", "").strip() for turn in turns]


def read_llava(folder):
    """As `LazySupervisedDataset` of llava/train/train.py: json.load, and Image.open under the folder."""
    for record in json.load(open(folder / "data.json", "r")):
        names = record["image"] if isinstance(record["image"], list) else [record["image"]]
        marks = sum(turn["value"].count("<image>") for turn in record["conversations"])
        assert marks == len(names), record["id"]
        yield [opened(folder / "images" / name) for name in names], unmarked(record["conversations"])


def read_sharegpt(folder):
    for row in load_dataset("json", data_files=str(folder / "data.jsonl"), split="train"):
        marks = sum(turn["value"].count("<image>") for turn in row["conversations"])
        assert marks == len(row["images"]), row["id"]
        yield [opened(folder / path) for path in row["images"]], unmarked(row["conversations"])


def read_messages(folder):
    for row in load_dataset("json", data_files=str(folder / "data.jsonl"), split="train"):
        parts = [part for message in row["messages"] for part in message["content"]]
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 2
        images = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        yield [opened(folder / path) for path in images], [part["text"] for part in parts if part["type"] == "text"]


def read_webdataset(folder):
    shards = sorted(str(path) for path in folder.glob("train-*.tar"))
    check(len(shards) > 1, f"webdataset: {len(shards)} shards")
    check(all(os.path.getsize(path) < (MAX_FILE_MIB + 1) << 20 for path in shards), "webdataset: none is over its bound")
    raw = {sample["__key__"]: sample for sample in webdataset.WebDataset(shards, shardshuffle=False)}
    for sample in webdataset.WebDataset(shards, shardshuffle=False).decode("pil"):
        names = sorted(name for name in sample if name.endswith(("png", "jpg")))
        assert all(sample[name].size == (96, 80) for name in names)
        hashes = [sha256(raw[sample["__key__"]][name]) for name in names]
        yield hashes, [turn["text"] for turn in sample["json"]["conversation"]]


def read_datasets(folder):
    data = load_dataset(str(folder), split="train")
    check("Image(" in str(data.features["images"]), f"datasets: images are {data.features['images']}")
    check(all(picture.size == (96, 80) for row in data for picture in row["images"]), "datasets: every picture is decoded")
    yield from rows(folder)


def rows(folder):
    from datasets import Image as Feature, List
    data = load_dataset(str(folder), split="train").cast_column("images", List(Feature(decode=False)))
    for row in data:
        yield [sha256(image["bytes"]) for image in row["images"]], [turn["text"] for turn in row["conversation"]]


def read_pyarrow(folder):
    files = sorted((folder / "data").glob("*.parquet"))
    check(len(files) > 1 and files[0].name == f"train-00000-of-{len(files):05}.parquet", f"pyarrow: {len(files)} files")
    for file in files:
        for row in pyarrow.parquet.read_table(file).to_pylist():
            for image in row["images"]:
                Image.open(io.BytesIO(image["bytes"])).load()
            yield [sha256(image["bytes"]) for image in row["images"]], [turn["text"] for turn in row["conversation"]]


def check_stability(diptych, folder):
    """A LLaVA export that is imported again is the same samples, and a full target is refused by name."""
    run(diptych, "import", "--format", "llava", "--in", folder / "llava", "--out", folder / "again")
    run(diptych, "export", folder / "again", "--format", "llava", "--out", folder / "llava-again")
    same = sorted(read_llava(folder / "llava-again")) == sorted(read_llava(folder / "llava"))
    check(same, "an export that is imported and exported again holds the same")
    command = [diptych, "export", folder / "dataset", "--format", "hf", "--out", folder / "hf"]
    refused = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    check(refused.returncode == 2 and f"{folder / 'hf'} is not empty" in refused.stderr, f"refused: {refused.stderr.strip()}")


if __name__ == "__main__":
    sys.exit(main())
