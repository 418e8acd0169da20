"""Procedural cat, dog and wild-cat faces, 64x64: a data set that needs no download.

Image k depends on k alone: its numbers come from a Philox stream keyed by k, so a set of any size, drawn in any order
or in several processes, holds the same image k. Its label is k mod 3. Every face is drawn at 128x128 from signed
distances (negative inside a shape) in face coordinates, x right and y down, the head about one unit wide either way,
and averaged over 2x2 pixels. Coarse structure (pose, shape, light, background) and structure of one or two pixels
(strands of fur, stripes, spots, whiskers, grain) both vary from image to image.
"""
import numpy as np

SPECIES = ("cat", "dog", "wild")
SIDE = 64
STREAM = 0x11F7                 # keeps these streams apart from other uses of small integers as keys
LATTICE = 64                    # period of the noise; also the number of strands of fur around the head
EDGE = 0.024                    # width in face units over which an edge fades: about 1.5 of the 128 pixels

_axis = ((np.arange(2 * SIDE) + 0.5) / SIDE - 1).astype(np.float32)
SCREEN_Y, SCREEN_X = np.meshgrid(_axis, _axis, indexing="ij")       # [128, 128] in [-1, 1]

# Coat colours per species, dark to light, and colours of the iris.
COATS = {"cat": ["#3a3532", "#7d7f86", "#c98443", "#a98a66", "#e8d9bf", "#57483b", "#f1ece4"],
         "dog": ["#2c2624", "#6b452c", "#b97f45", "#d9b27c", "#efe6d8", "#84766b", "#9a5a31"],
         "wild": ["#d08a3c", "#c9a063", "#e0b878", "#b58a5c", "#d7c7a8", "#c4652f", "#8f8a84"]}
IRISES = {"cat": ["#8fb04a", "#d9a92e", "#5fa3c9", "#b7c95a"], "dog": ["#4a2c17", "#6e4522", "#3a2a20", "#7fa6c4"],
          "wild": ["#c99a2c", "#e0b53f", "#9aa04a", "#b57a2a"]}
PATTERNS = {"cat": ("tabby", "mask", "patches", "plain"), "dog": ("saddle", "patches", "freckles", "plain"),
            "wild": ("stripes", "spots", "mane", "stripes", "spots")}
WHITE, BLACK, PINK = "#f6f2ea", "#191414", "#d59a94"


def colour(text: str) -> np.ndarray:
    """#rrggbb as float32 [3, 1, 1] in [0, 1]."""
    return np.array([int(text[i:i + 2], 16) / 255 for i in (1, 3, 5)], np.float32)[:, None, None]


def noise(rng, u, v) -> np.ndarray:
    """Smooth noise in [-1, 1] at (u, v): random values on a lattice of spacing 1 and period 64, blended between."""
    lattice = rng.uniform(-1, 1, LATTICE * LATTICE).astype(np.float32)
    floor_u, floor_v = np.floor(u), np.floor(v)
    blend_u, blend_v = u - floor_u, v - floor_v
    blend_u, blend_v = blend_u * blend_u * (3 - 2 * blend_u), blend_v * blend_v * (3 - 2 * blend_v)
    row, column = floor_u.astype(np.int32) % LATTICE * LATTICE, floor_v.astype(np.int32) % LATTICE
    next_row, next_column = (row + LATTICE) % (LATTICE * LATTICE), (column + 1) % LATTICE
    first = lattice[row + column] + blend_u * (lattice[next_row + column] - lattice[row + column])
    second = lattice[row + next_column] + blend_u * (lattice[next_row + next_column] - lattice[row + next_column])
    return first + blend_v * (second - first)


def ellipse(x, y, centre_x, centre_y, radius_x, radius_y, tilt: float = 0.0) -> np.ndarray:
    """Signed distance, negative inside, of points (x, y) to an ellipse turned by `tilt` radians: in the shape and unit
    of x and y, exact on the outline and approximate elsewhere."""
    cosine, sine = float(np.cos(tilt)), float(np.sin(tilt))
    x, y = x - centre_x, y - centre_y
    return (np.hypot((cosine * x + sine * y) / radius_x, (cosine * y - sine * x) / radius_y) - 1) * min(radius_x,
                                                                                                        radius_y)


def triangle(x, y, a, b, c) -> np.ndarray:
    """Signed distance to the triangle with corners a, b, c, in clockwise order as seen with y down; exact inside."""
    edges = []
    for (x_0, y_0), (x_1, y_1) in ((a, b), (b, c), (c, a)):
        length = float(np.hypot(x_1 - x_0, y_1 - y_0))
        edges.append(((x - x_0) * (y_1 - y_0) - (y - y_0) * (x_1 - x_0)) / length)
    return np.maximum(np.maximum(edges[0], edges[1]), edges[2])


def line(x, y, start, end, width: float) -> np.ndarray:
    """Signed distance to a line of that width with round ends."""
    (x_0, y_0), (x_1, y_1) = start, end
    along = np.clip(((x - x_0) * (x_1 - x_0) + (y - y_0) * (y_1 - y_0)) / ((x_1 - x_0) ** 2 + (y_1 - y_0) ** 2), 0, 1)
    return np.hypot(x - x_0 - along * (x_1 - x_0), y - y_0 - along * (y_1 - y_0)) - width / 2


def inside(distance, fade: float = EDGE) -> np.ndarray:
    """How much of a pixel a shape covers, 0...1; a larger `fade` makes its edge soft."""
    return np.clip(0.5 - distance / fade, 0, 1)


def paint(picture, cover, paint_colour) -> None:
    """Lay a colour ([3, 1, 1] or [3, 128, 128]) over the picture where `cover` [128, 128] is above 0, in place."""
    picture += cover * (paint_colour - picture)


def background(rng) -> np.ndarray:
    """A gradient between two colours, soft blobs, and a texture of random grain and direction: [3, 128, 128]."""
    first, second = (rng.uniform(0.1, 0.95) * rng.uniform(0.65, 1, (2, 3, 1, 1))).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    along, across = SCREEN_X * float(np.cos(angle)) + SCREEN_Y * float(np.sin(angle)), \
        SCREEN_Y * float(np.cos(angle)) - SCREEN_X * float(np.sin(angle))
    picture = first + inside(along, rng.uniform(0.5, 2.5)) * (second - first)
    for _ in range(rng.integers(0, 5)):
        x, y, radius = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.1, 0.6)
        blob = rng.uniform(0.1, 1, (3, 1, 1)).astype(np.float32)
        paint(picture, rng.uniform(0.2, 0.7) * inside(np.hypot(SCREEN_X - x, SCREEN_Y - y) - radius,
                                                      rng.uniform(0.05, 0.6)), blob)
    texture = noise(rng, along * rng.uniform(2, 28), across * rng.uniform(2, 28))
    return picture * (1 + rng.uniform(0, 0.35) * texture)


def markings(rng, pattern: str, x, y) -> np.ndarray:
    """Where the second coat colour shows, 0...1, [128, 128]."""
    if pattern in ("tabby", "stripes"):
        wave = noise(rng, x * 3, y * 3)
        # Bars down the forehead, bars across the cheeks: the phase turns from x to y away from the middle.
        phase = np.where(y < -0.15, np.abs(x) * 1.1 + 0.15 * y, y + 0.45 * np.abs(x)) + 0.07 * wave
        bars = np.sin(phase * rng.uniform(26, 42) + rng.uniform(0, 6))
        middle = 0.12 if pattern == "tabby" else 0.05
        return inside(0.15 + 0.35 * wave - bars, 0.5) * inside(middle - np.hypot(x, y - 0.15) + 0.2, 0.25)
    if pattern == "spots":
        size = rng.uniform(7, 11)
        u, v = x * size + 0.6 * noise(rng, x * 4, y * 4), y * size + 0.6 * noise(rng, x * 4, y * 4)
        u = u + 0.5 * (np.floor(v) % 2)
        spot = np.hypot(u - np.floor(u) - 0.5, v - np.floor(v) - 0.5) - 0.33 + 0.14 * noise(rng, x * 9, y * 9)
        ring = np.abs(spot) - 0.12 if rng.random() < 0.4 else spot
        return inside(ring, 0.2) * inside(0.38 - np.hypot(x, y - 0.15), 0.2)
    if pattern == "mask":
        return inside(ellipse(x, y, 0, 0.15, 0.35, 0.4), 0.35) + inside(y + 0.62, 0.2) * (y < 0)
    if pattern == "patches":
        return inside(0.1 - noise(rng, x * 2.2 + 9, y * 2.2), 0.12)
    if pattern == "saddle":
        return inside(y + 0.25 + 0.25 * np.abs(x), 0.3)
    if pattern == "freckles":
        return inside(0.35 - noise(rng, x * 11, y * 11), 0.3)
    return np.zeros_like(x)


def ears(rng, species: str, picture, x, y, coat, fringe) -> None:
    """Cat: upright triangles. Dog: hanging or tipped flaps. Wild: small, round. Drawn behind the head, mirrored."""
    x, size = np.abs(x), rng.uniform(0.85, 1.2)
    inner = colour(PINK) * rng.uniform(0.55, 1.0)
    if species == "cat":
        tip = (rng.uniform(0.42, 0.6), -0.55 - 0.38 * size)
        outer = triangle(x, y, (0.10, -0.38), tip, (0.62, -0.1)) + fringe * 0.3
        paint(picture, inside(outer), coat * 0.9)
        paint(picture, inside(outer + 0.085, 0.06), inner)
    elif species == "dog":
        hanging = rng.random() < 0.7
        centre, tilt = ((0.53, 0.02), rng.uniform(-0.45, -0.05)) if hanging else ((0.42, -0.5), rng.uniform(0.3, 0.9))
        outer = ellipse(x, y, *centre, 0.17 * size, (0.44 if hanging else 0.3) * size, tilt) + fringe * 0.5
        paint(picture, inside(outer), coat * rng.uniform(0.55, 0.8))
        paint(picture, inside(outer + 0.1, 0.1) * 0.4, coat * 0.45)
    else:
        outer = ellipse(x, y, 0.46, -0.46, 0.19 * size, 0.18 * size) + fringe * 0.3
        paint(picture, inside(outer), coat * 0.75)
        paint(picture, inside(outer + 0.07, 0.05), inner * 0.7)


def eyes(rng, species: str, picture, x, y) -> None:
    """Dark rim, iris, pupil (a slit of random width for cats), and a highlight on the same side of both."""
    spread, height = {"cat": (0.26, -0.06), "dog": (0.21, -0.12), "wild": (0.25, -0.12)}[species]
    radius = {"cat": 0.115, "dog": 0.075, "wild": 0.08}[species] * rng.uniform(0.9, 1.2)
    side, tilt = np.abs(x), rng.uniform(0.0, 0.5) * (-1 if species == "dog" else 1)
    opening = rng.uniform(0.65, 1.0)
    lid = ellipse(side, y, spread, height, radius, radius * opening, -tilt)
    paint(picture, inside(lid - 0.03, 0.04), colour(BLACK))
    iris = colour(str(rng.choice(IRISES[species])))
    paint(picture, inside(lid), iris * (0.8 + 0.5 * inside(height - y, 0.15)))
    pupil_x = radius * (rng.uniform(0.18, 0.6) if species == "cat" else 0.55)
    paint(picture, np.minimum(inside(ellipse(side, y, spread, height, pupil_x, radius * 0.8)), inside(lid)),
          colour(BLACK))
    shift = rng.uniform(-0.4, 0.4) * radius
    glint = ellipse(np.abs(x - shift), y, spread, height - 0.35 * radius, 0.025, 0.025)
    paint(picture, inside(glint) * 0.95, colour("#ffffff"))
    if species == "wild":                       # the dark line from the eye to the mouth of a big cat
        paint(picture, 0.6 * inside(line(side, y, (spread - 0.07, height + 0.06), (0.17, 0.22), 0.03), 0.04),
              colour(BLACK))


def muzzle(rng, species: str, picture, x, y, coat, fur) -> None:
    """Cheeks, nose, mouth, and what goes with them: whiskers for cats, at times a tongue for dogs."""
    side = np.abs(x)
    light = colour(WHITE) if rng.random() < 0.6 else np.minimum(coat * 1.25, 1)
    light = light * (1 + 0.25 * fur)
    nose = colour(str(rng.choice([PINK, BLACK, "#6b4540"]))) if species != "dog" else colour(BLACK)
    if species == "dog":
        length = rng.uniform(0.24, 0.34)
        if rng.random() < 0.4:
            paint(picture, inside(ellipse(x, y, rng.uniform(-0.05, 0.05), 0.55, 0.085, 0.15)), colour("#d0606a"))
        paint(picture, inside(ellipse(x, y, 0, 0.28, rng.uniform(0.22, 0.31), length), 0.08), light)
        paint(picture, inside(ellipse(x, y, 0, 0.14, 0.125, 0.09)), nose)
        paint(picture, 0.6 * inside(ellipse(x, y, 0.0, 0.105, 0.05, 0.02), 0.04), colour("#a8a8ac"))
        mouth_y, mouth_x = 0.40, 0.16
    else:
        width = 0.12 if species == "cat" else 0.165
        paint(picture, inside(ellipse(x, y, 0, 0.45, 0.16, 0.11), 0.06), light * 0.92)
        paint(picture, inside(ellipse(side, y, 0.85 * width, 0.28, width * 1.1, width), 0.05), light)
        size = 0.07 if species == "cat" else 0.115
        bridge = ellipse(x, y, 0, -0.05, size * 0.9, 0.25)
        paint(picture, (0.0 if species == "cat" else 0.35) * inside(bridge, 0.1), light)
        paint(picture, inside(triangle(x, y, (-size, 0.11), (size, 0.11), (0, 0.11 + 1.25 * size)) - 0.012), nose)
        mouth_y, mouth_x = 0.33, width
    corners = [(0, 0.2), (0, mouth_y), (0.5 * mouth_x, mouth_y + 0.045), (mouth_x, mouth_y + rng.uniform(-0.06, 0.04))]
    mouth = np.minimum.reduce([line(side, y, start, end, 0.022) for start, end in zip(corners, corners[1:])])
    paint(picture, 0.8 * inside(mouth), colour(BLACK))
    if species != "dog":
        tone = colour(WHITE if rng.random() < 0.7 else BLACK)
        for start in (0.25, 0.29, 0.33):
            end = (rng.uniform(0.55, 0.95), start + rng.uniform(-0.2, 0.25))
            paint(picture, 0.7 * inside(line(side, y, (0.12, start), end, 0.012)), tone)


def draw(index: int) -> np.ndarray:
    """Image number `index` (0 or more): uint8 [3, 64, 64]; its species is SPECIES[index % 3]."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([STREAM, index])))
    species = SPECIES[index % 3]
    picture = background(rng)

    # Pose: the screen in face coordinates, gently bent; the parts shift against each other as the head turns.
    scale, angle = rng.uniform(0.82, 1.2), rng.normal(0, 0.16)
    x, y = (SCREEN_X - rng.uniform(-0.16, 0.16)) / scale, (SCREEN_Y - rng.uniform(-0.02, 0.16)) / scale
    x, y = x * float(np.cos(angle)) + y * float(np.sin(angle)), y * float(np.cos(angle)) - x * float(np.sin(angle))
    x, y = x + 0.04 * noise(rng, x * 2 + 9, y * 2), y + 0.04 * noise(rng, x * 2, y * 2 + 9)
    turn, nod = rng.uniform(-0.13, 0.13), rng.uniform(-0.05, 0.07)
    radius_x, radius_y = {"cat": (0.62, 0.54), "dog": (0.50, 0.62), "wild": (0.60, 0.58)}[species]
    radius_x, radius_y = radius_x * rng.uniform(0.92, 1.08), radius_y * rng.uniform(0.94, 1.08)

    # Coat: strands that run outwards from the nose, finer grain, markings in a second colour, then the light.
    radius = np.hypot(x - turn, y - 0.15)
    strands = noise(rng, np.arctan2(y - 0.15, x - turn) * float(LATTICE / (2 * np.pi)), radius * rng.uniform(4, 9))
    grain = noise(rng, x * 30, y * 30)
    mixture = rng.uniform(0.3, 0.9)
    fur = mixture * strands + (1 - mixture) * grain
    first, second = (colour(str(c)) for c in rng.choice(COATS[species], 2, replace=False))
    pattern = str(rng.choice(PATTERNS[species]))
    if pattern in ("stripes", "spots", "mask", "tabby") or pattern != "mane" and np.abs(first - second).sum() < 0.4:
        second = second * 0.3
    elif pattern == "mane":
        second = second * rng.uniform(0.35, 0.7)
    marks = np.clip(markings(rng, pattern, x - turn, y), 0, 1)
    coat = (first + marks * (second - first)) * (1 + rng.uniform(0.15, 0.5) * fur)
    side, height = rng.uniform(-0.7, 0.7), rng.uniform(-0.8, 0.1)
    depth = np.sqrt(np.maximum(1.05 - (x / radius_x) ** 2 - (y / radius_y) ** 2, 0.04))
    shade = np.clip((side * x / radius_x + height * y / radius_y + depth) / (1 + side ** 2 + height ** 2) ** 0.5, 0, 1)
    ambient = rng.uniform(0.4, 0.75)
    coat = coat * (ambient + (1.15 - ambient) * shade)

    fringe = (0.09 * fur + 0.02) * rng.uniform(0.3, 1.2)
    body = ellipse(x, y, -0.5 * turn, 1.25, rng.uniform(0.6, 0.95), rng.uniform(0.7, 0.95))
    paint(picture, inside(body + fringe), coat * 1.15 * (0.45 + 0.5 * inside(0.75 - y, 0.7)))
    if pattern == "mane":
        mane = ellipse(x, y, 0, 0.1, rng.uniform(0.78, 0.95), rng.uniform(0.8, 0.95)) + 1.2 * fringe
        paint(picture, inside(mane, 0.06), second * (0.55 + 0.45 * fur) * (0.5 + 0.6 * inside(y - 0.4, 1.2)))
    ears(rng, species, picture, x + 0.3 * turn, y, coat, fringe)
    head = ellipse(x, y, 0, 0, radius_x, radius_y)
    jaw = ellipse(x, y, 0.5 * turn, 0.33, *{"cat": (0.46, 0.30), "dog": (0.38, 0.38), "wild": (0.46, 0.36)}[species])
    paint(picture, 0.35 * inside(np.minimum(head, jaw) - 0.06, 0.2), colour(BLACK))
    paint(picture, inside(np.minimum(head, jaw) + fringe), coat)
    if species == "dog" and rng.random() < 0.5:                 # a white blaze up the forehead
        blaze = ellipse(x - turn, y, 0, -0.2, rng.uniform(0.06, 0.14), 0.5)
        paint(picture, 0.85 * inside(np.maximum(blaze, head + 0.03) + fringe, 0.08),
              colour(WHITE) * shade * (1 + 0.25 * fur))
    eyes(rng, species, picture, x - turn, y - nod)
    muzzle(rng, species, picture, x - 1.6 * turn, y - 1.5 * nod, coat, fur)

    # Exposure and colour of the light, then 2x2 pixels into one.
    tint = (rng.uniform(0.75, 1.2) * rng.uniform(0.92, 1.08, (3, 1, 1))).astype(np.float32)
    small = (picture * tint).reshape(3, SIDE, 2, SIDE, 2).mean((2, 4))
    return (np.clip(small, 0, 1) * 255 + 0.5).astype(np.uint8)


def draw_images(indices) -> np.ndarray:
    """The images with the given indices: uint8 [N, 3, 64, 64]."""
    return np.stack([draw(int(index)) for index in indices])


def labels_of(indices) -> np.ndarray:
    """Their species as numbers into SPECIES: int64 [N]."""
    return np.asarray(indices, np.int64) % len(SPECIES)
