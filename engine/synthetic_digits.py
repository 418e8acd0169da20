"""Drawn digits, 28x28: a data set that needs no download.

Image k depends on k alone: its numbers come from a Philox stream keyed by k, so a set of any size, drawn in any order
or in several processes, holds the same image k. Its label is k mod 10.

A digit is one of several ways of writing it, each a few pen strokes: smooth curves through a few points. The points
move a little, the whole digit is bent, slanted, turned, narrowed or widened, and the pen is thin or thick. As in MNIST
(LeCun et al. 1998) the ink is white on black, fits into a box of 20x20 and has its centre of mass in the middle.
"""
import functools

import numpy as np

NAMES = tuple("0123456789")
SIDE = 28
BOX = 20                        # pixels of the box that the ink fits into
STREAM = 0xD161                 # keeps these streams apart from other uses of small integers as keys
PIECES = 6                      # straight pieces per stretch of curve between two points
EDGE = 0.9                      # pixels over which the edge of a stroke fades

# Ways to write each digit, x right and y down, about 0...1 either way: strokes, each a curve through its points. A
# corner ends a stroke. The second entry says how often the way is chosen.
WAYS = {
    0: [([[(.55, .02), (.16, .22), (.08, .66), (.42, 1.), (.84, .74), (.88, .28), (.58, .01), (.42, .06)]], 3),
        ([[(.68, .08), (.40, .03), (.10, .40), (.16, .86), (.52, .98), (.86, .60), (.80, .16), (.52, .00)]], 2)],
    1: [([[(.50, .0), (.50, .5), (.50, 1.)]], 5),
        ([[(.28, .22), (.52, .0)], [(.52, .0), (.51, .5), (.50, 1.)]], 2),
        ([[(.24, .24), (.52, .0)], [(.52, .0), (.52, .5), (.52, 1.)], [(.22, 1.), (.84, 1.)]], 1)],
    2: [([[(.10, .24), (.42, .0), (.82, .20), (.62, .58), (.08, 1.)], [(.08, 1.), (.50, .96), (.94, .98)]], 3),
        ([[(.12, .20), (.46, .0), (.80, .24), (.58, .66), (.22, .97), (.06, .86), (.28, .76), (.62, .92), (.98, .94)]],
         3),
        ([[(.16, .10), (.52, .02), (.76, .28), (.52, .72), (.10, .94)], [(.10, .94), (.40, .86), (.92, 1.)]], 1)],
    3: [([[(.12, .12), (.46, .0), (.80, .20), (.40, .46)], [(.40, .46), (.86, .68), (.54, .99), (.06, .88)]], 3),
        ([[(.10, .04), (.48, .0), (.84, .10), (.56, .36), (.42, .44)], [(.42, .44), (.88, .64), (.60, .98),
                                                                        (.08, .94)]], 2),
        ([[(.10, .02), (.82, .02)], [(.82, .02), (.40, .40)], [(.40, .40), (.86, .62), (.58, .98), (.06, .90)]], 1),
        ([[(.14, .14), (.52, .0), (.78, .22), (.46, .45), (.40, .48), (.52, .48), (.84, .72), (.46, 1.), (.06, .86)]],
         2)],
    4: [([[(.16, .04), (.10, .46), (.26, .58), (.80, .50)], [(.84, .0), (.80, .50), (.74, 1.)]], 3),
        ([[(.14, .08), (.08, .54)], [(.08, .54), (.48, .56), (.90, .52)], [(.76, .04), (.72, .52), (.70, 1.)]], 2),
        ([[(.62, .0), (.34, .32), (.04, .66)], [(.04, .66), (.50, .66), (.96, .62)], [(.64, .0), (.62, .50),
                                                                                      (.58, 1.)]], 2)],
    5: [([[(.86, .02), (.28, .04)], [(.28, .04), (.18, .42)], [(.18, .42), (.60, .38), (.82, .66), (.52, .98),
                                                               (.06, .90)]], 4),
        ([[(.94, .0), (.60, .04), (.38, .06)], [(.38, .06), (.20, .38), (.52, .50), (.68, .72), (.46, .96),
                                                (.06, .96)]], 2),
        ([[(.30, .06), (.22, .40)], [(.22, .40), (.58, .42), (.72, .68), (.42, .98), (.06, .84)], [(.30, .06),
                                                                                           (.62, .06), (.92, .0)]], 2)],
    6: [([[(.72, .0), (.32, .28), (.12, .68), (.36, .98), (.74, .82), (.60, .56), (.30, .60), (.14, .78)]], 3),
        ([[(.48, .0), (.20, .36), (.12, .78), (.44, 1.), (.80, .78), (.54, .54), (.20, .70)]], 2),
        ([[(.92, .06), (.50, .12), (.14, .56), (.26, .94), (.64, .92), (.72, .64), (.44, .54), (.16, .72)]], 1)],
    7: [([[(.08, .08), (.50, .06), (.88, .04)], [(.88, .04), (.62, .44), (.40, 1.)]], 4),
        ([[(.08, .22), (.12, .06)], [(.12, .06), (.52, .06), (.86, .04)], [(.86, .04), (.66, .40), (.50, 1.)]], 2),
        ([[(.10, .06), (.86, .04)], [(.86, .04), (.56, .50), (.36, 1.)], [(.30, .50), (.82, .46)]], 1),
        ([[(.06, .14), (.40, .02), (.76, .06), (.78, .26), (.58, .60), (.50, 1.)]], 2)],
    8: [([[(.76, .12), (.44, .0), (.22, .20), (.50, .46), (.78, .74), (.48, 1.), (.18, .76), (.48, .48), (.80, .22),
           (.74, .10)]], 3),
        ([[(.86, .16), (.52, .0), (.26, .16), (.44, .42), (.66, .68), (.42, .99), (.14, .84), (.40, .54), (.76, .32),
           (.88, .06)]], 2),
        ([[(.48, .48), (.22, .24), (.50, .0), (.78, .22), (.50, .48), (.16, .76), (.50, 1.), (.84, .76), (.50, .48)]],
         1)],
    9: [([[(.80, .20), (.46, .02), (.14, .26), (.40, .50), (.80, .24)], [(.80, .20), (.76, .58), (.66, 1.)]], 3),
        ([[(.74, .10), (.36, .06), (.16, .34), (.46, .46), (.78, .14)], [(.78, .14), (.70, .56), (.50, 1.)]], 2),
        ([[(.78, .22), (.46, .0), (.18, .26), (.44, .48), (.78, .24)], [(.78, .22), (.78, .70), (.48, 1.), (.12, .90)]],
         1),
        ([[(.84, .08), (.40, .04), (.18, .30), (.46, .44), (.80, .12), (.66, .54), (.44, 1.)]], 2)],
}


def curve(num_points: int) -> np.ndarray:
    """Weights [num_pieces + 1, num_points] that turn points into a Catmull-Rom curve through all of them, as places
    along it. Beyond either end the first and the last stretch go straight on."""
    if num_points == 2:
        share = np.linspace(0, 1, PIECES + 1)[:, None]
        return np.concatenate([1 - share, share], axis=1)
    corner = np.eye(num_points)
    extended = np.concatenate([[2 * corner[0] - corner[1]], corner, [2 * corner[-1] - corner[-2]]])
    share = np.arange(PIECES)[:, None] / PIECES
    stretches = []
    for before, start, end, after in zip(extended, extended[1:], extended[2:], extended[3:]):
        stretches.append(0.5 * (2 * start + share * (end - before)
                                + share ** 2 * (2 * before - 5 * start + 4 * end - after)
                                + share ** 3 * (3 * start - before - 3 * end + after)))
    return np.concatenate([*stretches, corner[-1:]])


@functools.cache
def way_as_arrays(label: int, number: int):
    """Points of one way [P, 2] and, for the curves through them, the weights of the pieces' two ends [pieces, P]."""
    strokes = WAYS[label][number][0]
    points = np.concatenate([np.array(stroke) for stroke in strokes])
    starts, ends, first = [], [], 0
    for stroke in strokes:
        weights = np.zeros(((len(stroke) - 1) * PIECES + 1 if len(stroke) > 2 else PIECES + 1, len(points)))
        weights[:, first:first + len(stroke)] = curve(len(stroke))
        starts.append(weights[:-1])
        ends.append(weights[1:])
        first += len(stroke)
    # A corner is one point of the pen: where a stroke starts at a point of another, both move together.
    same = np.array([int(np.abs(points - point).sum(1).argmin()) for point in points])
    return points, same, np.concatenate(starts), np.concatenate(ends)


CHANCES = {label: np.cumsum([often for _, often in ways]) / sum(often for _, often in ways)
           for label, ways in WAYS.items()}
_axis = np.arange(SIDE, dtype=np.float32)
PIXEL_X, PIXEL_Y = (grid.reshape(1, -1) for grid in np.meshgrid(_axis, _axis))          # [1, 784]


def pen_strokes(rng, label: int):
    """Where the pen goes and how wide it is: starts and ends of straight pieces [pieces, 2], radii [pieces], pixels."""
    number = int(np.searchsorted(CHANCES[label], rng.random(), side="right"))
    points, same, to_start, to_end = way_as_arrays(label, number)
    points = (points + rng.normal(0, 0.035, points.shape)[same]) - 0.5
    # Bends of long wave, the same for both ends of a piece, so that strokes stay in one.
    phase, wave, size = rng.uniform(0, 2 * np.pi, 4), rng.uniform(2, 5, 4), rng.normal(0, 0.045, 4)
    width = rng.uniform(0.28, 1.0) if label == 1 else rng.uniform(0.62, 1.08)
    slant, turn = rng.normal(0.18, 0.22), rng.normal(0, 0.08)
    cosine, sine = np.cos(turn), np.sin(turn)
    matrix = np.array([[cosine, -sine], [sine, cosine]]) @ np.array([[width, -slant], [0, 1]])

    def placed(at):
        x, y = at[:, 0], at[:, 1]
        bent = np.stack([x + size[0] * np.sin(wave[0] * y + phase[0]) + size[1] * np.sin(wave[1] * x + phase[1]),
                         y + size[2] * np.sin(wave[2] * x + phase[2]) + size[3] * np.sin(wave[3] * y + phase[3])], 1)
        return bent @ matrix.T

    starts, ends = placed(to_start @ points), placed(to_end @ points)
    radius = np.exp(rng.normal(0.24, 0.30)).clip(0.65, 2.2)
    pressure = 1 + rng.uniform(0, 0.22) * np.sin(np.linspace(0, rng.uniform(2, 9), len(starts)) + phase[0])
    radii = radius * pressure
    low, high = np.minimum(starts, ends).min(0), np.maximum(starts, ends).max(0)
    scale = (BOX - 1 - 2 * radius) / (high - low).max()
    lengths = (np.hypot(*(ends - starts).T) * radii)[:, None]
    centre = (lengths * (starts + ends)).sum(0) / (2 * lengths.sum())
    middle = (SIDE - 1) / 2 + rng.normal(0, 0.35, 2)
    # A digit with its weight at one end, such as 7, would leave the image there: it stays half a pixel inside.
    middle = middle.clip((centre - low) * scale + radius, SIDE - 1 - (high - centre) * scale - radius)
    return (starts - centre) * scale + middle, (ends - centre) * scale + middle, radii


def draw(index: int) -> np.ndarray:
    """Image number `index` (0 or more): uint8 [1, 28, 28], 0 the ground, 255 ink; its digit is index % 10."""
    rng = np.random.Generator(np.random.Philox(key=STREAM << 64 | index))
    starts, ends, radii = pen_strokes(rng, index % 10)
    starts, ends, radii = (value.astype(np.float32) for value in (starts, ends, radii))
    along = ends - starts                                                               # [pieces, 2]
    squared = np.maximum((along ** 2).sum(1), 1e-6)[:, None]
    x, y = PIXEL_X - starts[:, :1], PIXEL_Y - starts[:, 1:]                             # [pieces, 784]
    share = np.clip((x * along[:, :1] + y * along[:, 1:]) / squared, 0, 1)              # the nearest place of a piece
    x -= share * along[:, :1]
    y -= share * along[:, 1:]
    x *= x
    y *= y
    x += y
    depth = (radii[:, None] - np.sqrt(x, out=x)).max(0)                                 # how far inside the ink
    edge = np.float32(EDGE * rng.uniform(0.8, 1.5))
    ink = np.clip(depth / edge + 0.5, 0, 1) * rng.uniform(0.9, 1.0)
    return (ink * 255 + 0.5).astype(np.uint8).reshape(1, SIDE, SIDE)


def draw_images(indices) -> np.ndarray:
    """The images with the given indices: uint8 [N, 1, 28, 28]."""
    return np.stack([draw(int(index)) for index in indices])


def labels_of(indices) -> np.ndarray:
    """Their digits: int64 [N]."""
    return np.asarray(indices, np.int64) % len(NAMES)
