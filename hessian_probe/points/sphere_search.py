"""A lower loss at a finite distance, whatever the order of the saddle: the only search inside training.

At the plateaus where networks get stuck the lowest derivatives vanish, or show what the batch is like.  So
every weight is displaced by as much as an initialiser draws, and the loss is lowered by normalised gradient
steps along each leaf's own sphere, a batch each.  The displacement counts if the loss is lower with it than
without it on fresh batches.  Spheres become smaller until one counts.

A search is a state that takes one evaluation at a time: inside compiled training steps one for each step, on
the host as many as it needs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Vector, add_scaled, cast, widest
from hessian_probe.operators.objective import Objective
from hessian_probe.points.thresholds import (
    FEWEST_HELD_OUT,
    FIRST_STEP,
    LAST_STEP,
    SPHERE_CHECKS,
    SPHERE_RADII,
    SPHERE_STEPS,
    VECTOR_RADIUS,
)

# Evaluations on one sphere, and of a search that finds nothing: each check evaluates both points.
ON_SPHERE = SPHERE_STEPS + SPHERE_CHECKS
MOST_EVALUATIONS = len(SPHERE_RADII) * (SPHERE_STEPS + 2 * SPHERE_CHECKS)


class SearchState(NamedTuple):
    """A search between two evaluations.

    Attributes:
        step: displacement; what was found, where `found`.
        sphere: number of the sphere, int32; the number of radii where no search is going on.
        turn: evaluations on it, int32.
        gain: sum of the decreases that fresh batches showed; 0 where nothing was found.
        found: whether the latest search found a step.
    """

    step: Vector
    sphere: jax.Array
    turn: jax.Array
    gain: jax.Array
    found: jax.Array

    @property
    def going(self) -> jax.Array:
        """Whether a search is going on."""
        return self.sphere < len(SPHERE_RADII)

    @property
    def checking(self) -> jax.Array:
        """Whether the next evaluation compares both points."""
        return self.going & (self.turn >= SPHERE_STEPS)


class SearchResult(NamedTuple):
    """What a search on the host found.

    Attributes:
        step: displacement, or None where no sphere showed a lower loss.
        gain: mean decrease of the loss on batches that the step was not fitted to; 0 for none.
        radius: of the sphere, in units of an initialiser's draw; 0 for none.
        num_gradients: evaluations.
    """

    step: Vector | None
    gain: float
    radius: float
    num_gradients: int


def radii_tried() -> str:
    """Name the radii of the spheres."""
    return ", ".join(f"{radius:g}" for radius in SPHERE_RADII)


def idle(x: Vector, dtype: Any) -> SearchState:
    """The state before any search."""
    none, zero = jnp.full((), len(SPHERE_RADII), jnp.int32), jnp.zeros((), jnp.int32)
    still = tuple(jnp.zeros_like(leaf) for leaf in x)
    return SearchState(still, none, zero, jnp.zeros((), dtype), jnp.zeros((), jnp.bool_))


def advance(
    state: SearchState,
    key: jax.Array,
    x: Vector,
    decrease: jax.Array,
    gradient: Vector,
    enough: jax.Array,
    start: jax.Array,
) -> SearchState:
    """Take in one evaluation at `x + state.step`, or start a search.

    Args:
        state: what is known of the search.
        key: random key of the search, the same for all of it.
        x: variables, in working dtypes.
        decrease: loss at `x` less that at `x + state.step`, on one batch; used where `state.checking`.
        gradient: at `x + state.step`; used where not.
        enough: mean decrease that is required.
        start: whether to start a search instead.

    Returns:
        The state after it.
    """
    checking = state.checking
    good = checking & (decrease > 0) & jnp.isfinite(decrease)
    gain = jnp.where(checking, state.gain + decrease.astype(state.gain.dtype), state.gain)
    count = state.turn + 1
    last = good & (count >= ON_SPHERE)
    found = last & (gain > SPHERE_CHECKS * enough) & ~start
    # Where one batch disagrees, the next sphere.
    drawn = start | (checking & ~good) | (last & ~found)
    index = jnp.where(start, 0, state.sphere + drawn.astype(jnp.int32))
    radii = jnp.asarray((*SPHERE_RADII, 0.0), gain.dtype)
    share = FIRST_STEP * (1 - (1 - LAST_STEP) * state.turn.astype(gain.dtype) / SPHERE_STEPS)
    moved = _downhill(state.step, gradient, radii[state.sphere], share)
    fresh = displacement(jax.random.fold_in(key, index), x, radii[index])
    step = tuple(
        jnp.where(drawn, f, jnp.where(checking, s, m))
        for f, s, m in zip(fresh, state.step, moved, strict=True)
    )
    zero = jnp.zeros_like(gain)
    return SearchState(
        step,
        jnp.where(found, len(SPHERE_RADII), index).astype(jnp.int32),
        jnp.where(drawn, 0, count).astype(jnp.int32),
        jnp.where(found, gain / SPHERE_CHECKS, jnp.where(drawn, zero, gain)),
        found,
    )


def deviations(x: Vector) -> tuple[float, ...]:
    """Say how an initialiser would draw each leaf.

    That is with 1/√fan, the fan of a matrix or kernel taken between inputs and outputs, since frameworks
    differ in their order: of a kernel's axes these are the first two or the last two, whichever are longer.
    Vectors are not drawn.  Where no leaf has two axes every leaf is drawn, with 1.

    Args:
        x: variables.

    Returns:
        Standard deviations of the entries of each leaf; 0 for none.
    """
    if not any(leaf.ndim >= 2 for leaf in x):
        return (1.0,) * len(x)
    both = (max(math.prod(leaf.shape[:2]), math.prod(leaf.shape[-2:])) * (leaf.ndim >= 2) for leaf in x)
    return tuple(math.sqrt(math.sqrt(ends) / max(leaf.size, 1)) for leaf, ends in zip(x, both, strict=True))


def displacement(key: jax.Array, x: Vector, radius: jax.Array) -> Vector:
    """A random displacement: of weights as an initialiser draws them, times `radius`; of vectors none."""
    keys = jax.random.split(key, len(x))
    drawn = []
    for leaf, one, deviation in zip(x, keys, deviations(x), strict=True):
        size = radius.astype(leaf.dtype) * deviation
        if leaf.ndim < 2:  # its own scale where it is larger
            rms = jnp.sqrt(jnp.mean(jnp.square(leaf))) if leaf.size else jnp.zeros((), leaf.dtype)
            size = size * jnp.maximum(rms, 1)
        normal = jax.random.normal(one, leaf.shape, leaf.dtype)
        drawn.append(size * normal if deviation else jnp.zeros_like(leaf))
    return tuple(drawn)


def _downhill(step: Vector, gradient: Vector, radius: jax.Array, share: jax.Array) -> Vector:
    """One normalised gradient step of each leaf along its own sphere; vectors move within a ball."""
    moved = []
    for s, g, deviation in zip(step, gradient, deviations(step), strict=True):
        long = _length(s) if deviation else (VECTOR_RADIUS * radius).astype(s.dtype)
        g = jnp.where(jnp.all(jnp.isfinite(g)), g.astype(s.dtype), jnp.zeros_like(s))
        new = s - share.astype(s.dtype) * long * g / _positive(_length(g))
        back = long / _positive(_length(new))
        moved.append(new * (back if deviation else jnp.minimum(back, 1)))
    return tuple(moved)


def _length(leaf: jax.Array) -> jax.Array:
    """Euclidean length that neither over- nor underflows."""
    top = _positive(jnp.max(jnp.abs(leaf), initial=0))
    return top * jnp.sqrt(jnp.sum(jnp.square(leaf / top)))


def _positive(length: jax.Array) -> jax.Array:
    return jnp.where(length > 0, length, jnp.ones_like(length))


def search(
    evaluate: Callable[[int, Vector, bool], tuple[float, Vector]],
    x: Vector,
    key: jax.Array,
    *,
    enough: float = 0.0,
    sized: Vector | None = None,
) -> SearchResult:
    """Search from the host.

    Args:
        evaluate: (number, variables, whether this compares) ↦ loss and gradient on a batch.  Numbers count up
            from 0; a comparison asks for the same number twice, which must be the same batch.
        x: variables, in working dtypes.
        key: random key.
        enough: mean decrease that is required, in loss units.
        sized: variables by whose size vectors are drawn where there are no weights; None means `x`.

    Returns:
        What was found.

    Cost:
        A gradient a batch: 28 where the first sphere shows a lower loss, at most MOST_EVALUATIONS.
    """
    sized = x if sized is None else sized
    state = _advance(idle(x, widest(leaf.dtype for leaf in x)), key, sized, 0.0, x, enough, True)
    number = spent = 0
    while bool(state.going):
        checking = bool(state.checking)
        here = evaluate(number, x, checking)[0] if checking else math.nan
        value, gradient = evaluate(number, add_scaled(x, 1.0, state.step), checking)
        spent += 1 + checking
        index = int(state.sphere)
        state = _advance(state, key, sized, here - value, gradient, enough, False)
        number += 1
    if not bool(state.found):
        return SearchResult(None, 0.0, 0.0, spent)
    return SearchResult(state.step, float(state.gain), SPHERE_RADII[index], spent)


def search_on_spheres(
    objective: Objective, x: Vector, key: jax.Array, *, enough: float = 0.0
) -> SearchResult:
    """Search around variables of a loss, on a batch at a time.

    With at least FEWEST_HELD_OUT batches, every other one fits the step and the others check it.  Spheres are
    as large as they are around the objective's own variables.

    Args:
        objective: the loss.
        x: variables where the search starts.
        key: random key.
        enough: mean decrease that is required, in loss units.

    Returns:
        What was found.
    """
    layout, data = objective.layout, objective.data
    count = 2 if data.count >= FEWEST_HELD_OUT else 1
    parts = [data.part(start, count) for start in range(count)] if count > 1 else [data]
    batches = [itertools.chain.from_iterable(itertools.repeat(part)) for part in parts]
    held: dict[int, Any] = {}

    def evaluate(number: int, there: Vector, checks: bool) -> tuple[float, Vector]:
        if number not in held:
            held.clear()
            held[number] = next(batches[-1 if checks else 0])
        objective.cost.add(gradients=1)
        value, gradient = objective.gradient_of(held[number], cast(there, layout.dtypes))
        return float(value), cast(gradient, layout.work_dtypes)

    own = cast(objective.variables, layout.work_dtypes)
    return search(evaluate, cast(x, layout.work_dtypes), key, enough=enough, sized=own)


def moved_by(objective: Objective, x: Vector, step: Vector) -> Vector:
    """Variables after a step, in their own dtypes."""
    return cast(add_scaled(cast(x, objective.layout.work_dtypes), 1.0, step), objective.layout.dtypes)


def drawn_length(x: Vector) -> float:
    """Length that a vector of these variables would have if an initialiser drew it; 0 without weights."""
    if not any(leaf.ndim >= 2 for leaf in x):
        return 0.0
    return math.sqrt(sum(one**2 * leaf.size for one, leaf in zip(deviations(x), x, strict=True)))


@jax.jit
def _advance(
    state: SearchState, key: jax.Array, x: Vector, decrease: Any, gradient: Vector, enough: Any, start: Any
) -> SearchState:
    decrease, enough = (jnp.asarray(number, state.gain.dtype) for number in (decrease, enough))
    return advance(state, key, x, decrease, gradient, enough, jnp.asarray(start))
