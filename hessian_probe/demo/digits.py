"""A network on handwritten digits: training stalls, and is freed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.escapes.escape import escape
from hessian_probe.escapes.profile import loss_profile
from hessian_probe.escapes.result import Escape, LossProfile
from hessian_probe.operators.hessian import hessian
from hessian_probe.points.classify import classify
from hessian_probe.points.result import CriticalPoint
from hessian_probe.problems.networks import digits, mlp_apply, mlp_init, mlp_loss
from hessian_probe.spectrum.eigsh import eigsh
from hessian_probe.spectrum.result import EigenResult

WIDTHS = (64, 13, 10)
ACTIVATION = "silu"
# Weights are this much smaller than the usual Gaussian of deviation 1/√inputs.
SCALE = 1e-3
RATE = 0.02
# Steps in one compiled call; between calls there is progress, and Ctrl-C is heard.
CHUNK = 250
# Training counts as stalled where the loss fell by less than SHARE of itself over the last WINDOW steps.
WINDOW = 2 * CHUNK
SHARE = 1e-3
MAX_STEPS = 40 * CHUNK
# Steps taken from the plateau on, with and without the escape.
FURTHER = 14 * CHUNK
FURTHER_QUICK = 2 * CHUNK
# Random directions that the escape is held against.
CONTROLS = 100
# Eigenvalues computed at each end for the figure.
PAIRS = 3

Loss = Callable[[Any, Any], jax.Array]
Accuracy = Callable[[Any], float]


class Training(NamedTuple):
    """A stretch of training.

    Attributes:
        params: where it ended.
        losses: shape (steps + 1,): the loss before each step and at the end.
        accuracies: share of samples that are right, by number of steps taken.
    """

    params: Any
    losses: np.ndarray
    accuracies: dict[int, float]


@dataclasses.dataclass(eq=False)
class Story:
    """What was measured so far; None where it did not get that far.

    Attributes:
        before: training up to the stall.
        point: the classification there.
        ends: eigenvalues at both ends there.
        closed_form: eigenvalues ∓ this bound the spectrum at the saddle with all weights zero.
        move: the escape.
        profile: loss along its direction.
        controls: loss after steps of the same length in random directions.
        landed: the classification after the escape.
        landed_ends: eigenvalues there.
        alone: training on from the stall without the escape.
        after: training on from the escape.
        final: the classification at the end of `after`.
        final_ends: eigenvalues there.
    """

    before: Training | None = None
    point: CriticalPoint | None = None
    ends: EigenResult | None = None
    closed_form: float = float("nan")
    move: Escape | None = None
    profile: LossProfile | None = None
    controls: np.ndarray | None = None
    landed: CriticalPoint | None = None
    landed_ends: EigenResult | None = None
    alone: Training | None = None
    after: Training | None = None
    final: CriticalPoint | None = None
    final_ends: EigenResult | None = None


def run(story: Story, *, quick: bool, stage: Callable[[str], None], progress: Callable[[str], None]) -> None:
    """Train, classify, escape and train on; the story is filled in as it goes: an interruption loses nothing.

    `stage` is called with a line of text as each part begins, `progress` with lines within the parts.
    """
    inputs, targets = digits(one_hot=False)
    data = (jnp.asarray(inputs, jnp.float32), jnp.asarray(targets))
    loss = mlp_loss(ACTIVATION, "cross_entropy")
    start = mlp_init(WIDTHS, scale=SCALE)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), start)

    def accuracy(at: Any) -> float:
        return float(_accuracy(at, *data))

    def train(at: Any, steps: int, stalled: Any = None) -> Training:
        return descend(loss, at, data, num_steps=steps, accuracy=accuracy, progress=progress, stalled=stalled)

    def look(at: Any) -> tuple[CriticalPoint, EigenResult]:
        found = classify(loss, at, data, progress=progress)
        op = hessian(loss, at, data)
        return found, eigsh(op, lowest=PAIRS, highest=PAIRS, progress=progress)

    stage("gradient descent on handwritten digits, from a small start")
    story.closed_form = closed_form(inputs, targets)
    before = story.before = train(params, MAX_STEPS, _stalled)
    stage("classifying the point where it stalled")
    story.point, story.ends = look(before.params)
    stage("escaping")
    move = escape(loss, before.params, data, point=story.point, progress=progress)
    story.profile = loss_profile(loss, before.params, data, point=story.point, move=move)
    story.move, key = move, jax.random.key(0)
    controls = random_steps(loss, before.params, data, move.distance, key, CONTROLS)
    story.controls = np.asarray(controls, np.float64)
    story.landed, story.landed_ends = look(move.params)
    further = FURTHER_QUICK if quick else FURTHER
    stage(f"training on for {further} steps, with the escape")
    after = story.after = train(move.params, further)
    stage(f"training on for {further} steps, without it, for comparison")
    story.alone = train(before.params, further)
    stage("classifying the point where training ended")
    story.final, story.final_ends = look(after.params)


def _stalled(losses: np.ndarray) -> bool:
    if len(losses) < WINDOW:
        return False
    return bool(losses[-WINDOW] - losses[-1] < SHARE * losses[-WINDOW])


@jax.jit
def _accuracy(params: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
    outputs = mlp_apply(params, inputs, activation=ACTIVATION)
    return jnp.mean((jnp.argmax(outputs, axis=1).astype(labels.dtype) == labels).astype(jnp.float32))


def closed_form(inputs: np.ndarray, labels: np.ndarray) -> float:
    """Return by hand the largest eigenvalue that couples the two layers at zero weights, σ₁/2.

    With output biases at the logarithms of the class frequencies p, the gradient is zero there. The
    Hessian couples the weights into a hidden unit with those out of it through s·mean((p − y) xᵀ),
    where s = ½ is the slope of silu at zero: for each singular value σ of the mean it has eigenvalues
    −σ/2 and σ/2, once for each hidden unit.
    """
    targets = np.eye(WIDTHS[-1])[labels]
    errors = targets.mean(axis=0) - targets
    coupling = errors.T @ inputs / len(inputs)
    return 0.5 * float(np.linalg.norm(coupling, 2))


@functools.partial(jax.jit, static_argnums=0)
def _steps(loss: Loss, params: Any, data: Any, rate: float) -> tuple[Any, jax.Array]:
    def step(at: Any, _: None) -> tuple[Any, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(at, data)
        return jax.tree.map(lambda leaf, slope: leaf - rate * slope, at, gradient), value

    return jax.lax.scan(step, params, None, length=CHUNK)


def descend(
    loss: Loss,
    params: Any,
    data: Any,
    *,
    rate: float = RATE,
    num_steps: int,
    accuracy: Accuracy,
    progress: Callable[[str], None],
    stalled: Callable[[np.ndarray], bool] | None = None,
) -> Training:
    """Return a stretch of plain gradient descent, in chunks of CHUNK steps.

    After each chunk `stalled` is told the losses so far; True ends the training.
    """
    losses, accuracies = np.zeros(0), {0: accuracy(params)}
    while len(losses) < num_steps:
        params, values = _steps(loss, params, data, rate)
        losses = np.append(losses, np.asarray(values, np.float64))
        accuracies[len(losses)] = accuracy(params)
        progress(f"step {len(losses)}: loss {losses[-1]:.4f}")
        if stalled is not None and stalled(losses):
            break
    return Training(params, np.append(losses, float(jax.jit(loss)(params, data))), accuracies)


@functools.partial(jax.jit, static_argnums=(0, 5))
def random_steps(loss: Loss, params: Any, data: Any, length: float, key: jax.Array, count: int) -> jax.Array:
    """Return the losses, shape (count,), one step of a length away in random directions, as a control."""

    def one(key: jax.Array) -> jax.Array:
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        moves = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
        size = jnp.sqrt(sum(jnp.sum(move**2) for move in moves))
        moved = [leaf + length / size * move for leaf, move in zip(leaves, moves, strict=True)]
        return loss(jax.tree.unflatten(structure, moved), data)

    return jax.vmap(one)(jax.random.split(key, count))
