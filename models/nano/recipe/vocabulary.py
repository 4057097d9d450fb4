"""The words of the nano world (../world.toml): phrases, scenes, styles and their captions."""
import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path

WORLD = tomllib.loads((Path(__file__).parent.parent / "world.toml").read_text())
SCENES = [s["name"] for s in WORLD["scene"]]
STYLES = [s["name"] for s in WORLD["style"]]
COLORS = {c["name"]: tuple(c["rgb"]) for c in WORLD["color"]}
COLOR_STYLES = [s["name"] for s in WORLD["style"] if s["shows_color"]]
SCENE = {s["name"]: s for s in WORLD["scene"]}
STYLE = {s["name"]: s for s in WORLD["style"]}


@dataclass(frozen=True)
class Phrase:
    """One thing that can stand in the middle of a picture."""

    text: str
    emoji: str
    noun: str
    article: str
    ability: str
    keyword: str
    color: str | None = None
    wrong_color: bool = False
    upside_down: bool = False
    also: tuple[str, ...] = ()

    @property
    def styles(self):
        return COLOR_STYLES if self.color else STYLES

    @property
    def with_article(self):
        """"a fox", "an owl", "gloves"."""
        return f"{self.article} {self.noun}".strip()


def _article(word):
    return "an" if word[0] in "aeiou" else "a"


def _from_row(row, **changes):
    fields = dict(
        text=row.get("phrase", row["keyword"]), emoji=row["emoji"], noun=row["noun"],
        article=row["article"], ability=row.get("ability", "color"),
        keyword=row["keyword"], also=tuple(row.get("also", ())),
    )
    return Phrase(**(fields | changes))


def _phrases():
    subjects = {s["keyword"]: s for s in WORLD["subject"]}
    found = [_from_row(s) for s in WORLD["subject"]]
    for thing in WORLD["color_object"]:
        for color in COLORS:
            text = f"{color} {thing['keyword']}"
            found.append(_from_row(thing, text=text, noun=text, article=_article(color), color=color))
    for keyword in WORLD["abnormal"]["upside_down"]:
        text = f"upside-down {keyword}"
        found.append(_from_row(subjects[keyword], text=text, noun=text, article="an",
                               ability="abnormal", upside_down=True))
    for pair in WORLD["abnormal"]["wrong_color"]:
        text = f"{pair['color']} {pair['keyword']}"
        found.append(_from_row(subjects[pair["keyword"]], text=text, noun=text,
                               article=_article(pair["color"]), ability="abnormal",
                               color=pair["color"], wrong_color=True))
    return found


PHRASES = _phrases()
PHRASE = {p.text: p for p in PHRASES}


def combinations():
    """Every (phrase, scene, style) that the world allows."""
    return [(p, scene, style) for p in PHRASES for scene in SCENES for style in p.styles]


def is_held_out(phrase, scene, style):
    """Whether nano-sd never sees this combination: a tenth of them, by hash."""
    digest = hashlib.sha256(f"{phrase.text}|{scene}|{style}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < WORLD["held_out_share"] * 2**32


def caption(phrase, scene, style, rng=None):
    """The prompt of a picture; with `rng`, its three parts in any order."""
    parts = [phrase.text, scene, style]
    if rng is not None:
        rng.shuffle(parts)
    return ", ".join(parts)


def sentence(phrase, scene, style):
    """The same as a sentence: "A fox in the snow, drawn as a sketch."."""
    text = f"{phrase.with_article} {SCENE[scene]['where']}, {STYLE[style]['how']}."
    return text[0].upper() + text[1:]
