"""Times our diffusion model against diffusers on true Stable Diffusion 1.5 shapes, in turns.

    python diffusion.py --worker PROGRAM [--checkpoint DIR] [--rounds 3] [--out bench.json]

Weights are random: time does not depend on them. Each round asks both sides for every task, the one after the
other and never at once; what is printed is the ratio of the medians and the range of the ratios by round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

THREADS = "2"
# (name, task, what DESIGN §9 asks for)
TASKS = [
    ("UNet step, 256 px, guidance (batch 2)", "unet 32 2", 0.9),
    ("VAE decode, 256 px", "vae 32 1", 0.9),
]
# Four pictures in one batch, as the service makes them, against one after the other: both ours.
TOGETHER, ALONE, PICTURES = "unet 32 8", "unet 32 2", 4
OPS = [
    "conv3x3-320-320-32-2", "conv3x3-640-640-16-2", "conv3x3-1280-1280-8-2", "conv3x3-2560-1280-8-2",
    "conv3x3-128-128-256-1", "conv3x3-256-256-128-1", "conv3x3-512-512-64-1",
    "linear-2048-320-2560", "linear-2048-1280-320", "linear-512-640-5120", "linear-128-1280-10240",
    "attention-2-1024-320-8", "attention-2-256-640-8", "attention-1-1024-512-1",
    "geglu-2048-1280", "group_norm_silu-320-32-2", "group_norm_silu-128-256-1", "layer_norm-2048-320",
]


class Side:
    """A process that answers tasks with seconds."""

    def __init__(self, command, env):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.ready = self.read()["ready"]

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args[0]} ended with {self.process.wait()}")
        return json.loads(line)

    def ask(self, task):
        self.process.stdin.write(task + "\n")
        self.process.stdin.flush()
        answer = self.read()
        return answer.get("seconds", answer.get("bytes"))


def make_checkpoint(folder):
    """UNet and autoencoder of Stable Diffusion 1.5 with random weights, 3.8 GB."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    UNet2DConditionModel(sample_size=64, cross_attention_dim=768).save_pretrained(folder / "unet")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512,
    ).save_pretrained(folder / "vae")


def compare(name, ours, peer):
    ratios = [a / b for a, b in zip(ours, peer)]
    return {
        "name": name,
        "ours_s": statistics.median(ours),
        "peer_s": statistics.median(peer),
        "ratio": statistics.median(ours) / statistics.median(peer),
        "ratio_by_round": ratios,
    }


def compare_company(worker, rounds):
    """A batch against single requests, in turns."""
    together, alone = [], []
    for _ in range(rounds):
        together.append(worker.ask(TOGETHER))
        alone.append(sum(worker.ask(ALONE) for _ in range(PICTURES)))
    ratios = [a / b for a, b in zip(together, alone)]
    row = {"name": f"batch of {PICTURES} against {PICTURES} single requests, both ours",
           "together_s": statistics.median(together), "alone_s": statistics.median(alone), "ratio_by_round": ratios}
    return row | {"ratio": row["together_s"] / row["alone_s"]}


def show_company(row):
    low, high = min(row["ratio_by_round"]), max(row["ratio_by_round"])
    print(f"\n{row['name']}: {row['together_s']:.2f} s, {row['alone_s']:.2f} s, ratio {row['ratio']:.2f} ({low:.2f}–{high:.2f})")


def show(row, bound=None):
    low, high = min(row["ratio_by_round"]), max(row["ratio_by_round"])
    aim = "" if bound is None else f"{bound}"
    print(f"| {row['name']} | {row['ours_s']:.4f} | {row['peer_s']:.4f} | {row['ratio']:.2f} ({low:.2f}–{high:.2f}) | {aim} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", required=True, help="the example bench_worker, built")
    parser.add_argument("--checkpoint", type=Path, help="folder with unet/ and vae/; made with random weights when absent")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="f32", choices=["f32", "bf16"], help="of both UNets")
    parser.add_argument("--tasks", default="unet,vae,op", help="which kinds of tasks")
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    args = parser.parse_args()
    kinds = args.tasks.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = args.checkpoint or Path(scratch)
        if not (checkpoint / "unet").is_dir():
            make_checkpoint(checkpoint)
        env = os.environ | {"OMP_NUM_THREADS": THREADS, "RAYON_NUM_THREADS": THREADS}
        ours = Side([args.worker, str(checkpoint), args.precision], env)
        peer = Side([sys.executable, str(Path(__file__).with_name("peer.py")), str(checkpoint), args.precision], env)
        tasks = [(name, task, bound) for name, task, bound in TASKS if task.split()[0] in kinds]
        tasks += [(name, f"op {name}", None) for name in OPS if "op" in kinds]
        seconds = {task: ([], []) for _, task, _ in tasks}
        for side in (ours, peer):
            for _, task, _ in tasks:
                side.ask(task)  # warm-up, not counted
        for _ in range(args.rounds):
            for _, task, _ in tasks:
                for side, times in zip((ours, peer), seconds[task]):
                    times.append(side.ask(task))
        print(f"UNet in {args.precision}; ours: {ours.ready}; peer: {peer.ready}; {args.rounds} rounds in turns, {THREADS} threads\n")
        print("| task | ours, s | diffusers, s | ratio (range) | at most |\n|---|---|---|---|---|")
        rows = []
        for name, task, bound in tasks:
            rows.append(compare(name, *seconds[task]) | {"at_most": bound})
            show(rows[-1], bound)
        memory = [side.ask("peak") for side in (ours, peer)]
        print(f"| peak memory, MiB | {memory[0] / 2**20:.0f} | {memory[1] / 2**20:.0f} | {memory[0] / memory[1]:.2f} | 1.0 |")
        together = compare_company(ours, args.rounds) if "unet" in kinds else None
        if together:
            show_company(together)
        peak = {"ours_bytes": memory[0], "peer_bytes": memory[1], "ratio": memory[0] / memory[1], "at_most": 1.0}
        args.out.write_text(json.dumps({"precision": args.precision, "ours": ours.ready, "peer": peer.ready, "tasks": rows, "peak": peak, "batch": together}, indent=1) + "\n")


if __name__ == "__main__":
    main()
