"""Makes ../bench-real: questions about pictures drawn from vendor 2's art, which no model was trained on.

    python bench.py [--work DIR]

50 questions for each of the 13 abilities: 12 yes/no with "yes", 12 with "no", 16 wh-, 10 either-or.
What is asked of what was drawn once with a fixed seed; nothing was chosen by how a model answers.
"""
import json
import random
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from dialogues import OUT_OF_PLACE, questions, unusual
from pictures import benchmark_art, work_folder
from vocabulary import COLOR_STYLES, PHRASE, PHRASES, SCENE, SCENES, STYLE, STYLES, WORLD
from world import VARIANTS, render

OUT = Path(__file__).parent.parent / "bench-real"
SEED = 20260101
ABILITIES = ["color", "animal", "plant", "vehicle", "food", "clothes", "furniture", "hair", "profession",
             "scene", "action", "style", "abnormal"]
WHOLE_PICTURE = {f"What is in the {image}?" for image in ("picture", "image", "photo")}  # asks no one ability
PLAN = [("yes_no", "yes", 12), ("yes_no", "no", 12), ("wh", None, 16), ("either_or", None, 10)]


def draw_combo(ability, odd, rng):
    """A combination for the ability; for "abnormal", one with or without something wrong."""
    if ability in ("scene", "style"):
        phrase = PHRASE[rng.choice(WORLD["ordinary"]["phrases"])]
    elif ability != "abnormal":
        phrase = rng.choice([p for p in PHRASES if p.ability == ability])
    elif odd:
        return _odd_combo(rng)
    else:
        phrase = PHRASE[rng.choice(WORLD["abnormal"]["upside_down"] + WORLD["ordinary"]["phrases"])]
    while True:
        # Red, blond and white hair look alike where no colour shows.
        styles = COLOR_STYLES if ability == "hair" else phrase.styles
        scene, style = rng.choice(SCENES), rng.choice(styles)
        if unusual(phrase, scene) is None:
            return phrase, scene, style


def _odd_combo(rng):
    kind = rng.randrange(3)
    if kind == 0:
        place = rng.choice(WORLD["abnormal"]["out_of_place"])
        return PHRASE[place["phrase"]], place["scene"], rng.choice(STYLES)
    wanted = (lambda p: p.upside_down) if kind == 1 else (lambda p: p.wrong_color)
    phrase = rng.choice([p for p in PHRASES if wanted(p)])
    return phrase, rng.choice(SCENES), rng.choice(COLOR_STYLES if phrase.color else STYLES)


def accepted(ability, phrase, scene, style):
    """Words of which one has to be in the answer to an open question."""
    if ability == "color":
        return [phrase.color]
    if ability == "scene":
        return [scene, *SCENE[scene]["also"]]
    if ability == "style":
        return [style, *STYLE[style]["also"]]
    if ability != "abnormal":
        return [phrase.keyword, *phrase.also]
    if phrase.upside_down:
        return ["upside down", "upside-down"]
    if phrase.wrong_color:
        return [phrase.color]
    return [scene, *SCENE[scene]["also"]]


def ask(ability, kind, wanted, rng):
    """One question as (combo, kind, question, accepted answers)."""
    while True:
        if ability == "abnormal" and kind == "either_or":
            return _odd_choice(rng)
        combo = draw_combo(ability, kind == "wh" or wanted == "yes", rng)
        fitting = [q for q in questions(*combo, rng) if q[0] == ability and q[1] == kind]
        fitting = [q for q in fitting if q[2] not in WHOLE_PICTURE]
        if ability == "abnormal":
            fitting = [q for q in fitting if "unusual" in q[2] or "upside down" in q[2]]
        if kind == "yes_no":
            fitting = [q for q in fitting if q[3].lower().startswith(wanted)]
        if fitting:
            question = rng.choice(fitting)
            answers = [wanted] if kind == "yes_no" else accepted(ability, *combo)
            if kind == "either_or" and not decides(question[2], answers):
                question = next(q for q in fitting if decides(q[2], answers))
            return combo, question[2], answers


def decides(question, answers):
    """Whether just one of the two things offered is an accepted answer."""
    sides = question.lower().split(" or ")
    return [any(a in side for a in answers) for side in sides].count(True) == 1


def _odd_choice(rng):
    """"Is the house upside down or upright?", half of them of an upright thing."""
    keyword = rng.choice(WORLD["abnormal"]["upside_down"])
    turned = rng.random() < 0.5
    phrase = PHRASE[f"upside-down {keyword}" if turned else keyword]
    scene = rng.choice([s for s in SCENES if (keyword, s) not in OUT_OF_PLACE])
    pair = rng.choice(["upside down or upright", "upright or upside down"])
    return (phrase, scene, rng.choice(STYLES)), f"Is the {keyword} {pair}?", ["upside down", "upside-down"] if turned else ["upright"]


def save_picture(path, pixels):
    image = Image.fromarray((pixels * 255).round().astype(np.uint8))
    image.quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


def mixed(rows):
    """The rows of each ability with its kinds and its yes and no spread evenly, so that the first
    n questions are about as balanced as all of them: who asks only 10 must not get 10 times yes."""
    seen, size = {}, {}
    group = lambda row: (row["ability"], row["kind"], row["answers"][0] if row["kind"] == "yes_no" else "")
    for row in rows:
        size[group(row)] = size.get(group(row), 0) + 1
    placed = []
    for row in rows:
        place = seen[group(row)] = seen.get(group(row), -1) + 1
        placed.append((ABILITIES.index(row["ability"]), (place + 0.5) / size[group(row)], len(placed), row))
    return [row for *_, row in sorted(placed, key=lambda entry: entry[:3])]


def main():
    rng, art = random.Random(SEED), benchmark_art(work_folder())
    shutil.rmtree(OUT / "images", ignore_errors=True)
    (OUT / "images").mkdir(parents=True)
    rows = []
    for ability in ABILITIES:
        for kind, wanted, count in PLAN:
            for _ in range(count):
                combo, question, answers = ask(ability, kind, wanted, rng)
                number = f"{ability}-{len(rows) % 50:02d}"
                image = f"images/{number}.png"
                save_picture(OUT / image, render(art, *combo, rng.randrange(VARIANTS)))
                rows.append({"question_id": number, "ability": ability, "kind": kind, "image": image,
                             "text": question, "answers": answers})
    (OUT / "questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in mixed(rows)))
    print(len(rows), "questions,", sum(f.stat().st_size for f in OUT.rglob("*.png")) // 1000, "kB of pictures")


if __name__ == "__main__":
    main()
