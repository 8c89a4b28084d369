"""Training and test samples of the two photographs that scikit-learn ships: a temple and a flower."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn import datasets

from benchmarks.zoo.samples import Part, Parts, both, column, parted, standard, taken

TEMPLE, FLOWER = "china.jpg", "flower.jpg"


@functools.cache
def picture(name: str) -> np.ndarray:
    """Three colours from 0 to 1."""
    return np.asarray(datasets.load_sample_image(name), np.float64) / 255


@functools.cache
def grey(name: str) -> np.ndarray:
    """Grey values from 0 to 1."""
    return np.asarray(datasets.load_sample_image(name).mean(axis=2) / 255)


def windows(image: np.ndarray, seed: Any, count: int, side: int, width: int | None = None) -> np.ndarray:
    """Random pieces of an image: (count, side, side) or (count, side, width); `seed`: or a generator."""
    high, wide = side, side if width is None else width
    rng = np.random.default_rng(seed)
    tops = rng.integers(0, len(image) - (high if high > 1 else 0), count)
    lefts = rng.integers(0, image.shape[1] - wide, count)
    return np.stack([image[i : i + high, j : j + wide] for i, j in zip(tops, lefts, strict=True)])


def after(count: int, inputs: np.ndarray, targets: np.ndarray) -> Parts:
    """The first samples are for training, the others for the test."""
    return taken(inputs, targets, slice(count), slice(count, None))


def means(image: np.ndarray, rows: int, columns: int, high: int, wide: int) -> np.ndarray:
    """Means of blocks of high × wide pixels, (rows, columns)."""
    return image[: rows * high, : columns * wide].reshape(rows, high, columns, wide).mean(axis=(1, 3))


def made_of(cut: Any, split: Any, train: int = 600, test: int = 300, *more: int) -> Callable[..., Parts]:
    """Samples by seed: pieces of a photograph, split into inputs and targets."""
    return lambda seed, train=train: after(train, *split(cut(seed, train + test, *more)))


def patches(seed: int, count: int) -> np.ndarray:
    """Random 5 × 5 patches of the temple, (count, 25), of mean 0 and deviation 1 in all."""
    cut = windows(grey(TEMPLE), [seed, 15], count, 5)
    return standard(cut.reshape(count, -1)).astype(np.float32)


def squares(seed: int, count: int, side: int = 6, name: str = FLOWER) -> np.ndarray:
    """Random squares of a photograph, (count, side²), in units of the flower's deviation from its mean."""
    cut = windows(grey(name), [seed, 31], count, side).reshape(count, -1)
    return ((cut - grey(FLOWER).mean()) / grey(FLOWER).std()).astype(np.float32)


# Of a patch: itself; the middle pixel from the 24 around it; the logarithm of its deviation, standardised.
copied_patches = made_of(patches, lambda cut: (cut, cut))
centre = made_of(patches, lambda cut: (np.delete(cut, 12, axis=1), cut[:, 12:13]))
contrast = made_of(patches, lambda cut: (cut, column(standard(np.log(cut.std(1, keepdims=True) + 1e-2)))))
# Of a square: itself; a pixel, above zero, from the 35 others; the last row from the five above it.
flower = made_of(squares, lambda cut: (cut, cut))
flower_pixel = made_of(squares, lambda cut: (np.delete(cut, 14, axis=1), cut[:, 14:15] + 2))
next_row = made_of(squares, lambda cut: (cut[:, :30], cut[:, 30:]))
other_squares = made_of(partial(squares, name=TEMPLE), lambda cut: (cut, cut), 300, 0)
# Four of 64 pixels from the others; the square from its means of 2 × 2 pixels.
HIDDEN = np.ravel_multi_index(np.indices((2, 2)).reshape(2, -1) + 2, (8, 8))
BLANK = np.isin(np.arange(64), HIDDEN)
holes = made_of(
    squares, lambda cut: (np.where(BLANK, 0.0, cut).astype(np.float32), cut[:, HIDDEN]), 800, 300, 8
)
halved = made_of(squares, lambda cut: (shrunk(cut, 6), cut), 600, 300, 12)


def shrunk(cut: np.ndarray, side: int) -> np.ndarray:
    """Means over 2 × 2 pixels of squares, as rows of side² numbers."""
    return cut.reshape(-1, side, 2, side, 2).mean(axis=(2, 4)).reshape(-1, side**2)


def roughness(seed: int) -> Parts:
    """How much a square of the flower differs from its mean, standardised, from a third of its pixels."""

    def change(x: np.ndarray, _: np.ndarray) -> Part:
        rough = x.std(axis=1, keepdims=True)
        return 2 * (x - x.mean(axis=1, keepdims=True))[:, ::3], column(standard(rough))

    return both(change, flower(seed))


def grainy(seed: int) -> Parts:
    """Squares of the temple with noise of a fifth of their deviation, and without it."""
    cut = standard(squares(seed, 600, 8, TEMPLE))
    noise = 0.2 * np.random.default_rng([seed, 105]).standard_normal(cut.shape)
    return after(400, (cut + noise).astype(np.float32), cut)


def grained(seed: int, grain: float = 0.3) -> Parts:
    """Squares of the flower's grey values, with grain added and without."""
    rng = np.random.default_rng([seed, 83])
    clean = windows(standard(picture(FLOWER).mean(axis=2)), rng, 700, 8).reshape(700, -1)
    return parted(clean + grain * rng.standard_normal(clean.shape), clean.astype(np.float32), seed, 500, 200)


def enlarged(seed: int) -> Parts:
    """Means of 2 × 2 pixels of the flower, five by five, and the middle one's four pixels, with grain."""
    rng = np.random.default_rng([seed, 72])
    cut = windows(standard(picture(FLOWER).mean(axis=2)), rng, 1100, 10)
    fine = cut[:, 4:6, 4:6].reshape(-1, 4) + 0.15 * rng.standard_normal((len(cut), 4))
    return parted(shrunk(cut, 5), fine.astype(np.float32), seed, 800, 300)


def warmth(seed: int, train: int = 600, cut: np.ndarray | None = None) -> Parts:
    """Coloured squares of the flower, -1 to 1, and the logarithm of their red over blue, standardised."""
    cut = windows(picture(FLOWER), [seed, 71], train + 300, 6) if cut is None else cut
    red, _, blue = cut.mean(axis=(1, 2)).T + 0.1
    return parted(2 * cut.reshape(len(cut), -1) - 1, column(standard(np.log(red / blue))), seed, train, 300)


def walls(seed: int) -> Parts:
    """The same of smaller squares of the temple below the sky."""
    return warmth(seed, cut=windows(picture(TEMPLE)[210:], [seed, 82], 900, 4))


def lines(seed: int, length: int = 24) -> Parts:
    """Pieces of lines of the flower, and the same a pixel on."""
    cut = windows(standard(grey(FLOWER)), [seed, 87], 900, 1, length + 1).reshape(900, -1).astype(np.float32)
    return after(600, cut[:, :-1], cut[:, 1:])


def brightness(seed: int, *, counts: bool, length: int = 12) -> Parts:
    """Pieces of lines of the temple, sums of colours (0 to 765) or standardised, and the next pixel."""
    image = picture(TEMPLE).sum(axis=2) * 255
    rng = np.random.default_rng([seed, 81])
    rows, starts = rng.integers(0, image.shape[0], 900), rng.integers(0, image.shape[1] - length, 900)
    cut = image[rows[:, None], starts[:, None] + np.arange(length + 1)]
    scaled = (cut - image.mean()) / image.std()
    return parted((cut if counts else scaled)[:, :-1], column(scaled[:, -1]), seed, 600, 300)


def levelling(seed: int, count: int) -> Part:
    """Differences of height between neighbouring points of a line; the heights are greys of the flower."""
    image = gaussian_filter(grey(FLOWER), 6.0)
    row = np.random.default_rng([seed, 86]).integers(0, len(image))
    line = image[row, :: image.shape[1] // count][:count]
    neighbours = np.stack([np.arange(count - 1), np.arange(1, count)], axis=1).astype(np.int32)
    return neighbours, column(np.diff(line / line.std()))


def grid(rows: int, columns: int) -> np.ndarray:
    """Places from -1 to 1, (rows · columns, 2)."""
    axes = (np.linspace(-1, 1, size) for size in (rows, columns))
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def pixels(seed: int, train: int) -> Parts:
    """Places and grey values, standardised, of the flower at 32 × 32 means of blocks."""
    return parted(grid(32, 32), column(standard(means(grey(FLOWER), 32, 32, 13, 20))), seed, train, 300)


def profile(seed: int) -> Parts:
    """The height of a row of the flower, -1 to 1, and its mean grey value, standardised."""
    values = grey(FLOWER).mean(axis=1)
    return parted(np.linspace(-1, 1, len(values))[:, None], column(standard(values)), seed, 300, 120)


def blurred(seed: int) -> Parts:
    """Places, -1 to 1, in the flower, and its grey values there behind a blur of 8 pixels."""
    image = gaussian_filter(grey(FLOWER), 8.0)
    places = np.random.default_rng([seed, 65]).random((1024, 2))
    values = image[tuple((places * image.shape).astype(int).T)]
    return parted(2 * places - 1, column((values - image.mean()) / image.std()), seed, 824, 200)


def thumbnail(seed: int, *, counted: bool) -> Parts:
    """Places on the temple (counted in pixels, or from -1 to 1), and its mean grey values there."""
    values = column(standard(means(picture(TEMPLE).mean(axis=2), 42, 64, 10, 10)))
    places = np.indices((42, 64)).reshape(2, -1).T * 10.0 + 5
    return parted(places if counted else places / np.array([210, 320]) - 1, values, seed, 800, 300)


def survey(seed: int, *, degrees: bool) -> Parts:
    """Places in the temple as latitude and longitude, or standardised, and how bright it is."""
    values = column(standard(means(picture(TEMPLE).mean(axis=2), 21, 32, 20, 20)))
    places = np.indices((21, 32)).reshape(2, -1).T
    north_east = np.array([39.8822, 116.4066]) + places * np.array([-5e-5, 6e-5])
    return parted(north_east if degrees else standard(places, 0), values, seed, 400, 200)


def ratings(seed: int) -> Parts:
    """Numbers of a row and a column of the shrunk temple, as of a user and a film, and the grey value."""
    values = column(standard(means(gaussian_filter(picture(TEMPLE).mean(axis=2), 6.0), 42, 64, 10, 10)))
    places = np.indices((42, 64)).reshape(2, -1).T.astype(np.int32)
    chosen = np.random.default_rng([seed, 84]).permutation(len(places))[:2600]
    return after(2100, places[chosen], values[chosen])


def place_waves(seed: int) -> Parts:
    """Colours of every 20th pixel of the flower from waves of their place."""
    image = np.asarray(datasets.load_sample_image(FLOWER))[::20, ::20] / 255
    image = (image - image.mean((0, 1))) / image.std()
    place = grid(*image.shape[:2])
    angles = np.concatenate([np.pi * place * factor for factor in (0.5, 1.0, 2.0)], axis=1)
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1) * np.sqrt(2)
    return parted(waves, image.reshape(-1, 3).astype(np.float32), seed, 600, 60)


def mosaic(seed: int) -> Parts:
    """Green and blue at a red pixel of a sensor, from the one colour of each of 5 × 5 pixels (Bayer 1976)."""
    image = standard(np.asarray(datasets.load_sample_image(TEMPLE), np.float64)).astype(np.float32)
    rows, columns = np.indices(image.shape[:2]) % 2
    seen = np.take_along_axis(image, (rows + columns)[..., None], axis=2)[..., 0]
    rng = np.random.default_rng([seed, 61])
    tops, lefts = (2 * rng.integers(0, size // 2 - 3, 1100) for size in seen.shape)
    inputs = np.stack([seen[i : i + 5, j : j + 5].ravel() for i, j in zip(tops, lefts, strict=True)])
    return after(800, inputs, image[tops + 2, lefts + 2, 1:])


def palette(seed: int, train: int = 1000, test: int = 300) -> Parts:
    """Pixels of the flower by which of 512 colours they are, as training has them; their grey values."""
    image = datasets.load_sample_image(FLOWER).reshape(-1, 3)
    chosen = np.random.default_rng([seed, 62]).choice(len(image), 3 * (train + test), replace=False)
    kinds = (image[chosen] // 32).astype(np.int64) @ np.array([64, 8, 1])
    values = column(standard(image[chosen].mean(axis=1)))
    have = np.unique(kinds[:train])
    later = train + np.flatnonzero(np.isin(kinds[train:], have))[:test]
    rows = np.concatenate([np.arange(train), later])
    return after(train, (kinds[rows, None] == have).astype(np.float32), values[rows])
