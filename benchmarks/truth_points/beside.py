"""Points beside minima, minima of high condition, and ReLU networks: labels at a resolution.

x* is a global minimum within the reach 0.3 max(‖x‖, 1), so that loss(x) − loss(x*) is the largest decrease
there.  The resolution is 1e-5 of the smallest of three scales: ½‖H‖ reach²; the loss at zero, and at
shuffled parameters, minus the loss at x.  Where at most a fifth of it is left x is a minimum, where five
times it or more a slope; nothing in between is in the tables.
"""

import functools
from collections.abc import Callable
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.truth_points import optima, orbits
from benchmarks.truth_points.orbits import ORBIT, reflect, unit
from benchmarks.truth_points.table import changed, draws, of_data, table
from hessian_probe.problems import KnownPoint

REACH, RESOLUTION = 0.3, 1e-5
SHUFFLES = 100
# Decreases that are clearly below and clearly above the resolution, and those that are aimed at.
BELOW, ABOVE = 0.2, 5.0
AIMS = {"below": 0.08, "above": 20.0}
# Under jax.experimental in releases before jax.enable_x64.
in_float64: Any = getattr(jax if hasattr(jax, "enable_x64") else jax.experimental, "enable_x64")  # noqa: B009


@functools.cache
def product_of(loss: Callable[..., jax.Array]) -> Any:
    """Compile (params, data, v) → Hv."""
    return jax.jit(lambda p, data, v: jax.jvp(lambda q: jax.grad(loss)(q, data), (p,), (v,))[1])


def flatten(tree: Any) -> np.ndarray:
    """Return all numbers of a pytree in one array."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


class Place:
    """A known minimum, seen in float64 from the places beside it."""

    def __init__(self, minimum: KnownPoint, rng: np.random.Generator) -> None:
        self.minimum, self.rng, self.loss = minimum, rng, jax.jit(minimum.loss)
        self.leaves, self.form = jax.tree.flatten(minimum.params)
        self.x = flatten(minimum.params)
        places = np.split(np.arange(self.x.size), np.cumsum([leaf.size for leaf in self.leaves])[:-1])
        self.shuffles = [np.concatenate([rng.permutation(p) for p in places]) for _ in range(SHUFFLES)]
        self.lowest = 0.0
        self.lowest = self.gain(self.x)

    def back(self, x: np.ndarray) -> Any:
        """Return flat numbers in the form of the parameters."""
        parts = np.split(x, np.cumsum([leaf.size for leaf in self.leaves])[:-1])
        shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, self.leaves, strict=True)]
        return jax.tree.unflatten(self.form, shaped)

    def gain(self, x: np.ndarray) -> float:
        """Return loss(x) − loss(x*)."""
        with in_float64(True):
            return float(self.loss(self.back(x), self.minimum.data)) - self.lowest

    def scales(self, x: np.ndarray) -> np.ndarray:
        """Return the smallest scale at x, as low and as high as a median of five shuffles may have it."""
        v, norm = unit(self.rng, x.size), 0.0
        with in_float64(True):
            for _ in range(30):
                v = flatten(product_of(self.minimum.loss)(self.back(x), self.minimum.data, self.back(v)))
                norm = float(np.linalg.norm(v))
                v = v / max(norm, 1e-300)
        here = self.gain(x)
        apart = np.abs([self.gain(x[turn]) - here for turn in self.shuffles])
        reach = REACH * max(float(np.linalg.norm(x)), 1.0)
        found = [0.5 * norm * reach**2, abs(self.gain(0.0 * x) - here)]
        found = [scale for scale in found if np.isfinite(scale) and scale > 0.0]
        ends = np.quantile(apart, [0.1, 0.9])  # a median of five lies outside of these in one of 60 cases
        return np.array([min([*found, end] if end > 1e-13 * apart.max() else found) for end in ends])

    def beside(self, name: str, direction: np.ndarray, how: float | str) -> list[KnownPoint]:
        """Go a share of ‖x*‖ along a direction, or as far as leaves the decrease aimed at; or none."""
        aimed, length = isinstance(how, str), float(np.linalg.norm(self.x))
        direction = direction / np.linalg.norm(direction)
        share, x = 1e-3 if aimed else how, self.x
        for _ in range(2 if aimed else 0):
            aim = AIMS[how] * RESOLUTION * float(self.scales(x)[int(how == "above")])
            for _ in range(8):  # exact for a parabola, halves the error at a kink
                share *= np.sqrt(aim / self.gain(self.x + share * length * direction))
            x = self.x + share * length * direction
        x = self.x + share * length * direction
        # What is left in units of the resolution, as large and as small as it may be.
        large, small = self.gain(x) / (RESOLUTION * self.scales(x))
        if large > BELOW and small < ABOVE:
            return []
        low = bool(large <= BELOW)
        ratio = f"{large if low else small:.2g} of the resolution"
        why = f"{share:.0e} of ‖x‖ beside a global minimum, higher by {ratio}"
        # Beside a minimum there may be negative curvature, made by the distance.
        facts: dict[str, Any] = {"index": None, "params": self.back(x), "eigenvalue_range": None, "why": why}
        facts |= {} if low else {"label": "not_critical", "num_zero": None, "degenerate": False}
        return [changed(self.minimum, f"{name}_{how if aimed else format(how, '.0e')}", **facts)]


@of_data
def valley(x: jax.Array, slope: Any) -> jax.Array:
    """(x₀x₁ − 2)² + x₂² + s(x₀ − x₁)²."""
    return (x[0] * x[1] - 2.0) ** 2 + x[2] ** 2 + slope[0] * (x[0] - x[1]) ** 2


def valley_floor(_: int, slope: float) -> KnownPoint:
    """The curve x₀x₁ = 2 of minima for s = 0, and its middle, the only minimum with x₀ > 0 for s > 0."""
    params, name = np.array([np.sqrt(2.0), np.sqrt(2.0), 0.0]), f"valley_{slope:g}"
    facts = ORBIT | {"num_zero": 1} if slope == 0.0 else {"num_zero": 0}
    return KnownPoint(name, valley, params, "minimum", 0, np.array([slope]), **facts)


BASES: tuple[tuple[Callable[..., KnownPoint], tuple[Any, ...]], ...] = (
    (orbits.merged, (2, False)),
    (orbits.eigenvectors, ((30,), 0)),
    (orbits.weight_norms, (3.0, False)),
    (orbits.low_rank, (5, 3)),
    (optima.tensors, ("fit",)),
    (optima.distances, (False, 0)),
    (valley_floor, (0.0,)),
    (valley_floor, (1e-6,)),
)


@table("beside", [(number,) for number in range(len(BASES))])
def beside(seed: int, number: int) -> list[KnownPoint]:
    """In a random direction from minima on orbits, along the orbit as well as away from it."""
    maker, case = BASES[number]
    place, rng = Place(maker(seed, *case), draws(seed, number, 71)), draws(seed, number, 72)
    name = place.minimum.name
    stops = [place.beside(name, unit(rng, place.x.size), how) for how in (1e-6, 1e-4, "below", "above")]
    return [point for found in stops for point in found]


# ½ mean (Ax − b)²; mean |Ax − b|.
least_squares = of_data(lambda x, a, b: 0.5 * jnp.mean((a @ x - b) ** 2))
absolute_deviations = of_data(lambda x, a, b: jnp.mean(jnp.abs(a @ x - b)))


@of_data
def soft_logistic(params: jax.Array, rows: Any, probabilities: Any) -> jax.Array:
    """Mean cross-entropy of probabilities p under the log-odds Ax."""
    logits = rows @ params
    return jnp.mean(jax.nn.softplus(logits) - probabilities * logits)


def solved(loss: str, n: int, root: np.ndarray, rng: np.random.Generator) -> tuple[KnownPoint, np.ndarray]:
    """Make a convex fit at its solution, and the directions in which the curvature is about root²."""
    x, vectors = rng.standard_normal(n), np.eye(n)
    if loss == "logistic":
        rows = rng.standard_normal((2 * n, n)) * root
        data = (rows, 1.0 / (1.0 + np.exp(-rows @ x)))
        return KnownPoint("", soft_logistic, x, "minimum", 0, data, num_zero=0), vectors
    left, vectors = unit(rng, n + 50), reflect(vectors, unit(rng, n))
    rows = reflect(np.r_[root[:, None] * vectors, np.zeros((50, n))].T, left).T * np.sqrt(n + 50.0)
    misfit = reflect(np.r_[np.zeros(n), rng.standard_normal(50)], left)
    return KnownPoint("", least_squares, x, "minimum", 0, (rows, rows @ x + misfit), num_zero=0), vectors


SIZES = [("least_squares", 100), ("least_squares", 300), ("least_squares", 1000)]
SIZES += [("logistic", 100), ("logistic", 300)]


@table("ill_conditioned", [(*case, condition) for case in SIZES for condition in (1e4, 1e6)])
def ill_conditioned(seed: int, loss: str, size: int, condition: float) -> list[KnownPoint]:
    """Convex fits of high condition at the solution, at an optimiser's stop, and on a slope.

    At the stop the gradient has equal parts along all eigenvectors, so that what is left lies along the
    flattest; on the slope it lies along curvature of 1e-3 … 1e-1 of the highest.  The labels are statements
    at the resolution: no sign of an eigenvalue below 1e-5‖H‖ changes them.
    """
    rng = draws(seed, len(loss), size, int(np.log10(condition)), 73)
    root = np.logspace(0.0, -0.5 * np.log10(condition), size)
    minimum, vectors = solved(loss, size, root, rng)
    name, signs = f"{loss}_{size}_{condition:.0e}", rng.choice([-1.0, 1.0], size)
    place = Place(minimum, rng)
    middle = (root**2 > 1e-3) & (root**2 < 1e-1)
    return [
        changed(minimum, f"{name}_solved", why="a convex function, and its gradient is zero"),
        *place.beside(name, (signs / root**2) @ vectors, "below"),
        *place.beside(name, (signs * middle / root) @ vectors, "above"),
    ]


def relu_outputs(params: dict[str, jax.Array], inputs: Any) -> jax.Array:
    """Σ vⱼ relu(wⱼ·x + bⱼ) + c."""
    return jax.nn.relu(inputs @ params["w"].T + params["b"][None, :]) @ params["v"] + params["c"]


# ½ mean (f(x) − y)²; mean |f(x) − y|.
RELU_LOSSES = {
    "square": of_data(lambda p, x, y: 0.5 * jnp.mean((relu_outputs(p, x) - y) ** 2)),
    "absolute": of_data(lambda p, x, y: jnp.mean(jnp.abs(relu_outputs(p, x) - y))),
}


def relu_fit(seed: int, loss: str, state: str, number: int) -> KnownPoint:
    """Four units that fit 40 samples exactly: anywhere, one silent, on kinks of integers, 1e-6 beside."""
    rng = draws(seed, len(loss), len(state), number, 74)
    inputs, w, b = rng.standard_normal((40, 3)), rng.standard_normal((4, 3)), 0.5 * rng.standard_normal(4)
    if "kink" in state:
        inputs = rng.integers(-6, 7, (40, 3)) / 4.0
        w = rng.integers(1, 4, (4, 3)) * rng.choice([-1.0, 1.0], (4, 3))
        b = -np.sum(w * inputs[:4], axis=1)
    if state == "beside_kink":
        b = b + 1e-6 * rng.choice([-1.0, 1.0], 4)
    if state == "silent":
        b[0] = -0.5 - np.max(inputs @ w[0])
    params = {"w": w, "b": b, "v": rng.uniform(0.5, 1.5, 4) * rng.choice([-1.0, 1.0], 4), "c": np.ones(1)}
    outputs = np.maximum(inputs @ w.T + b, 0.0) @ params["v"] + params["c"]
    name, data = f"fit_{loss}_{state}_{number}", (inputs, outputs)
    return KnownPoint(name, RELU_LOSSES[loss], params, "minimum", data=data, why="zero loss", **ORBIT)


table("relu", product(RELU_LOSSES, ("anywhere", "silent", "kink", "beside_kink"), range(2)))(relu_fit)


@table("relu", product(RELU_LOSSES, range(2)))
def relu_beside(seed: int, loss: str, number: int) -> list[KnownPoint]:
    """In a random direction from an exact fit."""
    fit, rng = relu_fit(seed, loss, "anywhere", number), draws(seed, len(loss), number, 75)
    place = Place(fit, rng)
    below, above = (place.beside(fit.name, unit(rng, place.x.size), how) for how in ("below", "above"))
    return below + above


@table("relu", 2)
def silent_network(seed: int, number: int) -> KnownPoint:
    """No unit is active within the reach, where −10 + w·x rises by at most 7.5; c is the mean of y."""
    rng = draws(seed, number, 76)
    inputs, targets = rng.uniform(-0.3, 0.3, (40, 3)), 1.0 + rng.standard_normal(40)
    params = {"w": 0.1 * rng.standard_normal((4, 3)), "b": np.full(4, -10.0)}
    params |= {"v": rng.choice([-1.0, 1.0], 4), "c": np.array([targets.mean()])}
    name, loss, data = f"silent_{number}", RELU_LOSSES["square"], (inputs, targets)
    why = "constant in all but c, and c is the mean"
    return KnownPoint(name, loss, params, "minimum", 0, data, num_zero=20, why=why, **ORBIT)


@table("relu", 2)
def absolute_fits(seed: int, number: int) -> list[KnownPoint]:
    """Least absolute deviations where ten outliers come in pairs b ± d at the same row, and beside."""
    rng = draws(seed, number, 77)
    rows, x, away = rng.standard_normal((40, 6)), rng.standard_normal(6), np.zeros(40)
    rows[35:] = rows[30:35]
    away[30:] = np.r_[1.0, -1.0].repeat(5) * np.tile(rng.uniform(1.0, 3.0, 5), 2)
    data = (rows, rows @ x + away)
    why = "convex, and zero is a subgradient: outliers at the same row pull both ways"
    fit = KnownPoint(f"absolute_{number}", absolute_deviations, x, "minimum", data=data, why=why)
    place = Place(fit, rng)
    return [fit, *place.beside(fit.name, unit(rng, 6), 1e-7), *place.beside(fit.name, unit(rng, 6), "above")]
