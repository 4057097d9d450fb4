"""Makes ../base: brief captions of composed pictures, the data that every nano-llava starts with.

    python base_data.py [--work DIR]

LLaVA's pretraining form. 13 abilities x 160 pictures of vendor 1's art; no combination is shown that
was held out from nano-sd.
"""
import json
import random
import shutil
from pathlib import Path

from bench import ABILITIES, draw_combo, save_picture
from dialogues import BRIEF
from pictures import generator_art, work_folder
from vocabulary import is_held_out, sentence
from world import VARIANTS, render

OUT = Path(__file__).parent.parent / "base"
SEED = 7
PER_ABILITY = 160


def main():
    rng, art = random.Random(SEED), generator_art(work_folder())
    shutil.rmtree(OUT / "images", ignore_errors=True)
    (OUT / "images").mkdir(parents=True)
    rows = []
    for ability in ABILITIES:
        for i in range(PER_ABILITY):
            combo = draw_combo(ability, i % 4 != 0, rng)
            while is_held_out(*combo):
                combo = draw_combo(ability, i % 4 != 0, rng)
            number = f"{ability}-{i:03d}"
            save_picture(OUT / "images" / f"{number}.png", render(art, *combo, rng.randrange(VARIANTS)))
            request = rng.choice(BRIEF)
            request = f"{request}\n<image>" if rng.random() < 0.5 else f"<image>\n{request}"
            rows.append({"id": number, "image": f"{number}.png", "conversations": [
                {"from": "human", "value": request}, {"from": "gpt", "value": sentence(*combo)}]})
    rng.shuffle(rows)
    (OUT / "data.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(len(rows), "captions,", sum(f.stat().st_size for f in OUT.rglob("*.png")) // 1000, "kB of pictures")


if __name__ == "__main__":
    main()
