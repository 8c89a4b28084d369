"""A lower loss at a finite distance, whatever the order of the saddle: the only search inside training.

At the plateaus where networks get stuck the lowest derivatives vanish, or show what the batch is like.  So
every weight is displaced by as much as an initialiser draws, and the loss is lowered by normalised gradient
steps along each matrix's own sphere, vectors within balls, a batch each.  The displacement counts if the
loss is lower with it than without it on fresh batches.  Spheres become smaller until one counts.

A search is a state that takes one evaluation at a time: inside compiled training steps one for each step, on
the host as many as it needs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Vector, add_scaled, cast, generator, select, widest
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

# The same numbers on every device (Salmon et al. 2011).
PHILOX = jax.lax.RandomAlgorithm.RNG_PHILOX
# Evaluations on one sphere, and of a search that finds nothing: each check evaluates both points.
ON_SPHERE = SPHERE_STEPS + SPHERE_CHECKS
MOST_EVALUATIONS = len(SPHERE_RADII) * (SPHERE_STEPS + 2 * SPHERE_CHECKS)


class SearchState(NamedTuple):
    """A search between two evaluations.

    Attributes:
        step: displacement; what was found, after a search that found something.
        sphere: number of the sphere, int32; the number of radii where no search is going on.
        turn: evaluations on it, int32.
        gain: sum of the decreases that fresh batches showed; their mean after a search that found something,
            0 after one that found nothing.
    """

    step: Vector
    sphere: jax.Array
    turn: jax.Array
    gain: jax.Array

    @property
    def going(self) -> jax.Array:
        """Whether a search is going on."""
        return self.sphere < len(SPHERE_RADII)

    @property
    def checking(self) -> jax.Array:
        """Whether the next evaluation compares both points."""
        return self.turn >= SPHERE_STEPS

    @property
    def found(self) -> jax.Array:
        """Whether the latest search found a step."""
        return ~self.going & (self.gain > 0)


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
    return SearchState(tuple(jnp.zeros_like(leaf) for leaf in x), none, zero, jnp.zeros((), dtype))


def words_of(key: jax.Array | None) -> np.ndarray:
    """Two random words for the draws of a search; raises TypeError if `key` is no random key."""
    return generator(key).integers(2**32, size=2, dtype=np.uint32)


def advance(
    state: SearchState,
    words: Any,
    number: jax.Array,
    x: Vector,
    decrease: jax.Array,
    gradient: Vector,
    enough: jax.Array,
    start: jax.Array,
) -> SearchState:
    """Take in one evaluation at `x + state.step`, or start a search.

    Args:
        state: what is known of the search.
        words: from `words_of`.
        number: of the search, int32; others draw others.
        x: variables, in working dtypes.
        decrease: loss at `x` less that at `x + state.step`, on one batch; used where `state.checking`.
        gradient: at `x + state.step`; used where not.
        enough: mean decrease that is required.
        start: whether to start a search instead.

    Returns:
        The state after it.
    """
    checking, count = state.checking, state.turn + 1
    good = (decrease > 0) & (decrease < np.inf)
    gain = select(checking, state.gain + decrease.astype(state.gain.dtype), state.gain)
    last = checking & good & (count >= ON_SPHERE)
    found = last & (gain > SPHERE_CHECKS * enough) & ~start
    # Where one batch disagrees, the next sphere.
    drawn = start | (checking & ~good) | (last & ~found)
    sphere = select(start, 0, state.sphere + drawn.astype(jnp.int32))
    share = FIRST_STEP * (1 - (1 - LAST_STEP) / SPHERE_STEPS * state.turn.astype(gain.dtype))
    number, lengths = number * len(SPHERE_RADII) + sphere, _lengths(x, sphere, gain.dtype)
    drawing = partial(_draw, words, number, deviations(x))
    # A gradient that is not finite spoils a sphere at worst, not a step that is being checked.
    moved = select(checking, state.step, _downhill(state.step, gradient, lengths, share))
    step = run_if(drawn, drawing, moved)
    return SearchState(
        _on_spheres(step, lengths),
        select(found, len(SPHERE_RADII), sphere),
        select(drawn, 0, count),
        select(found, gain / SPHERE_CHECKS, select(drawn, 0.0, gain)),
    )


def run_if(go: jax.Array, change: Callable[[Any], Any], held: Any) -> Any:
    """Return `change(held)` if `go`, else `held`, untouched in its place.

    A loop of one pass or none: XLA lets the branches of `lax.cond` write to buffers of their own, so that
    the one with nothing to do copies all of `held`; a loop changes its state in place.
    """

    def body(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        return jnp.zeros_like(carry[0]), change(carry[1])

    return jax.lax.while_loop(lambda carry: carry[0], body, (go, held))[1]


def deviations(x: Vector) -> tuple[float, ...]:
    """Say how an initialiser would draw each leaf.

    That is with 1/√fan, the fan of a matrix or kernel taken between inputs and outputs, since frameworks
    differ in their order: of a kernel's axes these are the first two or the last two, whichever are longer.
    Vectors are not drawn.  Where no leaf has two axes every leaf is drawn, with 1.

    Returns:
        Standard deviations of the entries of each leaf; 0 for none.
    """
    if not any(leaf.ndim >= 2 and leaf.size for leaf in x):
        return (1.0,) * len(x)
    both = (max(math.prod(leaf.shape[:2]), math.prod(leaf.shape[-2:])) * (leaf.ndim >= 2) for leaf in x)
    return tuple(math.sqrt(math.sqrt(ends) / max(leaf.size, 1)) for leaf, ends in zip(x, both, strict=True))


def _lengths(x: Vector, sphere: jax.Array, dtype: Any) -> list[jax.Array]:
    """Length of each leaf's displacement; of vectors the greatest."""
    radii = np.asarray((*SPHERE_RADII, 0.0), dtype)
    found, radius = [], jax.lax.dynamic_slice(radii, (sphere.astype(np.uint32),), (1,))[0]
    for leaf, deviation in zip(x, deviations(x), strict=True):
        length = radius.astype(leaf.dtype) * (deviation * math.sqrt(leaf.size) or VECTOR_RADIUS)
        if deviation and leaf.ndim < 2:  # as long as the leaf where that is longer
            length = length * jnp.maximum(jnp.sqrt(_square(leaf) / max(leaf.size, 1)), 1)
        found.append(length)
    return found


def _draw(words: Any, number: jax.Array, drawn: tuple[float, ...], step: Vector) -> Vector:
    """A displacement of any length, uniform as many initialisers draw; zero for vectors beside weights."""
    # One call draws for all leaves: each further one takes as long to compile.
    leaves = [leaf for leaf, deviation in zip(step, drawn, strict=True) if deviation]
    seed = jnp.stack([words[0], words[1], np.uint32(0), number.astype(np.uint32)])
    ends = np.cumsum([leaf.size for leaf in leaves])

    def draw(seed: jax.Array) -> jax.Array:
        bits = jax.lax.rng_bit_generator(seed, (int(ends[-1]),), np.uint32, algorithm=PHILOX)[1]
        return jax.lax.bitcast_convert_type(bits, np.int32)

    # By itself `vmap` draws all lanes with the first one's seed.
    numbers = jax.custom_batching.sequential_vmap(draw)(seed)
    found = (
        numbers[end - leaf.size : end].reshape(leaf.shape).astype(leaf.dtype)
        for leaf, end in zip(leaves, ends, strict=True)
    )
    pairs = zip(step, drawn, strict=True)
    return tuple(next(found) if deviation else jnp.zeros_like(leaf) for leaf, deviation in pairs)


def _downhill(step: Vector, gradient: Vector, lengths: list[jax.Array], share: jax.Array) -> Vector:
    """One gradient step of each leaf, as long as a share of its displacement."""
    rows = zip(step, gradient, lengths, strict=True)
    return tuple(s - _divided(share.astype(s.dtype) * length, g) * g for s, g, length in rows)


def _on_spheres(step: Vector, lengths: list[jax.Array]) -> Vector:
    """Bring weights back to their spheres, and vectors that are outside of theirs."""
    shares = [_divided(length, leaf) for leaf, length in zip(step, lengths, strict=True)]
    pairs = zip(step, shares, strict=True)
    return tuple(leaf * (share if leaf.ndim > 1 else jnp.minimum(share, 1)) for leaf, share in pairs)


def _divided(length: jax.Array, leaf: jax.Array) -> jax.Array:
    """A length over a leaf's own; less than that where its square underflows, 0 where that overflows."""
    return length * jax.lax.rsqrt(jnp.maximum(_square(leaf), float(jnp.finfo(leaf.dtype).tiny)))


def _square(leaf: jax.Array) -> jax.Array:
    """Square of a leaf's length."""
    axes = tuple(range(leaf.ndim))
    return jax.lax.dot_general(leaf, leaf, ((axes, axes), ((), ())), precision=jax.lax.Precision.HIGHEST)


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
    words = words_of(key)
    state = _advance(idle(x, widest(leaf.dtype for leaf in x)), words, sized, 0.0, x, enough, True)
    number = spent = 0
    while bool(state.going):
        checking = bool(state.checking)
        here = evaluate(number, x, checking)[0] if checking else math.nan
        value, gradient = evaluate(number, add_scaled(x, 1.0, state.step), checking)
        spent += 1 + checking
        index = int(state.sphere)
        state = _advance(state, words, sized, here - value, gradient, enough, False)
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

    Returns:
        As from `search`.
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
    if not any(leaf.ndim >= 2 and leaf.size for leaf in x):
        return 0.0
    return math.sqrt(sum(one**2 * leaf.size for one, leaf in zip(deviations(x), x, strict=True)))


@jax.jit
def _advance(
    state: SearchState, words: Any, x: Vector, decrease: Any, gradient: Vector, enough: Any, start: Any
) -> SearchState:
    decrease, enough = (jnp.asarray(number, state.gain.dtype) for number in (decrease, enough))
    number = jnp.zeros((), jnp.int32)
    return advance(state, words, number, x, decrease, gradient, enough, jnp.asarray(start))
