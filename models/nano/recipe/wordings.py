"""The same questions in many wordings, for nano-llava's language model alone.

`varied_turns(phrase, scene, style, rng)` gives (question, answer) pairs about a description. A model
that has met each question in one wording learns the wording; one that has met a hundred learns what
is asked: a claim wants yes or no, two offers want one of them, an open question wants the name. The
evaluation questions of `abilities/` are kept out: `OPENINGS_OF_EVALUATION` are used nowhere here.
"""
import re

from dialogues import BRIEF, _OTHERS, another, has, unusual
from vocabulary import COLORS, PHRASES, SCENE, SCENES, STYLE, STYLES, WORLD, sentence

OPENINGS_OF_EVALUATION = ("can you see", "name the", "name what", "would you", "what kind of", "what looks odd")
_CATEGORY = {
    "animal": ["animal", "creature"], "plant": ["plant", "flower or tree"], "vehicle": ["vehicle", "means of transport"],
    "food": ["food", "thing to eat"], "clothes": ["piece of clothing", "garment"], "furniture": ["piece of furniture", "furniture"],
    "hair": ["hair", "hairstyle"], "profession": ["job", "profession", "work"], "action": ["activity", "action"],
    "color": ["object", "thing"], "abnormal": ["thing", "main subject"],
}
_CLAIMS = [  # {x}: "a fox"
    "Is there {x} in the {image}?", "Is it {x}?", "Is this {x}?", "Is that {x}?", "Do we see {x}?", "Do you see {x}?",
    "Does the {image} show {x}?", "Does the {image} contain {x}?", "Does it show {x}?", "Is {x} visible?", "Is {x} present?",
    "Is {x} in the {image}?", "Could this be {x}?", "Is the main subject {x}?", "Has the {image} {x} in it?", "Was {x} drawn here?",
    "Is {x} what the {image} shows?", "Can one find {x} here?", "So it is {x}?", "Do you think that it is {x}?", "{x}?",
    "Are we looking at {x}?", "Is the {category} {x}?", "Did someone draw {x}?", "Does one see {x} in this {image}?",
]
_OFFERS = [
    "Is it {x} or {y}?", "Is this {x} or {y}?", "Which one is it, {x} or {y}?", "{x} or {y}?", "Does the {image} show {x} or {y}?",
    "Is there {x} or {y} in the {image}?", "Do we see {x} or {y}?", "Is that {x}, or is it {y}?", "Which is shown, {x} or {y}?",
    "Which is right, {x} or {y}?", "Tell me if it is {x} or {y}.", "Choose: {x} or {y}.", "Are we looking at {x} or {y}?",
    "Is the {category} {x} or {y}?", "Would that be {x} or {y}?", "Did someone draw {x} or {y}?",
]
_OPEN = [
    "What {category} is it?", "Which {category} is it?", "Which {category} is this?", "What {category} is this?", "The {category}?",
    "Tell me the {category}.", "Say which {category} it is.", "Which {category} does the {image} show?", "Which {category} is there?",
    "What {category} is in this {image}?", "What sort of {category} is it?", "Do you know the {category}?", "What is the {category}?",
    "Which {category} do you see?", "Please give the {category}.", "The {category} in the {image} is what?", "What {category} was drawn here?",
]
_SUBJECT_OPEN = ["What is it?", "What is this?", "What do you see?", "What does the {image} show?", "What was drawn here?", "What is shown?"]
_ABSENT = ["Where is {x}?", "What is {x} doing?", "Which color does {x} have?", "What does {x} look like?", "How big is {x}?",
           "Why is {x} in the {image}?", "Where in the {image} is {x}?", "How old is {x}?", "Who owns {x}?", "Is {x} on the left or on the right?"]
_BEFORE = ["Please look closely.", "Look at the {image}.", "Tell me:", "One question:", "I wonder.", "Well.", "And now:", "Please answer.",
           "Think about it.", "In this {image}:", "Be honest."]
_AFTER = ["Please answer.", "Look closely.", "What do you think?", "Thank you.", "Answer in a few words.", "I am not sure."]
_STRAY = ("do does is are was can could may might shall will please tell say show shown here there now really perhaps maybe possibly "
          "any some this that these one someone somebody people picture image photo drawing view look seem appear present visible whether "
          "exactly actually indeed clearly main part of in on at about for with to be been kind type sort form which what who").split()


def varied_turns(phrase, scene, style, rng):
    """A few (question, answer) pairs, each about another side of the description."""
    makers = [_subject, _subject, _subject, _scene, _style, _brief, _oddness]
    makers += [_color] * 2 if phrase.color else []
    turns = []
    for maker in rng.sample(makers, rng.choice([2, 3, 4])):
        question, answer = maker(phrase, scene, style, rng)
        image = rng.choice(["picture", "image", "photo"])
        question = _disturbed(question, rng).replace("{image}", image)
        question = question[0].upper() + question[1:]
        if not question.lower().startswith(OPENINGS_OF_EVALUATION):
            turns.append((question, answer.replace("{image}", image)))
    return turns or [(rng.choice(BRIEF), sentence(phrase, scene, style))]


def _disturbed(question, rng):
    """Sometimes with a remark before or after, or with other small words at the start."""
    chance = rng.random()
    if chance < 0.12:
        return f"{rng.choice(_BEFORE)} {question}"
    if chance < 0.2:
        return f"{question} {rng.choice(_AFTER)}"
    return question


def _stray(rng):
    return " ".join(rng.sample(_STRAY, rng.randrange(1, 5)))


def _claim(x, category, rng):
    if rng.random() < 0.25:
        return f"{_stray(rng)} {x}{rng.choice(['', ' here', ' in the {image}', ' ' + rng.choice(_STRAY)])}?"
    return rng.choice(_CLAIMS).format(x=x, category=category, image="{image}")


def _offer(x, y, category, rng):
    x, y = rng.sample([x, y], 2)
    if rng.random() < 0.25:
        return f"{_stray(rng)} {x} or {y}{rng.choice(['', ' here', ' in the {image}'])}?"
    return rng.choice(_OFFERS).format(x=x, y=y, category=category, image="{image}")


def _open(category, rng):
    if rng.random() < 0.25:
        words = f"{_stray(rng)} {category} {rng.choice(['', _stray(rng), 'in the {image}'])}".strip()
        return words + rng.choice("?.")
    return rng.choice(_OPEN).format(category=category, image="{image}")


def _options(truth, others, rng):
    """("A. fox, B. dog", "A. fox")"""
    choices = [truth, *others]
    rng.shuffle(choices)
    letters = "ABCD"
    form = rng.choice(["{}. {}", "{}. {}", "{}) {}", "({}) {}"])
    listed = rng.choice([", ", " ", "\n"]).join(form.format(letter, c) for letter, c in zip(letters, choices))
    return listed, f"{letters[choices.index(truth)]}. {truth}"


def _about(truth, others, category, say, deny, rng):
    """A question of a random kind whose true answer is `truth` and whose false ones are `others`."""
    kind = rng.random()
    other = rng.choice(others)
    if kind < 0.24:
        return _claim(truth, category, rng), rng.choice([f"Yes, {_lower(say)}", f"Yes, {_lower(say)}", "Yes."])
    if kind < 0.48:
        return _claim(other, category, rng), rng.choice([f"No, {_lower(say)}", deny.format(x=other), "No."])
    if kind < 0.68:
        return _offer(truth, other, category, rng), say
    if kind < 0.78:
        listed, answer = _options(truth, rng.sample(others, min(3, len(others))), rng)
        return f"{_open(category, rng)} {listed}", answer
    return _open(category, rng), say


def _lower(text):
    return text[0].lower() + text[1:]


def _name(phrase):
    return {"hair": has(phrase), "action": phrase.keyword}.get(phrase.ability, phrase.with_article)


def _subject(phrase, scene, style, rng):
    pool = [p for p in _OTHERS[phrase.ability] if p.keyword != phrase.keyword]
    if rng.random() < 0.25 or len(pool) < 3:
        pool = [p for p in PHRASES if p.keyword != phrase.keyword and (p.ability == phrase.ability or p.ability not in ("hair", "action"))]
    category = rng.choice(_CATEGORY.get(phrase.ability, ["thing"]))
    truth, others = _name(phrase), sorted({_name(p) for p in pool})
    if rng.random() < 0.08:
        return rng.choice(_SUBJECT_OPEN), f"It is {phrase.with_article}."
    if rng.random() < 0.12:
        absent = rng.choice([p for p in pool if p.ability not in ("hair", "action")] or PHRASES[:16])
        if absent.keyword != phrase.keyword:
            x = rng.choice([f"the {absent.noun}", absent.with_article])
            return rng.choice(_ABSENT).format(x=x, image="{image}"), f"There is no {absent.noun}, but {phrase.with_article}."
    if phrase.ability == "hair":
        return _about(truth, others, category, f"The person has {truth}.", "No, the person does not have {x}.", rng)
    if phrase.ability == "action":
        prefix = rng.choice(["", "", "someone ", "a person ", "the person "])
        truth, others = prefix + truth, [prefix + o for o in others]
        return _about(truth, others, category, f"The person is {phrase.keyword}.", "No, the person is not {x}.".replace("{x}", "doing that"), rng)
    say = rng.choice(["It is {}.", "There is {}.", "The {{image}} shows {}."]).format(truth)
    return _about(truth, others, category, say, "No, there is not {x}.", rng)


def _color(phrase, scene, style, rng):
    others = [c for c in COLORS if c != phrase.color]
    thing = phrase.keyword
    kind, say = rng.random(), rng.choice([f"The {thing} is {phrase.color}.", f"It is {phrase.color}."])
    if kind < 0.5:
        color = phrase.color if kind < 0.25 else rng.choice(others)
        form = rng.choice(["Is the {thing} {color}?", "Is it {color}?", "Has the {thing} a {color} color?", "{stray} the {thing} {color}?",
                           "Do you see a {color} {thing}?", "Is this {thing} {color}?", "Is the color of the {thing} {color}?", "{color}?"])
        yes = "Yes" if color == phrase.color else "No"
        return form.format(thing=thing, color=color, stray=_stray(rng)), rng.choice([f"{yes}, {_lower(say)}", f"{yes}, {_lower(say)}", f"{yes}."])
    x, y = rng.sample([phrase.color, rng.choice(others)], 2)
    if kind < 0.7:
        form = rng.choice(["Is the {thing} {x} or {y}?", "{x} or {y}?", "Which color is the {thing}, {x} or {y}?", "{stray} the {thing} {x} or {y}?"])
        return form.format(thing=thing, x=x, y=y, stray=_stray(rng)), say
    category = rng.choice(["color", "color of the {thing}", "color of the {thing}"]).format(thing=thing)
    if kind < 0.78:
        listed, answer = _options(phrase.color, rng.sample(others, 3), rng)
        return f"{_open(category, rng)} {listed}", answer
    if rng.random() < 0.4:
        return rng.choice(["What color is the {thing}?", "Which color has the {thing}?", "What color is on the {thing}?"]).format(thing=thing), say
    return _open(category, rng), say


def _scene(phrase, scene, style, rng):
    form = rng.choice(["where", "noun", "name"])
    name = (lambda s: s) if form == "name" else (lambda s: SCENE[s][form])
    others = [name(s) for s in SCENES if s != scene]
    category = rng.choice(["place", "scene", "background", "location", "surroundings"])
    category += rng.choice(["", "", f" around the {phrase.noun}", " behind it"])
    say = rng.choice(["It is {}.", f"The {phrase.noun} is {{}}."]).format(SCENE[scene]["where"])
    if form != "where" and rng.random() < 0.5:
        say = f"The {category.split()[0]} is {SCENE[scene]['noun']}."
    if rng.random() < 0.15:
        return rng.choice(["Where is it?", "Where is this?", "Where are we?", f"Where is the {phrase.noun}?", "What is behind it?"]), say
    return _about(name(scene), others, category, say, "No, it is not {x}.", rng)


def _style(phrase, scene, style, rng):
    form = rng.choice(["how", "noun", "name"])
    name = (lambda s: s) if form == "name" else (lambda s: STYLE[s][form])
    others = [name(s) for s in STYLES if s != style]
    category = rng.choice(["style", "style of the {image}", "manner of drawing", "look"])
    say = rng.choice([f"The style is {style}.", f"It is {STYLE[style]['how']}.", f"The {{image}} is {STYLE[style]['how']}."])
    if rng.random() < 0.15:
        return rng.choice(["How is it drawn?", "How was it made?", f"How is the {phrase.noun} drawn?", "In which style is it?"]), say
    return _about(name(style), others, category, say, "No, it is not {x}.", rng)


def _brief(phrase, scene, style, rng):
    asked = BRIEF + ["What is going on?", "Describe it.", "Give me a caption.", "Tell me about the {image}.", "Sum it up."]
    return rng.choice(asked), sentence(phrase, scene, style)


def _oddness(phrase, scene, style, rng):
    odd = unusual(phrase, scene)
    thing = phrase.keyword if phrase.upside_down or phrase.color else phrase.noun
    if odd and rng.random() < 0.5:
        word = rng.choice(["strange", "unusual", "wrong", "odd", "not normal"])
        return rng.choice([f"What is {word} here?", f"What is {word} with the {thing}?", f"What is {word} about it?", f"Tell me what is {word}."]), odd
    claims = {
        "upside down": phrase.upside_down,
        rng.choice(["of a strange color", "in a strange color"]): phrase.wrong_color,
        rng.choice(["in a strange place", "in a wrong place"]): bool(odd) and not phrase.upside_down and not phrase.wrong_color,
    }
    if odd and rng.random() < 0.35:
        true = next(c for c, holds in claims.items() if holds)
        false = rng.choice([c for c, holds in claims.items() if not holds])
        x, y = rng.sample([true, false], 2)
        return rng.choice(["Is the {t} {x} or {y}?", "{s} the {t} {x} or {y}?"]).format(t=thing, x=x, y=y, s=_stray(rng)), f"The {thing} is {true}."
    claim, holds = rng.choice(list(claims.items()))
    question = rng.choice(["Is the {t} {c}?", "{s} the {t} {c}?", "Is something {c}?", "Do you see a thing {c}?"]).format(t=thing, c=claim, s=_stray(rng))
    if holds:
        return question, rng.choice([f"Yes, the {thing} is {claim}.", f"Yes, {_lower(odd)}", "Yes."])
    return question, rng.choice(["No.", f"No, {_lower(odd)}" if odd else "No, nothing is unusual.", f"No, the {thing} is not {claim}."])


def check():
    """Prints turns; fails when a question opens as one of the evaluation does."""
    import random
    rng = random.Random(0)
    for phrase in rng.sample(PHRASES, len(PHRASES)):
        for question, answer in varied_turns(phrase, rng.choice(SCENES), rng.choice(phrase.styles), rng):
            assert not re.match("|".join(OPENINGS_OF_EVALUATION), question.lower())
            print(f"{phrase.text}: {question!r} {answer!r}")


if __name__ == "__main__":
    check()
