"""Composes the pictures of the nano world: one emoji subject before a drawn scene, in a style.

`render(art, phrase, scene, style, variant)` is all that the rest of the recipe uses. Pictures are
float RGB arrays [64, 64, 3] in 0..1.
"""
import math
import random
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from vocabulary import COLORS

SIZE = 64
VARIANTS = 3
_DRAW = 256  # scenes are drawn at four times the size and reduced, for smooth edges
_SUBJECT_PX = 46
_OFFSETS = [(0, 2), (-4, 3), (4, 3)]  # where the subject's centre lies, by variant


class Art:
    """Emoji pictures of one vendor: a folder of 64 x 64 PNG files named by code point."""

    def __init__(self, folder):
        self.folder = Path(folder)

    @lru_cache(maxsize=None)
    def sprite(self, phrase):
        """The phrase's subject, cut out, tinted and turned, as an RGBA float array."""
        image = Image.open(self.folder / f"{phrase.emoji}.png").convert("RGBA")
        image = image.crop(image.getbbox())
        scale = _SUBJECT_PX / max(image.size)
        size = [max(1, round(side * scale)) for side in image.size]
        # Resampled with premultiplied alpha, so that no dark fringe appears.
        pixels = np.asarray(image.convert("RGBa").resize(size, Image.LANCZOS).convert("RGBA"), np.float32) / 255
        if phrase.color:
            tint = _tint_all if phrase.wrong_color else _tint_colored
            pixels = np.concatenate([tint(pixels, COLORS[phrase.color]), pixels[..., 3:]], -1)
        return pixels[::-1] if phrase.upside_down else pixels


def render(art, phrase, scene, style, variant):
    """The picture of a combination; `variant` (0..2) moves the subject and changes the scene."""
    canvas = background(scene, variant).copy()
    alpha = np.zeros((SIZE, SIZE), np.float32)
    sprite = art.sprite(phrase)
    height, width = sprite.shape[:2]
    dx, dy = _OFFSETS[variant]
    x = min(max((SIZE - width) // 2 + dx, 1), SIZE - 1 - width)
    y = min(max((SIZE - height) // 2 + dy, 1), SIZE - 1 - height)
    alpha[y : y + height, x : x + width] = sprite[..., 3]
    outline = np.clip(ndimage.maximum_filter(alpha, footprint=_CROSS) - alpha, 0, 1)[..., None]
    canvas = canvas * (1 - 0.55 * outline) + 0.08 * outline
    a = sprite[..., 3:]
    patch = canvas[y : y + height, x : x + width]
    canvas[y : y + height, x : x + width] = patch * (1 - a) + sprite[..., :3] * a
    return np.clip(_STYLES[style](canvas.astype(np.float32), alpha), 0, 1)


_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)

# --- colours ------------------------------------------------------------------------------------


def _luma(rgb):
    return rgb @ np.array([0.299, 0.587, 0.114], np.float32)


def _tint_colored(pixels, target):
    """Gives every colourful part of the subject the target colour and keeps its shading."""
    rgb, alpha = pixels[..., :3], pixels[..., 3]
    value, low = rgb.max(-1), rgb.min(-1)
    saturation = (value - low) / np.maximum(value, 1e-3)
    colored = np.clip((saturation - 0.18) / 0.15, 0, 1)
    if (colored * alpha).sum() < 0.4 * alpha.sum():
        return _tint_all(pixels, target)
    shade = value / np.median(value[(colored > 0.5) & (alpha > 0.5)])
    tinted = _shaded(np.array(target, np.float32) / 255, shade)
    return rgb * (1 - colored[..., None]) + tinted * colored[..., None]


def _tint_all(pixels, target):
    """Maps the whole subject from black over the target colour to near white, by lightness."""
    rgb, alpha = pixels[..., :3], pixels[..., 3]
    light = _luma(rgb)
    middle = min(max(float(np.median(light[alpha > 0.5])), 0.3), 0.7)
    shade = np.where(light < middle, light / middle, 1 + (light - middle) / (1 - middle) * 0.7)
    return _shaded(np.array(target, np.float32) / 255, np.maximum(shade, 0.25))


def _shaded(color, shade):
    dark = color * np.minimum(shade, 1)[..., None] ** 0.8
    white = np.clip(shade - 1, 0, 1)[..., None]
    return dark * (1 - white) + white


# --- scenes -------------------------------------------------------------------------------------


@lru_cache(maxsize=None)
def background(scene, variant):
    """A scene without its subject, [64, 64, 3]."""
    rng = random.Random(f"{scene}/{variant}")
    image = _SCENES[scene](rng, variant)
    return np.asarray(image.resize((SIZE, SIZE), Image.BOX), np.float32) / 255


def _gradient(top, bottom):
    t = np.linspace(0, 1, _DRAW)[:, None, None]
    rows = np.array(top) * (1 - t) + np.array(bottom) * t
    return Image.fromarray(np.broadcast_to(rows, (_DRAW, _DRAW, 3)).round().astype(np.uint8))


def _hills(draw, base, height, waves, phase, fill):
    points = [(x, base - height * (0.5 + 0.5 * math.sin(waves * math.tau * x / _DRAW + phase))) for x in range(0, _DRAW + 4, 4)]
    draw.polygon([(0, _DRAW), *points, (_DRAW, _DRAW)], fill=fill)


def _disc(draw, x, y, r, fill):
    draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def _cloud(draw, x, y, r, fill):
    for dx, dy, k in ((-1.1, 0.3, 0.7), (0, 0, 1), (1.1, 0.25, 0.75)):
        _disc(draw, x + dx * r, y + dy * r, k * r, fill)


def _plain(rng, variant):
    return _gradient(*[((250, 246, 238), (240, 234, 222)), ((244, 247, 250), (230, 236, 242)), ((250, 244, 246), (240, 230, 234))][variant])


def _beach(rng, variant):
    image = _gradient((110, 196, 246), (214, 240, 252))
    draw = ImageDraw.Draw(image)
    _disc(draw, [210, 40, 214][variant], 40, 24, (255, 236, 120))
    draw.rectangle((0, 120, _DRAW, _DRAW), fill=(36, 148, 196))
    for y in (134, 150):
        for x in range(-20 + 17 * variant, _DRAW, 56):
            draw.arc((x, y, x + 36, y + 12), 200, 340, fill=(150, 220, 240), width=4)
    _hills(draw, 196, 22, 1.0, 1.2 + variant, (250, 252, 250))
    _hills(draw, 204, 22, 1.0, 1.2 + variant, (242, 214, 150))
    for _ in range(14):
        _disc(draw, rng.randrange(_DRAW), rng.randrange(214, 252), 3, (214, 180, 116))
    return image


def _night(rng, variant):
    image = _gradient((10, 12, 48), (62, 48, 116))
    draw = ImageDraw.Draw(image)
    for _ in range(34):
        _disc(draw, rng.randrange(_DRAW), rng.randrange(_DRAW), rng.choice((2, 3, 4, 5)), (255, 250, 214))
    x = [206, 44, 212][variant]
    _disc(draw, x, 44, 28, (252, 244, 196))
    _disc(draw, x + 13, 37, 23, (20, 20, 62))
    return image


def _mountain(rng, variant):
    image = _gradient((146, 200, 240), (228, 240, 246))
    draw = ImageDraw.Draw(image)
    for x, y, half in [(60, 36, 110), (200, 20, 120), (120, 84, 90)][:: 1 if variant != 1 else -1]:
        x = x + (variant - 1) * 16
        slope = 180 / half
        draw.polygon([(x - half, y + 180), (x, y), (x + half, y + 180)], fill=(110, 122, 146))
        draw.polygon([(x, y), (x + half, y + 180), (x + half * 0.25, y + 180)], fill=(86, 98, 124))
        cap = 46
        draw.polygon([(x - cap / slope, y + cap), (x, y), (x + cap / slope, y + cap), (x + 10, y + cap - 12), (x, y + cap + 6), (x - 12, y + cap - 12)], fill=(250, 252, 255))
    _hills(draw, 226, 20, 1.5, variant * 2.0, (104, 160, 84))
    return image


def _city(rng, variant):
    image = _gradient((250, 196, 140), (252, 226, 196))
    draw = ImageDraw.Draw(image)
    x = -6 * variant
    while x < _DRAW:
        width, top = rng.randrange(34, 54), rng.randrange(24, 120)
        shade = rng.choice([(92, 104, 138), (112, 92, 128), (74, 90, 120)])
        draw.rectangle((x, top, x + width - 4, _DRAW), fill=shade)
        for wy in range(top + 10, 210, 20):
            for wx in range(int(x) + 7, int(x) + width - 12, 14):
                draw.rectangle((wx, wy, wx + 6, wy + 9), fill=(255, 232, 140) if rng.random() < 0.7 else (60, 66, 92))
        x += width
    draw.rectangle((0, 214, _DRAW, _DRAW), fill=(86, 88, 96))
    for lane in range(8 + 12 * variant, _DRAW, 56):
        draw.rectangle((lane, 232, lane + 30, 239), fill=(244, 240, 224))
    return image


def _snow(rng, variant):
    image = _gradient((172, 200, 224), (224, 234, 244))
    draw = ImageDraw.Draw(image)
    for x in [(30, 222), (52, 236), (18, 196)][variant]:
        for k in range(3):
            y = 56 + 26 * k
            draw.polygon([(x - 18 - 9 * k, y + 40), (x, y), (x + 18 + 9 * k, y + 40)], fill=(84, 130, 132))
            draw.polygon([(x - 8 - 4 * k, y + 18), (x, y), (x + 8 + 4 * k, y + 18)], fill=(250, 252, 255))
    _hills(draw, 190, 30, 1.0, variant * 2.1, (226, 236, 248))
    _hills(draw, 216, 24, 1.3, 2 + variant, (250, 252, 255))
    for _ in range(40):
        _disc(draw, rng.randrange(_DRAW), rng.randrange(_DRAW), rng.choice((4, 5, 6)), (255, 255, 255))
    return image


def _desert(rng, variant):
    image = _gradient((252, 186, 96), (255, 232, 176))
    draw = ImageDraw.Draw(image)
    _disc(draw, [48, 206, 60][variant], 46, 30, (255, 246, 200))
    _hills(draw, 150, 40, 0.8, 0.4 + variant, (232, 168, 96))
    _hills(draw, 194, 44, 1.0, 3.2 + variant * 1.4, (216, 140, 74))
    _hills(draw, 236, 40, 0.7, 1.0 + variant * 2.2, (196, 116, 58))
    return image


def _forest(rng, variant):
    image = _gradient((196, 226, 170), (142, 190, 120))
    draw = ImageDraw.Draw(image)
    for row, (y, fill) in enumerate([(40, (112, 168, 104)), (24, (62, 124, 72)), (60, (36, 92, 56))]):
        for x in range(-10 + 14 * row + 9 * variant, _DRAW + 30, 62):
            top = y + rng.randrange(-14, 15)
            draw.rectangle((x - 6, 170, x + 6, 226), fill=(96, 66, 44))
            for k in range(3):
                draw.polygon([(x - 20 - 8 * k, top + 70 + 38 * k), (x, top + 38 * k), (x + 20 + 8 * k, top + 70 + 38 * k)], fill=fill)
    _hills(draw, 222, 16, 1.5, variant * 1.9, (78, 130, 62))
    return image


_SCENES = {"plain background": _plain, "beach": _beach, "night sky": _night, "mountain": _mountain,
           "city": _city, "snow": _snow, "desert": _desert, "forest": _forest}

# --- styles -------------------------------------------------------------------------------------


def _cartoon(rgb, alpha):
    return rgb


def _subject_weight(alpha, away):
    """1 on the subject and its outline, `away` elsewhere: the scene steps back a little."""
    return away + (1 - away) * np.clip(ndimage.maximum_filter(alpha, 3), 0, 1)


def _sketch(rgb, alpha):
    """Pencil on paper: colour dodge of the blurred negative, with some graphite shading."""
    gray = _luma(rgb)
    lines = np.clip(gray / np.maximum(ndimage.gaussian_filter(gray, 1.6), 0.04), 0, 1) ** 2.2
    lines = 1 - (1 - lines) * _subject_weight(alpha, 0.6)
    shading = 0.72 + 0.28 * gray
    return (lines * shading)[..., None] * np.array([0.98, 0.965, 0.92], np.float32)


def _pixel_art(rgb, alpha):
    """Blocks of 4 pixels with few levels a channel and a dark outline around the subject."""
    cover = _blocks(alpha[..., None])
    inside = _blocks(rgb * alpha[..., None]) / np.maximum(cover, 1e-3)
    outside = _blocks(rgb * (1 - alpha[..., None])) / np.maximum(1 - cover, 1e-3)
    subject = cover[..., 0] > 0.42
    rim = ndimage.maximum_filter(subject, footprint=_CROSS) & ~subject
    soft = 0.6 * outside + 0.4 * ndimage.uniform_filter(outside, (3, 3, 1))
    scene = np.where(rim[..., None], soft * 0.45, soft)
    picture = np.where(subject[..., None], np.clip((inside - 0.5) * 1.15 + 0.5, 0, 1), scene)
    picture = np.round(picture * 7) / 7
    return picture.repeat(4, 0).repeat(4, 1)


def _blocks(pixels):
    return pixels.reshape(16, 4, 16, 4, -1).mean((1, 3))


def _black_and_white(rgb, alpha):
    gray = _luma(rgb)
    return np.repeat(np.clip((gray - 0.5) * 1.15 + 0.5, 0, 1)[..., None], 3, -1)


def _neon(rgb, alpha):
    """Glowing edges in the local colour on a dark copy of the picture."""
    edge = np.sqrt(sum(ndimage.sobel(rgb, axis) ** 2 for axis in (0, 1))).max(-1)
    edge = (np.clip(edge * 0.5 - 0.12, 0, 1) * _subject_weight(alpha, 0.5))[..., None]
    soft = ndimage.uniform_filter(rgb, (3, 3, 1))
    vivid = soft - soft.min(-1, keepdims=True)
    peak = vivid.max(-1, keepdims=True)
    fallback = np.array([0.25, 0.9, 1.0], np.float32)
    weight = np.clip(peak * 4, 0, 1)
    hue = vivid / np.maximum(peak, 1e-3) * weight + fallback * (1 - weight)
    light = edge * (0.15 + 0.85 * hue)
    glow = ndimage.gaussian_filter(light, (2, 2, 0))
    return 0.2 * rgb * np.array([0.7, 0.6, 1.2], np.float32) + light + 0.6 * glow


_STYLES = {"cartoon": _cartoon, "sketch": _sketch, "pixel art": _pixel_art,
           "black and white": _black_and_white, "neon": _neon}
