"""Questions and answers about a picture of the world, from what it shows.

`questions(phrase, scene, style, rng)` gives (ability, kind, question, answer) tuples for everything
that can be asked; kinds are "brief", "yes_no", "wh" and "either_or".
"""
from vocabulary import COLORS, PHRASES, SCENE, SCENES, STYLE, STYLES, WORLD, sentence

BRIEF = [  # LLaVA's requests for a short description
    "Describe the image concisely.", "Provide a brief description of the given image.",
    "Offer a succinct explanation of the picture presented.", "Summarize the visual content of the image.",
    "Give a short and clear explanation of the subsequent image.",
    "Share a concise interpretation of the image provided.",
    "Present a compact description of the photo's key features.",
    "Relay a brief, clear account of the picture shown.",
    "Render a clear and concise summary of the photo.", "Write a terse but informative summary of the picture.",
    "Create a compact narrative representing the image presented.",
]
_WHAT = {  # ability: (question, answer)
    "animal": ("What animal is in the {image}?", "The animal is {a}."),
    "plant": ("What plant is in the {image}?", "The plant is {a}."),
    "vehicle": ("What vehicle is in the {image}?", "The vehicle is {a}."),
    "food": ("What food is in the {image}?", "The food is {a}."),
    "clothes": ("What piece of clothing is in the {image}?", "The piece of clothing is {a}."),
    "furniture": ("What piece of furniture is in the {image}?", "The piece of furniture is {a}."),
    "hair": ("What hair does the person have?", "The person has {has}."),
    "profession": ("What is the person's job?", "The person is {a}."),
    "action": ("What is the person doing?", "The person is {keyword}."),
}
_IMAGE = ["picture", "image", "photo"]
OUT_OF_PLACE = {(p["phrase"], p["scene"]) for p in WORLD["abnormal"]["out_of_place"]}
_OTHERS = {a: [p for p in PHRASES if p.ability == a] for a in {p.ability for p in PHRASES}}


def unusual(phrase, scene):
    """What is wrong with the picture, as a sentence, or None."""
    if phrase.upside_down:
        return f"The {phrase.keyword} is upside down."
    if phrase.wrong_color:
        return f"The {phrase.keyword} is {phrase.color}."
    if (phrase.text, scene) in OUT_OF_PLACE:
        return f"{_the(phrase)} is {SCENE[scene]['where']}."
    return None


def _the(phrase):
    return f"The {phrase.keyword if phrase.color or phrase.upside_down else phrase.noun}"


def _is(phrase):
    return "are" if phrase.keyword in ("gloves", "socks", "jeans", "grapes") else "is"


def has(phrase):
    """What a person of ability "hair" has: "red hair", "a beard"."""
    return phrase.noun.removeprefix("person with ")


def _predicate(phrase):
    """What is said of the subject after "it is": its ability decides."""
    return {"hair": f"a person with {has(phrase)}", "action": phrase.keyword}.get(phrase.ability, phrase.with_article)


def another(items, item, rng):
    return rng.choice([i for i in items if i != item])


def questions(phrase, scene, style, rng):
    image = rng.choice(_IMAGE)
    found = [("", "brief", rng.choice(BRIEF), sentence(phrase, scene, style))]
    found += _about_subject(phrase, rng, image)
    if phrase.color:
        found += _about_color(phrase, rng)
    found += _about_scene(phrase, scene, rng, image) + _about_style(style, rng, image)
    return found + _about_oddness(phrase, scene, rng, image)


def _about_subject(phrase, rng, image):
    ability = phrase.ability
    pool = _OTHERS[ability] if len(_OTHERS[ability]) > 1 else _OTHERS["furniture"]
    other = another([p for p in pool if p.keyword != phrase.keyword], phrase, rng)
    found = []
    if ability in _WHAT:
        question, answer = _WHAT[ability]
        words = dict(image=image, a=phrase.with_article, has=has(phrase), keyword=phrase.keyword)
        found.append((ability, "wh", question.format(**words), answer.format(**words)))
    name = {"hair": has, "action": lambda p: p.keyword}.get(ability)
    ask, verb = ("Does the person have {}?", "has") if ability == "hair" else ("Is the person {}?", "is")
    if name is None and ability == "profession":
        name = lambda p: p.with_article
    if name:
        found += [
            (ability, "yes_no", ask.format(name(phrase)), f"Yes, the person {verb} {name(phrase)}."),
            (ability, "yes_no", ask.format(name(other)), f"No, the person {verb} {name(phrase)}."),
            (ability, "either_or", ask.format(" or ".join(_shuffled([name(phrase), name(other)], rng))),
             f"The person {verb} {name(phrase)}."),
        ]
    there = lambda p: f"{'Are' if _is(p) == 'are' else 'Is'} there {p.with_article} in the {image}?"
    found += [
        (ability, "yes_no", there(phrase), f"Yes, there {_is(phrase)} {phrase.with_article}."),
        (ability, "yes_no", there(other), f"No, there {_is(other)} no {other.noun}."),
    ]
    if not name:
        pair = " or ".join(_shuffled([phrase.with_article, other.with_article], rng))
        found.append((ability, "either_or", f"Is it {pair}?", f"It is {phrase.with_article}."))
    found.append((ability, "wh", f"What is in the {image}?", f"There {_is(phrase)} {phrase.with_article}."))
    return found


def _shuffled(items, rng):
    rng.shuffle(items)
    return items


def _about_color(phrase, rng):
    other = another(list(COLORS), phrase.color, rng)
    thing, color = phrase.keyword, phrase.color
    pair = " or ".join(_shuffled([color, other], rng))
    return [
        ("color", "wh", f"What color is the {thing}?", f"The {thing} is {color}."),
        ("color", "yes_no", f"Is the {thing} {color}?", f"Yes, the {thing} is {color}."),
        ("color", "yes_no", f"Is the {thing} {other}?", f"No, the {thing} is {color}."),
        ("color", "either_or", f"Is the {thing} {pair}?", f"The {thing} is {color}."),
    ]


def _about_scene(phrase, scene, rng, image):
    other = another(SCENES, scene, rng)
    the, verb, here = _the(phrase), _is(phrase), SCENE[scene]
    pair = " or ".join(_shuffled([here["where"], SCENE[other]["where"]], rng))
    return [
        ("scene", "wh", f"Where {verb} {the.lower()}?", f"{the} {verb} {here['where']}."),
        ("scene", "wh", f"What is the scene of the {image}?", f"The scene is {here['noun']}."),
        ("scene", "wh", f"What is in the background of the {image}?", f"The background is {here['noun']}."),
        ("scene", "yes_no", f"{verb.capitalize()} {the.lower()} {here['where']}?", f"Yes, {the.lower()} {verb} {here['where']}."),
        ("scene", "yes_no", f"{verb.capitalize()} {the.lower()} {SCENE[other]['where']}?", f"No, {the.lower()} {verb} {here['where']}."),
        ("scene", "yes_no", f"Does the {image} show {here['noun']}?", f"Yes, the {image} shows {here['noun']}."),
        ("scene", "yes_no", f"Does the {image} show {SCENE[other]['noun']}?", f"No, the {image} shows {here['noun']}."),
        ("scene", "either_or", f"{verb.capitalize()} {the.lower()} {pair}?", f"{the} {verb} {here['where']}."),
    ]


def _about_style(style, rng, image):
    other = another(STYLES, style, rng)
    mine, theirs = STYLE[style], STYLE[other]
    pair = " or ".join(_shuffled([mine["noun"], theirs["noun"]], rng))
    return [
        ("style", "wh", f"What is the style of the {image}?", f"The style is {style}."),
        ("style", "wh", f"In what style is the {image}?", f"The {image} is {mine['how']}."),
        ("style", "yes_no", f"Is the {image} {mine['how']}?", f"Yes, the {image} is {mine['how']}."),
        ("style", "yes_no", f"Is the {image} {theirs['how']}?", f"No, the {image} is {mine['how']}."),
        ("style", "either_or", f"Is the style {pair}?", f"The style is {style}."),
    ]


def _about_oddness(phrase, scene, rng, image):
    odd = unusual(phrase, scene)
    found = []
    if odd:
        found.append(("abnormal", "wh", f"What is unusual in the {image}?", odd))
    answer = f"Yes, {odd[0].lower()}{odd[1:]}" if odd else "No, nothing is unusual."
    found.append(("abnormal", "yes_no", f"Is there anything unusual in the {image}?", answer))
    if phrase.keyword in WORLD["abnormal"]["upside_down"]:
        answer = f"Yes, the {phrase.keyword} is upside down." if phrase.upside_down else f"No, the {phrase.keyword} is not upside down."
        found.append(("abnormal", "yes_no", f"Is the {phrase.keyword} upside down?", answer))
    return found
