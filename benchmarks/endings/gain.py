"""What is left to gain within the reach: an estimate on the safe side, tried on the loss.

Within a distance ρ of a point with gradient g and Hessian H ⪰ −ν, the quadratic model falls by at most

    ½ gᵀ(H + σ)⁻¹g + ½ σρ²   for every σ > ν                                                    (1)

(weak duality of the trust-region problem).  In the Krylov space of g, the solution of (T + σ)y = −|g|e₁
leaves a residual r, orthogonal to the space, and gᵀ(H + σ)⁻¹g ≤ −|g|y₁ + |r|²/(σ − ν).  The least value of
(1) over σ is the bound; the model's own decrease within the space is at most the true one, and both meet
when the space has seen what matters.  What the model says is then tried on the loss.

Where the bound is too wide (kinks, or curvature that many products do not show), a short run of L-BFGS shows
how fast the loss still falls, and twice what the second half of the run gained is taken for the rest.

Source: trust regions: A. R. Conn, N. I. M. Gould and P. L. Toint, Trust-Region Methods, 2000, chapters 5
and 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize

from hessian_probe.arrays import Vector, add_scaled, cast, flatten, host_norm, norm, row, unflatten
from hessian_probe.jobs.checkpoint import Job, Saving
from hessian_probe.operators.hessian import HessianOperator, hessian
from hessian_probe.points.extremes import ExtremeEigenpairs, ExtremesSearch
from hessian_probe.points.line_check import parameter_scale
from hessian_probe.points.rounding import Rounding
from hessian_probe.points.settings import Settings
from hessian_probe.spectrum.dense import dense_eigh
from hessian_probe.spectrum.krylov import Krylov

# The reach as a share of the parameters' length, and the resolution as a share of the smallest scale.
REACH = 0.3
RESOLUTION = 1e-5
SHUFFLES = 5
# Roundings of the loss below which no change counts.
ROUNDINGS = 4.0
# Products for the gradient's Krylov space at one point, points visited, and variables up to which the whole
# spectrum is computed instead.
PRODUCTS = 40
POINTS = 4
DENSE = 400
# The model is at most this factor short of the loss over the reach.
SAFETY = 2.0
# A bound below this share of the resolution, or within this factor of the model's decrease, is sharp enough.
SMALL = 0.25
SHARP = 2.0
# Shares of a step at which the loss is looked at; further out too, since models of valleys are short.
SHARES = 2.0 ** np.arange(-5, 3)
OUTWARD = 4.0 ** -np.arange(4)
# A step to where the model has the gradient vanish leaves 1/e of it along a tail like exp(−x), along 1/xᵖ
# more; towards a degenerate minimum xᵐ, m = 3, 4, 5, it leaves 0.25, 0.30, 0.32.
TAIL = 0.34
# A step shorter than this share of the reach ends inside it.
INTERIOR = 0.999
# On a tail the loss falls by at least this share of what the model predicts.
AS_MODELLED = 0.5
# Displacements from which descents are tried, as shares of the reach, and evaluations of each; evaluations of
# the run that replaces a bound.
STARTS = (0.03, 0.3, 1.0)
EVALUATIONS = 12
TRIAL = 100
BESIDE = 0.003
ADAM_SHARE = 0.01
# What is left is taken as this many times what the second half of such a run gained.
REST = 2.0
# Curvature below this share of ‖H‖ is flat enough to be displaced along.
FLAT = 1e-3


class Gain(NamedTuple):
    """What is left to gain near a point.

    Attributes:
        reach: distance considered, in params.
        resolution: smallest change of the loss that counts, in loss units.
        slope: estimate, on the safe side, of the decrease that the gradient makes within the reach.
        curvature: decrease that the lowest curvature makes there, as seen on the loss.
        shown: largest decrease seen on the loss.
        move: displacement from the parameters to the lowest loss seen, or None.
        distance: distance to the point at which the rest was estimated.
        tail: whether it goes on beyond the points where the model has it vanish, twice in a row.
    """

    reach: float
    resolution: float
    slope: float
    curvature: float
    shown: float
    move: Vector | None
    distance: float
    tail: bool

    @property
    def value(self) -> float:
        """The largest of the three."""
        return max(self.slope, self.curvature, self.shown)


class TrustRegion:
    """The quadratic model in an eigenbasis.

    Args:
        values: eigenvalues, or Ritz values.
        parts: components of the gradient along their vectors.
        tail: coupling of every Ritz vector to what is outside the space; zeros for a whole spectrum.
    """

    def __init__(self, values: np.ndarray, parts: np.ndarray, tail: np.ndarray) -> None:
        self.values, self.parts, self.tail = values, parts, tail
        self.top = float(np.max(np.abs(values), initial=0.0))

    def step(self, radius: float) -> tuple[np.ndarray, float]:
        """Return the step within a radius that lowers the model the most, and the decrease.

        Where the gradient has no component along negative curvature, none is added: that decrease is
        looked for along the eigenvector itself.
        """
        tiny = 1e-15 * self.top
        floor = max(0.0, -float(np.min(self.values))) + tiny

        def along(sigma: float) -> np.ndarray:
            return np.nan_to_num(-self.parts / (self.values + sigma))

        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            low, high = floor, floor + host_norm(self.parts) / radius
            if host_norm(along(low)) <= radius:
                high = low
            for _ in range(100 if high > low > 0 else 0):
                middle = math.sqrt(low * high)
                low, high = (middle, high) if host_norm(along(middle)) > radius else (low, middle)
            step = along(high)
        return step, -float(step @ self.parts + 0.5 * self.values @ step**2)

    def bound(self, radius: float, band: float) -> float:
        """Return the least bound (1); curvature above −`band` is taken as zero."""
        floor, best = max(0.0, -float(np.min(self.values)) - band), math.inf
        widest = self.top + host_norm(self.parts) / radius
        for extra in np.concatenate([[0.0], widest * np.logspace(-16, 0, 65)]):
            shifted = np.maximum(self.values, -floor) + floor + extra
            if not np.all(shifted > 0):
                continue
            y = self.parts / shifted
            rest = float(self.tail @ y) ** 2
            if rest > 0 and extra == 0:
                continue
            outside = 0.5 * rest / extra if rest > 0 else 0.0
            best = min(best, 0.5 * float(y @ self.parts) + outside + 0.5 * (floor + extra) * radius**2)
        return best


class GainEstimate:
    """Measures what is left to gain from a point.

    Args:
        op: operator at the parameters.
        extremes: extreme eigenpairs there.
        rounding: rounding error there.
        rng: source of randomness.
        budget: products allowed.
        resolution: the caller's, or None.
    """

    def __init__(
        self,
        op: HessianOperator,
        extremes: ExtremeEigenpairs,
        rounding: Rounding,
        rng: np.random.Generator,
        budget: int,
        resolution: float | None = None,
    ) -> None:
        self.op, self.extremes, self.rounding, self.rng = op, extremes, rounding, rng
        self.stop_at = op.objective.cost.num_hvps + budget
        self.work = op.layout.work_dtypes
        self.reach = REACH * parameter_scale(op)
        if resolution is None:
            resolution = RESOLUTION * min(self.scales(), default=0.0)
        self.resolution = max(resolution, ROUNDINGS * rounding.value)
        self.shown, self.move = 0.0, None
        self.origin = cast(op.x, self.work)
        self.there, self.spectrum = op, extremes.spectrum
        # Where kinks are, curvature and slopes at one point say little of what lies within the reach.
        self.kinks = bool(op.objective.facts.kinks)

    @property
    def left(self) -> int:
        """Products left."""
        return max(self.stop_at - self.op.objective.cost.num_hvps, 0)

    def scales(self) -> list[float]:
        """Return the scales of the loss: made by curvature, against parameters of zero and shuffled ones.

        Those that are zero to rounding, or not finite, say nothing and are left out.
        """
        objective, here, dtypes = self.op.objective, self.op.value, self.op.layout.dtypes
        x = [np.asarray(leaf) for leaf in self.op.x]
        zero = tuple(np.zeros_like(leaf) for leaf in x)
        shuffled = [
            tuple(self.rng.permutation(leaf.ravel()).reshape(leaf.shape) for leaf in x)
            for _ in range(SHUFFLES)
        ]
        zeroed, *others = (abs(objective.value(cast(y, dtypes)) - here) for y in (zero, *shuffled))
        found = (0.5 * self.extremes.top * self.reach**2, zeroed, float(np.median(others)))
        return [s for s in found if math.isfinite(s) and s > self.op.eps * abs(here)]

    def run(self) -> Gain:
        """Go downhill by trust-region steps until nothing is left, or more than the resolution is shown."""
        left, ratios = math.inf, list[float]()
        at_rest = self._is_rounding(self.op.gradient_vector)
        for visit in range(POINTS):
            region, vector, solved = self._region()
            step, decrease = region.step(self.reach)
            left = region.bound(self.reach, self.extremes.band)
            if left <= SHARP * decrease:
                left = decrease
            small = left <= SMALL * self.resolution and (visit > 0 or at_rest)
            small = small and not (len(ratios) == visit == 1 and ratios[0] >= TAIL)
            if small or self.shown > SHARP * self.resolution:
                break
            inside = solved and not at_rest and 0 < host_norm(step) < INTERIOR * self.reach
            kept, before = self._kept(vector(step)) if inside else 0.0, self._fall(self.there.value)
            if visit == POINTS - 1 or not self._advance(vector(step)):
                break
            if inside and self._fall(self.there.value) - before >= AS_MODELLED * decrease:
                ratios.append(kept)
        curvature = self._along_lowest()
        fallen = max(self._fall(self.there.value), 0.0)
        unsure = self.kinks or SAFETY * left + fallen > self.resolution
        if unsure and self.shown <= self.resolution:
            rest = self._trial()
            left = max(left, rest / SAFETY) if self.kinks else min(left, rest / SAFETY)
            fallen = max(fallen, self.shown)
        if max(self.shown, curvature) <= self.resolution:
            for share in STARTS:
                self._descend(share * self.reach, EVALUATIONS)
        away = add_scaled(cast(self.there.x, self.work), -1.0, self.origin)
        tail = len(ratios) > 1 and min(ratios) >= TAIL
        slope = fallen + SAFETY * left
        return Gain(
            self.reach, self.resolution, slope, curvature, self.shown, self.move, float(norm(away)), tail
        )

    def _kept(self, step: Vector) -> float:
        """Return the share of the gradient that a whole step leaves; 0 where what is left is rounding."""
        x = cast(add_scaled(cast(self.there.x, self.work), 1.0, step), self.op.layout.dtypes)
        gradient = self.op.objective.value_and_gradient(x)[1]
        if self._is_rounding(gradient):
            return 0.0
        return float(norm(gradient)) / float(norm(self.there.gradient_vector))

    def _is_rounding(self, gradient: Vector) -> bool:
        tolerance = self.rounding.gradient_tolerance(self.extremes.top)
        return float(norm(gradient)) <= tolerance and not self.rounding.hides_slope(gradient, tolerance)

    def _fall(self, value: float) -> float:
        return self.op.value - value

    def _region(self) -> tuple[TrustRegion, Callable[[np.ndarray], Vector], bool]:
        """Return the model at the point reached, by all eigenvalues or in the gradient's Krylov space.

        With the map from its coordinates to vectors, and whether it explains the whole gradient.
        """
        op, g = self.there, self.there.gradient_vector
        if self.spectrum is None and op.size <= min(self.left, DENSE):
            self.spectrum = dense_eigh(op)
        if self.spectrum is not None:
            values, columns = self.spectrum
            region = TrustRegion(values, columns.T @ flatten(g), np.zeros(len(values)))
            return region, lambda y: unflatten(op.layout, columns @ y), True
        krylov, length = Krylov(op, g, self.rng, max(min(PRODUCTS, self.left), 2), op.active), float(norm(g))
        region = TrustRegion(np.zeros(1), np.array([length]), np.zeros(1))
        weights = np.ones((1, 1))
        while krylov.step():
            if not krylov.due:
                continue
            ritz = krylov.ritz()
            weights, tail = ritz.weights, krylov.extended()[-1] @ ritz.weights
            region = TrustRegion(ritz.values, length * weights[0], tail)
            bound, (_, decrease) = region.bound(self.reach, self.extremes.band), region.step(self.reach)
            if bound <= SMALL * self.resolution or (
                decrease > SHARP * self.resolution and bound <= SHARP * decrease
            ):
                break
        solved = krylov.invariant or krylov.exhausted
        return region, lambda y: row(krylov.vectors((weights @ y)[:, None]), 0), solved

    def _advance(self, step: Vector) -> bool:
        """Take the share of a step that lowers the loss the most; whether one does."""
        op, moved = self.there, add_scaled(cast(self.there.x, self.work), -1.0, self.origin)
        lengths = np.array([float(norm(add_scaled(moved, t, step))) for t in SHARES])
        shares = SHARES[lengths <= (1 + 1e-3) * self.reach]
        if not len(shares):
            return False
        falls = self._falls(op, step, shares)
        best = int(np.argmax(falls))
        if not falls[best] > self._fall(op.value):
            return False
        self._show(falls[best], add_scaled(moved, shares[best], step))
        self.there, self.spectrum = op.at(add_scaled(cast(op.x, self.work), shares[best], step)), None
        return True

    def _falls(self, op: HessianOperator, direction: Vector, steps: np.ndarray) -> np.ndarray:
        """Return decreases below the parameters along a line; −∞ where the loss is not finite."""
        values, _ = op.objective.line(op.x, direction, steps)
        return np.where(np.isfinite(values), self.op.value - values, -np.inf)

    def _show(self, fall: float, move: Vector) -> None:
        if fall > self.shown:
            self.shown, self.move = float(fall), move

    def _along_lowest(self) -> float:
        """Return the largest decrease along the lowest eigenvector, from the point reached."""
        low = self.extremes.low
        if low is None or low.value >= -self.extremes.band:
            return 0.0
        steps = self.reach * np.concatenate([OUTWARD, -OUTWARD])
        falls = self._falls(self.there, low.vector, steps)
        best = int(np.argmax(falls))
        moved = add_scaled(cast(self.there.x, self.work), -1.0, self.origin)
        self._show(falls[best], add_scaled(moved, steps[best], low.vector))
        return max(0.0, float(falls[best] - self._fall(self.there.value)))

    def _trial(self) -> float:
        """Return an estimate of what is left where no bound is sharp, from what a run's second half gained.

        L-BFGS stops early at a kink: there Adam runs first, whose steps do not rest on one gradient.  L-BFGS
        goes on from a little beside the best point wherever it stops early.
        """
        falls = self._adam(TRIAL) if self.kinks else []
        while len(falls) < TRIAL:
            falls += self._descend(BESIDE * self.reach if falls else 0.0, TRIAL - len(falls))
        best = np.maximum.accumulate(np.maximum(falls, 0.0))
        rest = REST * float(best[-1] - best[len(best) // 2])
        return rest if self.shown + rest > self.resolution else self.resolution - self.shown

    def _adam(self, steps: int) -> list[float]:
        """Run Adam with steps of a small share of the reach; decreases below the parameters."""
        y, falls = flatten(self.op.x).astype(np.float64), list[float]()
        mean, square = np.zeros_like(y), np.zeros_like(y)
        rate = ADAM_SHARE * self.reach / math.sqrt(len(y))
        for step in range(1, steps + 1):
            _, g = self._evaluate(y, falls)
            mean, square = 0.9 * mean + 0.1 * g, 0.99 * square + 0.01 * g**2
            scale = np.sqrt(square / (1 - 0.99**step)) + 1e-300
            y = y - rate * mean / (1 - 0.9**step) / scale
        return falls

    def _evaluate(self, y: np.ndarray, falls: list[float]) -> tuple[float, np.ndarray]:
        """Return loss and gradient, and note the decrease below the parameters."""
        op, move = self.op, y - flatten(self.op.x)
        found, g = op.objective.value_and_gradient(cast(unflatten(op.layout, y), op.layout.dtypes))
        gradient = flatten(g).astype(np.float64)
        fall = self._fall(found)
        if not math.isfinite(fall) or not np.all(np.isfinite(gradient)):
            falls.append(-math.inf)
            return 1e300, np.zeros_like(y)
        falls.append(fall if np.linalg.norm(move) <= self.reach else -math.inf)
        self._show(falls[-1], unflatten(op.layout, move))
        return found, gradient

    def _descend(self, distance: float, evaluations: int) -> list[float]:
        """Run L-BFGS from beside the best point; decreases below the parameters, one for each evaluation."""
        start = flatten(self.op.x).astype(np.float64)
        start = start if self.move is None else start + flatten(self.move)
        if distance > 0:
            direction = self._displacement()
            start = start + distance * direction / np.linalg.norm(direction)
        falls: list[float] = []
        options = {"maxfun": evaluations, "ftol": 0.0, "gtol": 0.0, "maxls": 10}
        scipy.optimize.minimize(self._evaluate, start, (falls,), jac=True, method="L-BFGS-B", options=options)
        return falls

    def _displacement(self) -> np.ndarray:
        """Return a random direction along which the loss is flattest, as far as that is known."""
        if self.spectrum is not None:
            values, columns = self.spectrum
            flat = np.abs(values) <= max(self.extremes.band, FLAT * self.extremes.top)
            if np.any(flat):
                return np.asarray(columns[:, flat] @ self.rng.standard_normal(int(np.sum(flat))))
        low = self.extremes.low
        if low is not None and abs(low.value) < FLAT * self.extremes.top:
            return flatten(low.vector) * self.rng.choice([-1.0, 1.0])
        return self.rng.standard_normal(self.op.size)


def gain_at(loss: Callable[..., Any], params: Any, data: Any, *, max_hvps: int = 400) -> Gain:
    """Estimate the gain at the parameters, with curvature from the search that `hp.classify` makes."""
    op, rng = hessian(loss, params, data, check=False), np.random.default_rng(0)
    rounding = Rounding.measured(op, rng)
    settings = Settings(max_hvps, 0.99, 1e-2, None, None)
    job = Job("endings", op, {}, Saving(None, 30.0, False))
    extremes = ExtremesSearch(op, rounding, rng, settings, max_hvps, job).run()
    return GainEstimate(op, extremes, rounding, rng, max_hvps - op.num_hvps).run()
