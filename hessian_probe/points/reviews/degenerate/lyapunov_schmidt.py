"""Lyapunov–Schmidt reduction: the loss as a function of the flat directions alone, all others relaxed.

With H = Σ λᵢ vᵢ vᵢᵀ the space splits into the flat one N (|λᵢ| within the zero band) and the stiff one R.
For z in N the reduced loss is φ(z) = f(x + z + y(z)), where y(z) in R makes the gradient along R vanish
(Lyapunov and Schmidt).  Its gradient is that of f along N, by the envelope theorem.  f has a minimum at
x exactly where φ has one at 0, if H is positive on R: this sees the curved descents that no straight
line shows.  With a sign of −1 everything is about −f.

Source: M. Golubitsky and D. Schaeffer, Singularities and Groups in Bifurcation Theory I, 1985, chapter
    VII, doi:10.1007/978-1-4612-5034-0.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from hessian_probe.arrays import cast, flatten, flatten_rows
from hessian_probe.operators.hessian import HessianOperator

# Rows of one compiled call; fewer are padded.
ROWS = 8
# Relaxation steps along R, each of one evaluation, and the number of the last ones that are combined
# (D. G. Anderson, J. ACM 12, 1965, doi:10.1145/321296.321305).
STEPS = 60
MEMORY = 20
PATIENCE = 3
# Added to the diagonal of their normal equations, columns of unit length.
REGULAR = 1e-13
# Relaxed: what is left of the gradient along R changes φ by at most this share of what is measured along N.
REST_SHARE = 1e-4
# Draws of the rounding at a point, and how many times the largest change counts as noise.
DRAWS = 3
NOISE_FACTOR = 8.0


class RelaxedPoints(NamedTuple):
    """Points x + z + y(z), one a row.

    Attributes:
        z: coordinates in N, shape (s, k).
        y: coordinates in R, shape (s, r).
        value: ±f − f(x), shape (s,).
        slope: ∇φ in N, shape (s, k).
        rest: gradient along R, shape (s, r).
        good: relaxed, and finite.
        spare: what φ would still fall by until relaxed, shape (s,).
    """

    z: np.ndarray
    y: np.ndarray
    value: np.ndarray
    slope: np.ndarray
    rest: np.ndarray
    good: np.ndarray
    spare: np.ndarray

    def take(self, rows: np.ndarray) -> RelaxedPoints:
        """Choose rows."""
        return RelaxedPoints(*(part[rows] for part in self))

    @property
    def radius(self) -> np.ndarray:
        """‖z‖, shape (s,)."""
        return np.linalg.norm(self.z, axis=1)

    @property
    def outward(self) -> np.ndarray:
        """Slope of φ along z/‖z‖, shape (s,)."""
        return np.einsum("sk,sk->s", self.slope, self.z) / self.radius


class RelaxedRounding(NamedTuple):
    """Rounding of what `RelaxedPoints` holds, row by row; `outward` is that of the outward slope."""

    value: np.ndarray
    slope: np.ndarray
    rest: np.ndarray
    outward: np.ndarray


class ReducedLoss:
    """The reduced loss φ at a point whose whole spectrum is known.

    Args:
        op: the Hessian there.
        spectrum: eigenvalues and, by column, eigenvectors.
        band: half-width of the zero band.
        sign: −1 to look at −f.
        rng: source of the roundings that measure noise.
    """

    def __init__(
        self,
        op: HessianOperator,
        spectrum: tuple[np.ndarray, np.ndarray],
        band: float,
        sign: float,
        rng: np.random.Generator,
    ) -> None:
        values, vectors = spectrum
        flat = np.abs(values) <= band
        self.op, self.sign, self.band, self.rng = op, sign, band, rng
        self.flat, self.stiff = vectors[:, flat], vectors[:, ~flat]
        self.curvature = sign * values[~flat]
        self._x = flatten(cast(op.x, op.layout.work_dtypes))
        self.eps = op.eps
        self.here = sign * flatten(op.gradient_vector)

    @property
    def dimension(self) -> int:
        """Dimension of N."""
        return self.flat.shape[1]

    def moves(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Displacements in the parameters' coordinates, shape (s, n)."""
        return z @ self.flat.T + y @ self.stiff.T

    def evaluate(self, moves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Change of ±f, shape (s,), and its gradients, shape (s, n), at x + every row."""
        values, gradients = [], []
        for start in range(0, len(moves), ROWS):
            block = moves[start : start + ROWS]
            padded = np.concatenate([block, np.zeros((ROWS - len(block), block.shape[1]))])
            v, g = self.op.objective.values_and_gradients(self.op.x, self._leaves(padded))
            values.append(v[: len(block)])
            gradients.append(flatten_rows(g)[: len(block)])
        change = np.concatenate(values) - self.op.value
        return self.sign * change, self.sign * np.concatenate(gradients)

    def _leaves(self, flat: np.ndarray) -> tuple[Any, ...]:
        """Write rows as a basis of NumPy arrays: nothing is compiled for that."""
        layout, out, start = self.op.layout, [], 0
        for shape, dtype in zip(layout.shapes, layout.work_dtypes, strict=True):
            width = int(np.prod(shape))
            out.append(flat[:, start : start + width].astype(dtype).reshape(len(flat), *shape))
            start += width
        return tuple(out)

    def at(self, z: np.ndarray, y: np.ndarray) -> RelaxedPoints:
        """Evaluate without a step along R."""
        with np.errstate(all="ignore"):
            value, gradient = self.evaluate(self.moves(z, y))
            slope, rest = gradient @ self.flat, gradient @ self.stiff
            finite = np.isfinite(value) & np.all(np.isfinite(gradient), axis=1)
            spare = 0.5 * np.sum(rest**2 / self.curvature, axis=1)
            spare = np.where(finite & np.isfinite(spare), spare, np.inf)
            scale = np.linalg.norm(slope, axis=1) * np.linalg.norm(z, axis=1)
            good = finite & (spare <= REST_SHARE * scale)
        return RelaxedPoints(z, y, value, slope, rest, good, spare)

    def relax(self, z: np.ndarray, y: np.ndarray | None = None, tight: bool = False) -> RelaxedPoints:
        """Relax every row along R.

        Args:
            z: coordinates in N, shape (s, k).
            y: coordinates in R to start from; None means 0.
            tight: go on as long as that helps, not only until every row is relaxed.

        Returns:
            The points; rows that rounding alone keeps from relaxing count as relaxed.
        """
        y = np.zeros((len(z), len(self.curvature))) if y is None else y
        best = found = self.at(z, y)
        if len(self.curvature) == 0:
            return found
        history: list[tuple[np.ndarray, np.ndarray]] = []
        idle = 0
        for _ in range(STEPS):
            with np.errstate(all="ignore"):
                step = -found.rest / self.curvature
                history = [*history[-MEMORY:], (found.y, step)]
                y = _anderson(history)
            found = self.at(z, np.where(np.isfinite(y), y, 0.0))
            better = found.spare < best.spare
            best = _choose(better, found, best)
            idle = 0 if np.any(better & (tight | ~best.good)) else idle + 1
            if idle == PATIENCE:
                break
        rounding = np.linalg.norm(self.noise(best).rest, axis=1)
        at_rest = np.isfinite(best.value) & (np.linalg.norm(best.rest, axis=1) <= rounding)
        return best._replace(good=best.good | at_rest)

    def noise(self, found: RelaxedPoints) -> RelaxedRounding:
        """Measure by how much a rounding of the parameters changes what was found."""
        moves = self.moves(found.z, found.y)
        there = self._x + moves
        size = np.maximum(np.abs(there), np.sqrt(np.mean(there**2, axis=1, keepdims=True)))
        value = np.zeros(len(moves))
        slope, rest = np.zeros_like(found.slope), np.zeros_like(found.rest)
        outward = np.zeros(len(moves))
        unit = found.z / found.radius[:, None]
        with np.errstate(all="ignore"):
            for _ in range(DRAWS):
                signs = self.rng.choice([-1.0, 1.0], moves.shape)
                v, g = self.evaluate(moves + self.eps * signs * size)
                change = g @ self.flat - found.slope
                value = np.fmax(value, np.abs(v - found.value))
                slope = np.fmax(slope, np.abs(change))
                outward = np.fmax(outward, np.abs(np.einsum("sk,sk->s", change, unit)))
                rest = np.fmax(rest, np.abs(g @ self.stiff - found.rest))
        value, slope, rest, outward = (NOISE_FACTOR * part for part in (value, slope, rest, outward))
        return RelaxedRounding(value, slope, rest, outward)

    def thresholds(self, found: RelaxedPoints) -> tuple[np.ndarray, np.ndarray]:
        """Outward slopes below which each row's may be rounding; and may come from within the zero band."""
        here = 2.0 * np.abs(found.z @ (self.flat.T @ self.here)) / found.radius
        with np.errstate(all="ignore"):
            left = 2.0 * found.spare / found.radius
            measured = (
                self.noise(found).outward + here + left + NOISE_FACTOR * self.eps * np.abs(found.outward)
            )
        return measured, np.maximum(measured, 2.0 * self.band * found.radius)


def _choose(mask: np.ndarray, a: RelaxedPoints, b: RelaxedPoints) -> RelaxedPoints:
    return RelaxedPoints(
        *(np.where(mask.reshape(-1, *[1] * (p.ndim - 1)), p, q) for p, q in zip(a, b, strict=True))
    )


def _anderson(history: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Combine the last steps so that what they leave is least, row by row."""
    y, step = history[-1]
    if len(history) == 1:
        return y + step
    moved = np.stack([b[0] - a[0] for a, b in pairwise(history)], axis=2)
    changed = np.stack([b[1] - a[1] for a, b in pairwise(history)], axis=2)
    usable = np.all(np.isfinite(changed), axis=(1, 2)) & np.all(np.isfinite(step), axis=1)
    out = y + step
    if np.any(usable):
        columns = changed[usable] / np.maximum(np.linalg.norm(changed[usable], axis=1, keepdims=True), 1e-300)
        gram = np.einsum("srm,srk->smk", columns, columns) + REGULAR * np.eye(columns.shape[2])
        weights = np.linalg.solve(gram, np.einsum("srm,sr->sm", columns, step[usable])[..., None])[..., 0]
        weights /= np.maximum(np.linalg.norm(changed[usable], axis=1), 1e-300)
        out[usable] -= np.einsum("srm,sm->sr", moved[usable] + changed[usable], weights)
    return out
