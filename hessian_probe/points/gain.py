"""What is left to gain within the reach: the quadratic model's bound (`trust_region`), tried on the loss.

Where the bound is too wide (kinks, or curvature that many products do not show), a short run of L-BFGS shows
how fast the loss still falls, and four times what the second half of the run gained is taken for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import (
    Basis,
    Vector,
    add_scaled,
    as_basis,
    cast,
    coefficients,
    combine,
    dot,
    flatten,
    host_norm,
    norm,
    random_normal,
    row,
    scale,
    unflatten_rows,
)
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.descent import AdamSearch, Within, adam, advance, begin, trial
from hessian_probe.points.evidence import Reason
from hessian_probe.points.extremes import ExtremeEigenpairs
from hessian_probe.points.line_check import parameter_scale
from hessian_probe.points.reviews.sampling.noise import measure_gradient_noise
from hessian_probe.points.rounding import Rounding
from hessian_probe.points.sphere_search import drawn_length, search_on_spheres
from hessian_probe.points.thresholds import (
    ADAM_SHARE,
    AS_MODELLED,
    CLEAR,
    CLEARLY,
    DENSE_POINTS,
    DENSE_SIZE,
    DISPLACED,
    DISPLACED_EVALUATIONS,
    DISPLACED_FURTHER,
    EIGENVECTOR_POINTS,
    FLAT_SHARE,
    FURTHER,
    GAIN_ROUNDINGS,
    INTERIOR,
    MOST_NOISE,
    MOST_ROUNDED,
    REACH,
    REGION_HVPS,
    REGION_POINTS,
    REGION_RADII,
    REGULAR_KEPT,
    RESOLUTION,
    REST,
    SAFETY,
    SHARP,
    SHUFFLES,
    SMALL,
    STEP_SHARES,
    TAIL,
    TAIL_STEPS,
    TRIAL_BESIDE,
    TRIAL_EVALUATIONS,
    TRIAL_SHARES,
    WAY,
)
from hessian_probe.points.trust_region import TrustRegion
from hessian_probe.spectrum.dense import dense_eigh
from hessian_probe.spectrum.krylov import Krylov


class Gain(NamedTuple):
    """What is left to gain near a point.

    Attributes:
        reach: distance considered, in params.
        resolution: smallest change of the loss that counts, in loss units.
        slope: estimate, on the safe side, of the decrease that the gradient makes within the reach.
        curvature: decrease that the lowest curvature makes there on both sides, as seen on the loss.
        shown: largest decrease seen on the loss.
        move: displacement from the parameters to the lowest loss seen, or None.
        tail: whether it goes on beyond the points where the model has it vanish, twice in a row.
        beyond: a larger decrease and how far away it starts, behind a rise, or None.
        further: a larger decrease and its distance, beyond the reach, reached by a steady fall, or None.
        modelled: decrease within the reach by the quadratic model at the point.
    """

    reach: float
    resolution: float
    slope: float
    curvature: float
    shown: float
    move: Vector | None
    tail: bool
    beyond: tuple[float, float] | None
    further: tuple[float, float] | None
    modelled: float

    @property
    def value(self) -> float:
        """The largest of the three."""
        return max(self.slope, self.curvature, self.shown)


class GainEstimate:
    """Measures what is left to gain from a point, with a resolution of the caller's or its own.

    Attributes:
        sign: −1 asks what there is to gain upwards.
        resolution: smallest change of the loss that counts.
        hidden: what hides such changes, or None.
        at_rest: whether the gradient is zero to rounding.
        uneven: whether the loss rises by more than the resolution along a random direction without curvature,
            so that directions along which it falls as far may be missed.
        least_modelled: decrease by the quadratic model that is more than rounding of the gradient or noise of
            the data makes, and counts, whether the loss shows it or not.
    """

    def __init__(
        self,
        op: HessianOperator,
        extremes: ExtremeEigenpairs,
        rounding: Rounding,
        rng: np.random.Generator,
        budget: int,
        resolution: float | None = None,
        sampled: bool = False,
        space: Krylov | None = None,
    ) -> None:
        self.op, self.extremes, self.rounding, self.rng, self.sign = op, extremes, rounding, rng, 1.0
        self.stop_at = op.objective.cost.num_hvps + budget
        self.reach = REACH * parameter_scale(op)
        self.shown = 0.0
        self.beyond: tuple[float, float] | None = None
        self.uneven = False
        self.move: Vector | None = None
        self.origin = op.x_vector
        self.there, self.spectrum, self.space = op, extremes.spectrum, space
        self.least = GAIN_ROUNDINGS * rounding.value
        scale = min(self.scales())
        self.least = max(self.least, GAIN_ROUNDINGS * op.eps * scale)
        resolution = RESOLUTION * scale if resolution is None else resolution
        self.resolution = max(resolution, self.least)
        self.noise = 0.0  # what the noise of the data, taken for a gradient, gains in the model
        if sampled and float(norm(draw := measure_gradient_noise(op, extremes, rng).draw)) > 0:
            self.noise = self._region(draw)[0].step(self.reach)[1]
        self.resolution = max(self.resolution, self.noise)
        self.least_modelled = SAFETY * max(resolution, self.noise)
        self.hidden = self._hidden(resolution, scale)
        self.at_rest = self._is_rounding(op.gradient_vector)
        # Where kinks are, curvature and slopes at one point say little of what lies within the reach.
        self.kinks = bool(op.objective.facts.kinks)

    @property
    def left(self) -> int:
        """Products left."""
        return max(self.stop_at - self.op.objective.cost.num_hvps, 0)

    def scales(self) -> list[float]:
        """Return the scales of the loss: made by curvature, and by what the parameters are worth.

        That is how much higher the loss is at parameters of zero, and at shuffled ones.  Where these lie
        nearer than the reach, or the rise is rounding or not finite, they say nothing.  Where no scale is
        left, that of the curvature stands in, or what a random displacement changes.
        """
        objective, here, layout = self.op.objective, self.op.value, self.op.layout
        flat = flatten(self.op.x)
        ends = np.cumsum([leaf.size for leaf in self.op.x])[:-1]
        others = [np.zeros_like(flat)]
        for _ in range(SHUFFLES):
            leaves = np.split(flat, ends)
            others.append(np.concatenate([leaf[self.rng.permutation(leaf.size)] for leaf in leaves]))
        rises = [math.nan] * len(others)
        for i, other in enumerate(() if objective.facts.callback else others):  # a callback may refuse them
            if host_norm(other - flat) >= self.reach:
                move = unflatten_rows(layout, (other - flat)[None])
                rises[i] = float(objective.values(self.op.x, move)[0]) - here
        curved = 0.5 * self.extremes.top * self.reach**2
        found = [curved, rises[0], float(np.median(rises[1:]))]
        found = [s for s in found if math.isfinite(s) and s > GAIN_ROUNDINGS * self.least]
        if found:
            return found
        if self.extremes.top > self.extremes.band:
            return [curved]
        draw = random_normal(self.rng, self.op.layout, self.op.active)
        changes = self._falls(self.op, draw, self.reach / float(norm(draw)) * np.array([-1.0, 1.0]))
        return [float(np.max(np.abs(changes)))]

    def run(self, *, tries: bool = True, walk: bool = True, slope: bool = False) -> Gain:
        """Estimate the gain, by trust-region steps (`walk`) and by descents beyond their model (`tries`)."""
        # On a slope that the loss has shown, curvature changes no label.
        modelled, left, converges, tail = self._walk(tries, walk)
        curvature = 0.0 if slope and self.shown > self.resolution else self._along_lowest()
        fallen = max(self._fall(self.there.value), 0.0)
        rest, unmeasured = SAFETY * left, self.kinks or not converges
        if tries and (unmeasured or rest + fallen > self.resolution) and self.shown <= self.resolution:
            rest = (max if unmeasured else min)(rest, self._trial())
            fallen = max(fallen, self.shown)
        if tries and max(self.shown, curvature) <= self.resolution:
            self._try_displaced()
        further = self._further() if tries and self.shown <= self.resolution else None
        found = fallen + rest, curvature, self.shown
        return Gain(self.reach, self.resolution, *found, self.move, tail, self.beyond, further, modelled)

    def _further(self) -> tuple[float, float] | None:
        """Return a decrease, and its distance, to which the loss falls steadily along minus the gradient."""
        length = float(norm(self.op.gradient_vector))
        if not length > 0:
            return None
        steps = parameter_scale(self.op) * np.array(FURTHER)
        downhill = scale(-self.sign / length, self.op.gradient_vector)
        falls = self._falls(self.op, downhill, steps)
        if not (np.all(np.diff(falls, prepend=0.0) > 0) and falls[-1] > self.resolution):
            return None
        return float(falls[-1]), float(steps[-1])

    def _walk(self, tries: bool, walk: bool) -> tuple[float, float, bool, bool]:
        """Step until little is left or much is shown: modelled at first, left, whether that holds, a tail."""
        modelled, left, kept, tail = 0.0, math.inf, 0.0, False
        if self.at_rest and not tries:
            return 0.0, float(norm(self.op.gradient_vector)) * self.reach / SAFETY, True, False
        for visit in range(DENSE_POINTS if self.op.size <= DENSE_SIZE else REGION_POINTS):
            region, vectors, solved = self._region()
            _, decrease = region.step(self.reach)
            if visit == 0:
                modelled = decrease
                tail = tries and solved and not self.at_rest and self._is_tail(region, vectors)
            left = region.bound(self.reach, self.extremes.band)
            if left <= SHARP * decrease:
                left = decrease
            kept = self._kept(region, vectors) if solved and not self.at_rest else 0.0
            small = left <= SMALL * self.resolution and kept <= REGULAR_KEPT
            fallen = self._fall(self.there.value)
            if small or not walk or not self._advance(region, vectors):
                break
            if self.shown > SHARP * self.resolution:  # of what was left, this is gained
                left = max(left - (self._fall(self.there.value) - fallen) / SAFETY, 0.0)
                break
        return modelled, left, kept <= REGULAR_KEPT, tail

    def _kept(self, region: TrustRegion, vectors: Callable[[np.ndarray], Basis]) -> float:
        """Return the share of the gradient that a whole Newton step leaves; 0 where that is rounding."""
        op = self.there
        with np.errstate(over="ignore", invalid="ignore"):  # along flat directions a step may have any length
            step = row(vectors(region.step(math.inf)[0][:, None]), 0)
            there = cast(add_scaled(op.x_vector, 1.0, step), op.layout.dtypes)
        gradient = op.objective.value_and_gradient(there)[1]
        if self._is_rounding(gradient):
            return 0.0
        return float(norm(gradient)) / float(norm(op.gradient_vector))

    def _is_tail(self, region: TrustRegion, vectors: Callable[[np.ndarray], Basis]) -> bool:
        """Whether two Newton steps in a row leave much of the gradient where the loss falls as modelled."""
        op, in_a_row = self.op, 0  # what converges is gone after the first steps
        for _ in range(TAIL_STEPS):
            y, decrease = region.step(math.inf)
            if host_norm(y) > parameter_scale(op) or decrease <= self.rounding.value:
                return False
            there = op.moved(row(vectors(y[:, None]), 0))
            fall, gradient = self.sign * (op.value - there.value), there.gradient_vector
            if not (math.isfinite(fall) and fall >= AS_MODELLED * decrease) or self._is_rounding(gradient):
                return False
            slow = float(norm(gradient)) >= TAIL * float(norm(op.gradient_vector))
            in_a_row = in_a_row + 1 if slow else 0
            if in_a_row == 2:
                return True
            op, (region, vectors, solved) = there, self._region(at=there)
            if not solved:
                break
        return False

    def _try_displaced(self) -> None:
        """Go down from points displaced to both sides; a lower loss behind a rise ends the reach there."""
        several = self._flat_columns().shape[1] > 1  # falls may be thin where directions meet
        for share in (*DISPLACED, *DISPLACED[-1:] * several * DISPLACED_FURTHER):
            direction = self._displacement()
            for side in (share, -share):
                falls, move = self._descend(side * self.reach * direction, DISPLACED_EVALUATIONS)
                if max(falls) > self.resolution and move is not None:
                    rise = self._rise(flatten(move))
                    if rise is not None:
                        self.beyond, self.reach = (max(falls), float(norm(move))), rise
                        return
                self._show(max(falls), move)
                if self.shown > self.resolution:
                    return
        if self.op.size > DENSE_SIZE and self.at_rest:
            ends = self.reach * direction * np.array([[1.0], [-1.0]])
            lowest = [max(self._descend(end, DISPLACED_EVALUATIONS, direction)[0]) for end in ends]
            self.uneven = min(lowest) < -self.resolution

    def _rise(self, move: np.ndarray) -> float | None:
        """Return how far on the way to a lower loss, along the valley's floor, one must rise, or None."""
        length = host_norm(move)
        for share in WAY:
            falls, _ = self._descend(share * move, DISPLACED_EVALUATIONS, move / length)
            if max(falls) < -self.resolution:
                return float(share * length)
        return None

    def lower_on_sphere(self) -> tuple[float, float] | None:
        """Return a decrease, and its distance, at the scale of an initialiser, where weights are smaller."""
        # Small weights make deep networks flat: what is within the reach says nothing of what training would
        # gain then.  What lies behind a rise does not count.
        if float(norm(self.origin)) >= drawn_length(self.origin) or self.op.objective.facts.callback:
            return None
        key = jax.random.key(int(self.rng.integers(2**31)))
        found = search_on_spheres(self.op.objective, self.op.x, key, enough=self.resolution)
        if found.step is None:
            return None
        reach, self.reach = self.reach, float(norm(found.step))  # within which descents on the way stay
        rise = self._rise(flatten(found.step).astype(np.float64))
        distance, self.reach = self.reach, reach
        return (found.gain, distance) if rise is None else None

    def try_move(self, move: Vector) -> None:
        """Take the decrease after a displacement that was found elsewhere into account."""
        self._show(float(self._falls(self.op, move, np.ones(1))[0]), move)

    def _hidden(self, resolution: float, smallest: float) -> Reason | None:
        """Say what hides changes of the loss that count: rounding, or too few samples."""
        # The rounding error of the gradient does where it could make a fall that counts.  This contrast of
        # three draws has the variance of one gradient's error.
        first, second, third = self.rounding.changes[:3]
        error = scale(6**-0.5, add_scaled(add_scaled(first, 1.0, second), -2.0, third))
        if float(norm(error)) * self.reach > resolution:
            made = self._region(error)[0].step(self.reach)[1]
            self.least_modelled = max(self.least_modelled, SAFETY * made)
            if made > self.resolution:
                return Reason("resolution_rounded", resolution=self.resolution, rounding=made)
        if self.least > max(MOST_ROUNDED * smallest, resolution):
            return Reason("resolution_rounded", resolution=resolution, rounding=self.least)
        if self.noise > MOST_NOISE * smallest:
            return Reason("resolution_noisy", noise=self.noise, scale=smallest)
        return None

    @property
    def gradient_counts(self) -> bool:
        """Whether the gradient may change the loss by more than the resolution within the reach."""
        return float(norm(self.op.gradient_vector)) * self.reach > self.resolution

    def _is_rounding(self, gradient: Vector) -> bool:
        tolerance = self.rounding.gradient_tolerance(self.extremes.top)
        return float(norm(gradient)) <= tolerance and not self.rounding.hides_slope(gradient, tolerance)

    def _fall(self, value: float) -> float:
        return self.sign * (self.op.value - value)

    def _region(
        self, slope: Vector | None = None, at: HessianOperator | None = None
    ) -> tuple[TrustRegion, Callable[[np.ndarray], Basis], bool]:
        """Return the model, the map from its coordinates to vectors, and whether it explains the gradient."""
        # `slope` stands in for the gradient, `at` for the point reached.
        op, sign = self.there if at is None else at, self.sign
        g = op.gradient_vector if slope is None else slope
        few = DENSE_SIZE if slope is None else REGION_HVPS
        spectrum = self.spectrum if at is None else None
        if spectrum is None and op.size <= min(self.left, few):
            spectrum = dense_eigh(op)
        if spectrum is not None:
            self.spectrum = spectrum if at is None else self.spectrum
            values, columns = spectrum
            region = TrustRegion(sign * values, sign * (columns.T @ flatten(g)), np.zeros(len(values)))
            return region, lambda y: unflatten_rows(op.layout, (columns @ y).T), True
        length = float(norm(g))
        region = TrustRegion(np.zeros(1), np.array([sign * length]), np.zeros(1))
        space = self.space if op is self.op and slope is None else None
        if self.left < 1 and not (space and space.size):
            unit = scale(1 / max(length, 1e-300), g)
            return region, lambda y: combine(as_basis(unit), jnp.asarray(y)), False
        krylov, weights = space or Krylov(op, g, self.rng, REGION_HVPS, op.active), np.ones((1, 1))
        krylov.max_basis = max(min(REGION_HVPS, krylov.size + self.left, krylov.dimension), 1)
        while krylov.size or krylov.step():
            if krylov.grown:
                ritz = krylov.ritz()
                weights, tail = ritz.weights, krylov.extended()[-1] @ ritz.weights
                region = TrustRegion(sign * ritz.values, sign * length * weights[0], tail)
                bound, (_, decrease) = region.bound(self.reach, self.extremes.band), region.step(self.reach)
                clear = decrease > CLEAR * self.resolution
                shown = (
                    decrease > SHARP * self.resolution and bound <= (CLEARLY if clear else SHARP) * decrease
                )
                if shown or bound <= SMALL * self.resolution:
                    break
            if krylov.full:
                break
            krylov.step()
        solved = krylov.invariant or krylov.exhausted
        return region, lambda y: krylov.vectors(weights @ y), solved

    def _lengths(self, direction: Vector, steps: np.ndarray) -> tuple[Vector, np.ndarray]:
        """Displacement of the point reached, and its length after steps along a direction."""
        moved = add_scaled(self.there.x_vector, -1.0, self.origin)
        size, along = (float(dot(direction, vector)) for vector in (direction, moved))
        return moved, self._distances(moved, steps * along, steps**2 * size)

    def _distances(self, moved: Vector, along: np.ndarray, squares: np.ndarray) -> np.ndarray:
        """Lengths of sums of a displacement and of steps, from their inner products and squares."""
        return np.sqrt(np.maximum(float(dot(moved, moved)) + 2 * along + squares, 0.0))

    def _advance(self, region: TrustRegion, vectors: Callable[[np.ndarray], Basis]) -> bool:
        """Take the step that lowers the loss the most, of several lengths; whether one does."""
        op, columns, size = self.there, list[np.ndarray](), math.inf
        # Valleys are often bent: a model of them holds over a shorter distance than the reach.
        for radius in self.reach * 0.25 ** np.arange(REGION_RADII):
            if size >= INTERIOR * radius:  # else the same step once more
                columns.append(region.step(radius)[0])
                size = host_norm(columns[-1])
        steps = vectors(np.stack(columns, axis=1))
        falls = self.sign * (self.op.value - op.objective.values(op.x, steps))
        moved = add_scaled(op.x_vector, -1.0, self.origin)
        squares = np.array([host_norm(column) ** 2 for column in columns])
        lengths = self._distances(moved, np.asarray(coefficients(steps, moved), np.float64), squares)
        falls = np.where(np.isfinite(falls) & (lengths <= (1 + 1e-3) * self.reach), falls, -np.inf)
        if not np.max(falls) > self._fall(op.value):
            return False
        best, shares = row(steps, int(np.argmax(falls))), np.array(STEP_SHARES)
        moved, lengths = self._lengths(best, shares)
        shares = shares[lengths <= (1 + 1e-3) * self.reach]
        falls = self._falls(op, best, shares)
        share = shares[int(np.argmax(falls))]
        self._show(float(np.max(falls)), add_scaled(moved, share, best))
        self.there, self.spectrum = op.moved(best, share), None
        return True

    def _falls(self, op: HessianOperator, direction: Vector, steps: np.ndarray) -> np.ndarray:
        """Return decreases below the parameters along a line; −∞ where the loss is not finite."""
        values, _ = op.objective.line(op.x, direction, steps)
        return np.where(np.isfinite(values), self.sign * (self.op.value - values), -np.inf)

    def _show(self, fall: float, move: Vector | None) -> None:
        if fall > self.shown:
            self.shown, self.move = float(fall), move

    def _along_lowest(self) -> float:
        """Return the largest decrease along the lowest eigenvector, on both sides of the point reached."""
        low = self.extremes.lowest(self.sign)
        if 0.5 * self.sign * low.value * self.reach**2 > self.resolution:
            return 0.0
        outward = self.reach * 0.25 ** np.arange(EIGENVECTOR_POINTS)
        steps = np.concatenate([outward, -outward])
        moved, lengths = self._lengths(low.vector, steps)
        falls = self._falls(self.there, low.vector, steps)
        falls = np.where(lengths <= (1 + 1e-3) * self.reach, falls, -np.inf)
        sides = falls.reshape(2, -1)[:, ::-1]  # from near to far: what lies behind a rise is not counted
        risen = np.logical_or.accumulate(sides < -self.resolution, axis=1)
        falls = np.where(risen, -np.inf, sides)[:, ::-1].ravel()
        best = int(np.argmax(falls))
        self._show(falls[best], add_scaled(moved, steps[best], low.vector))
        if self.sign * low.value > self.extremes.band:
            return 0.0
        both = np.minimum(*np.split(falls, 2))
        return max(0.0, float(np.max(both) - self._fall(self.there.value)))

    def _trial(self) -> float:
        """Estimate what is left where no bound is sharp, from what a run's second half gained."""
        # At a kink L-BFGS stops early: there Adam runs first, whose steps do not rest on one gradient.  And
        # wherever L-BFGS stops early, it goes on from a little beside the best point.
        falls = self._adam(TRIAL_EVALUATIONS) if self.kinks else []
        for share in TRIAL_SHARES:
            while len(falls) < share * TRIAL_EVALUATIONS and self.shown <= SHARP * self.resolution:
                beside = TRIAL_BESIDE * self.reach * bool(falls) * self._displacement()
                more, move = self._descend(beside, math.ceil(share * TRIAL_EVALUATIONS) - len(falls))
                self._show(max(more), move)
                falls += more
            best = np.maximum.accumulate(np.maximum(falls, 0.0))
            rest = REST * float(best[-1] - best[len(best) // 2])
            slowing = rest <= REST * best[len(best) // 2]  # what grows is not over
            if self.shown > SHARP * self.resolution or (slowing and self.shown + rest <= self.resolution):
                break
        return rest if self.shown + rest > self.resolution else self.resolution - self.shown

    def _within(self, first: float, rate: float, held: np.ndarray | None = None) -> Within:
        """The reach as descents take it."""
        held = np.zeros(self.op.size) if held is None else held
        return Within(self.reach, jnp.asarray(held, self.op.objective.scalar_dtype), first, rate)

    def _evaluated(self, there: Vector) -> tuple[float, Vector]:
        """Decrease below the parameters, −∞ where that is not finite, and the signed gradient."""
        value, gradient = self.op.objective.value_and_gradient(there)
        fall = self._fall(value)
        finite = math.isfinite(fall) and math.isfinite(float(norm(gradient)))
        return fall if finite else -math.inf, scale(self.sign, gradient)

    def _adam(self, steps: int) -> list[float]:
        """Run Adam with steps of a small share of the reach; decreases below the parameters."""
        x, layout, still = self.op.x, self.op.layout, jnp.zeros(self.op.size, self.op.objective.scalar_dtype)
        within = self._within(0.0, ADAM_SHARE * self.reach / math.sqrt(self.op.size))
        state, there, falls = AdamSearch(still, still, still, jnp.zeros((), jnp.int32)), x, list[float]()
        for _ in range(steps):
            fall, gradient = self._evaluated(there)
            if fall > max(falls, default=-math.inf):
                lowest, best = there, fall
            falls.append(fall)
            state, there = adam(layout, x, state, gradient, within)
        if max(falls) > self.shown:
            self._show(best, add_scaled(cast(lowest, layout.work_dtypes), -1.0, self.op.x_vector))
        return falls

    def _descend(
        self, aside: np.ndarray, evaluations: int, held: np.ndarray | None = None
    ) -> tuple[list[float], Vector | None]:
        """Run L-BFGS aside of the best point, or with a direction held of the parameters."""
        # A fall of twice the resolution counts; where a direction is held, a rise by it is asked for.
        enough = SHARP * self.resolution if held is None else -self.resolution
        x, layout, falls = self.op.x, self.op.layout, list[float]()
        first = max(host_norm(aside), TRIAL_BESIDE * self.reach)
        within = self._within(first, 1 / max(self.extremes.top, 1e-30), held)
        start = aside if held is not None or self.move is None else aside + flatten(self.move)
        state = begin(jnp.asarray(start, self.op.objective.scalar_dtype))
        there, ended, lowest = trial(layout, x, state.at, self.reach), False, None
        while len(falls) < evaluations and not ended:
            fall, gradient = self._evaluated(there)
            lowest = there if fall > max(falls, default=-math.inf) else lowest
            falls.append(fall)
            state, there, over = advance(layout, x, state, fall, gradient, within)
            ended = bool(over) or fall > enough
        if lowest is None:
            return falls, None
        return falls, add_scaled(cast(lowest, layout.work_dtypes), -1.0, self.op.x_vector)

    def _displacement(self) -> np.ndarray:
        """Return a random unit vector along which the loss is flattest, as far as that is known."""
        direction = flatten(random_normal(self.rng, self.op.layout, self.op.active)).astype(np.float64)
        low, flat = self.extremes.lowest(self.sign), self._flat_columns()
        if flat.size:
            direction = np.asarray(flat @ self.rng.standard_normal(flat.shape[1]))
        elif self.spectrum is None and abs(low.value) < FLAT_SHARE * self.extremes.top:
            direction = flatten(low.vector).astype(np.float64)
        return direction / host_norm(direction)

    def _flat_columns(self) -> np.ndarray:
        """Eigenvectors of little curvature, in columns, where the whole spectrum is known."""
        if self.spectrum is None:
            return np.zeros((self.op.size, 0))
        values, columns = self.spectrum
        flat = np.abs(values) <= max(self.extremes.band, FLAT_SHARE * self.extremes.top)
        return np.asarray(columns[:, flat])
