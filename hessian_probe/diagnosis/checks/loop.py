"""Does the training loop keep what the optimiser computes?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import PyTree, from_tangent, leaf_name
from hessian_probe.diagnosis.confidence import Found, joint_confidence
from hessian_probe.diagnosis.experiments import FACTORS, SOON, Experiments
from hessian_probe.diagnosis.faults import OF_LOOP, fault
from hessian_probe.diagnosis.reference_models import LARGE
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.operators.data import Data
from hessian_probe.optimizers.optax_state import call_update
from hessian_probe.optimizers.thresholds import MOST_CALLS
from hessian_probe.results import number

# Recorded losses that show whether parameters move: at least this number, and three times the batches.
FEWEST_STEPS = 10
# Share of the loss by which a step must lower it to show in its digits: ten roundings of float32.
FELT = 1e-6
# Share of the updates that rounding may take, where the loss is large.
LOST = 0.75
# A step is another one where it is this many times as long as the optimiser's, at a cosine below the first of
# these, or where it points against it; random layers and batches change a step by less.
LONG, APART, AGAINST = 100.0, 0.5, -0.5
# Loss with leaves held ÷ without, and ÷ the constant predictor's, from which the training needs them, and
# their spread; chosen.  On ten networks with features of small random weights, the first layer held ends at
# 0.94 to 1.07 of the constant predictor, its bias held at 0.02 to 0.38.
NEEDED, NEAR_CONSTANT, SPREAD = 3.0, 0.65, 0.3
# Multiples of the gradient that show clipping, and the share to which steps are proportional to it.
SCALES, ALIKE = (1.0, 1e-8, 1e-10), 0.01
Leaves = dict[str, np.ndarray]


def check(case: Experiments) -> Found:
    """Look at the first updates, the recorded losses, and a step of the user's trainer."""
    moved = any(np.any(np.asarray(leaf)) for leaf in case.op.gradient_vector)
    if not moved or not math.isfinite(case.value):
        return []
    found = _no_update(case) or _recorded(case) or _lost(case)
    if found is not None:
        return [found]
    if case.trainer is None or case.optimizer is None:
        need = "optimizer, opt_state and trainer(params, opt_state, batch), one step of the training"
        return [NotChecked((), need, "the training loop")]
    return _trainer(case)


def check_frozen(case: Experiments) -> Found:
    """Train a copy with Adam, with and without what the optimiser holds fixed."""
    names = case.fixed_by_optimizer
    if not names or case.samples is None or not case.value > LARGE * case.constant_predictor_loss:
        return []
    held = min(case.value, case.best_by_adam(case.params, case.samples.batch, case.loss_of_moved)[0])
    if not held > LARGE * case.constant_predictor_loss:
        return []  # training needs no more than what moves
    free = case.adam_from_here
    ratio, some = held / free if free > 0 else math.inf, _some(names)
    sure = joint_confidence(SPREAD, (ratio, NEEDED), (held / case.constant_predictor_loss, NEAR_CONSTANT))
    told = {"some": some, "steps": case.num_adam_steps, "held": held, "free": free}
    return [fault("frozen_leaves", ratio, told, NEEDED, sure=sure, cost=OF_LOOP, place=some)]


def check_held_back(case: Experiments) -> Found:
    """Where far longer steps are better: do a warm-up or clipping hold them back?"""
    large = case.value > LARGE * case.constant_predictor_loss
    if not case.trials or case.no_step_moves or case.best_factor < max(FACTORS) or not large:
        return []
    schedule = case.stability.schedule if case.stability is not None else ()
    steps, by = next((rise for rise in schedule if rise[1] >= max(FACTORS)), (0, 1.0))
    if steps > SOON:
        return [fault("warm_up_too_long", by, {"steps": steps, "by": by}, max(FACTORS), cost=OF_LOOP)]
    left = _left_by_clipping(case)
    told = {"share": 100 * left, "by": 1 / left if left > 0 else math.inf}
    return [fault("clipped_away", left, told, 1 / max(FACTORS), cost=OF_LOOP)] * (left < 1 / max(FACTORS))


def _left_by_clipping(case: Experiments) -> float:
    """Share that clipping by the norm leaves of a first step; 1 where steps are of no such kind."""
    state = case.optimizer.init(case.params)
    gradient, *steps = (
        np.concatenate([leaf.ravel() for leaf in _arrays(tree).values()])
        for tree in (case.op.gradient, *(_updates(case, by)(state)[0] for by in SCALES))
    )
    lengths = [float(np.linalg.norm(step)) / by for step, by in zip(steps, SCALES, strict=True)]
    along = -float(gradient @ steps[0]) / max(float(np.linalg.norm(gradient)) * lengths[0], 1e-300)
    # Steps that are shorter than the gradient by one factor, and proportional to small gradients.
    linear = abs(lengths[2] - lengths[1]) < ALIKE * lengths[1]
    return lengths[0] / lengths[1] if along > 1 - ALIKE and linear else 1.0


def _updates(case: Experiments, factor: float = 1.0) -> Callable[[Any], Any]:
    """The optimiser's updates for the present gradient, and its state after, as a function of its state."""
    run = jax.jit(lambda g, s, x: call_update(case.optimizer, g, s, x, case.value))
    gradient = jax.tree.map(lambda leaf: factor * leaf, case.op.gradient) if factor != 1 else case.op.gradient
    return lambda state: run(gradient, state, case.params)


def _some(names: Any) -> str:
    """Names of at most three leaves."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _no_update(case: Experiments) -> Finding | None:
    """An optimiser that moves nothing from its first step on, although there is a gradient."""
    if case.optimizer is None:
        return None
    run = _updates(case, 3.0)  # decay and the gradient itself may cancel
    try:
        state = jax.jit(case.optimizer.init)(case.params)
        for _ in range(MOST_CALLS):
            updates, state = run(state)
            if any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(updates)):
                return None
    except Exception:  # an optimiser that needs more: the check of uphill leaves says so
        return None
    return fault("rate_of_zero", 0.0, {"count": MOST_CALLS}, cost=OF_LOOP)


def _recorded(case: Experiments) -> Finding | None:
    """Recorded losses that repeat to the last digit: the same parameters in each step."""
    losses, batches = (case.history or {}).get("loss"), Data(case.given_data).count
    if losses is None or len(losses) < max(FEWEST_STEPS, 3 * batches) or not losses[0]:
        return None
    period = 1 if np.all(losses == losses[0]) else batches
    if not np.array_equal(losses[period:], losses[:-period]):
        return None
    if case.optimizer is not None:  # steps too short to change the last digit are slow ones
        update = _updates(case)(case.opt_state)[0]
        pairs = zip(_arrays(case.op.gradient).values(), _arrays(update).values(), strict=False)
        if abs(sum(float(np.vdot(g, u)) for g, u in pairs)) < FELT * abs(case.value):
            return None
    said = f"repeat every {period} steps" if period > 1 else f"are all {number(float(losses[0]), 5)}"
    told = f"the {len(losses)} recorded losses {said}, to the last digit"
    return fault("never_moved", 0.0, {"said": told}, cost="none: the recorded history")


def _lost(case: Experiments) -> Finding | None:
    """Updates that low precision rounds away, where the loss is still large."""
    layout, x = case.op.layout, case.op.x
    if case.optimizer is None or all(jnp.finfo(leaf.dtype).bits >= 32 for leaf in x):
        return None
    updates = from_tangent(layout, _updates(case)(case.opt_state)[0])
    moves = [np.asarray(update != 0) for update in updates]
    kept = [np.asarray((at + u).astype(at.dtype) == at) for at, u in zip(x, updates, strict=True)]
    lost = [int(np.sum(move & same)) for move, same in zip(moves, kept, strict=True)]
    shares = [count / max(int(move.sum()), 1) for count, move in zip(lost, moves, strict=True)]
    share, worst = sum(lost) / max(sum(int(move.sum()) for move in moves), 1), int(np.argmax(shares))
    if share < LOST or case.samples is None or not case.value > LARGE * case.constant_predictor_loss:
        return None
    leaf, dtype = layout.names[worst], x[worst].dtype.name
    told = {"share": 100 * share, "worst": 100 * shares[worst], "leaf": leaf, "dtype": dtype}
    return fault("updates_lost", share, told, LOST, cost=OF_LOOP, place=leaf)


def _trainer(case: Experiments) -> Found:
    """Hold a step of the user's trainer on copies against the optimiser's own."""
    batches = [*case.given_data][:2] if Data(case.given_data).is_sequence else [case.given_data]

    @jax.jit
    def step(params: PyTree, state: Any, batch: Any) -> tuple[PyTree, Any]:
        gradient = jax.grad(case.loss, allow_int=True)(params, batch)
        updates, state = call_update(case.optimizer, gradient, state, params, case.value)
        return jax.tree.map(_moved, params, updates), state

    given = case.params, case.opt_state
    try:
        ends = [_run(case.trainer, *given, batch) for batch in batches]
        wanted = [step(*given, batch) for batch in batches]
    except Exception as error:  # whatever a user's step raises
        raised = f"{type(error).__name__}: " + str(error).strip().split("\n")[0]
        return [NotChecked((), f"a trainer that takes a step here; it raised {raised}", "the training loop")]
    before, after = _arrays(case.params), [_arrays(end) for end, _ in ends]
    due = [_arrays(end) for end, _ in wanted]
    moving = [name for name in before if not np.array_equal(due[0][name], before[name])]
    still = [name for name in moving if np.array_equal(after[0].get(name, before[name]), before[name])]
    if still and len(still) == len(moving):
        said = f"a step of the trainer changes no parameter; the optimiser moves {len(moving)} leaves"
        return [fault("never_moved", 0.0, {"said": said}, cost=OF_LOOP)]
    if still:
        some = _some(still)
        told = {"some": some, "count": len(moving)}
        return [fault("leaves_not_moved", len(still), told, cost=OF_LOOP, place=some)]
    states = [_arrays(state) for state in (case.opt_state, ends[0][1], wanted[0][1])]
    out = _direction(before, after[0], due[0], moving)
    if _alike(states[0], states[1]) and not _alike(states[0], states[2]):
        out.append(fault("state_not_kept", 0.0, {}, cost=OF_LOOP))
    if len(ends) == 2 and _alike(*after) and not _alike(*due):
        out.append(fault("batch_ignored", 0.0, {}, cost=OF_LOOP))
    return out


def _direction(before: Leaves, after: Leaves, due: Leaves, moving: list[str]) -> Found:
    """A step that goes elsewhere than the optimiser's: up, or to parameters that are not a step away."""
    step, wanted = (
        np.concatenate(
            [(end.get(name, before[name]) - before[name]).ravel() for name in moving] or [np.zeros(1)]
        )
        for end in (after, due)
    )
    lengths = float(np.linalg.norm(step)), float(np.linalg.norm(wanted))
    cosine = float(step @ wanted) / math.prod(lengths) if all(lengths) else 1.0
    far = lengths[0] > LONG * lengths[1] and cosine < APART
    if not far and cosine > AGAINST:
        return []
    told = {"taken": lengths[0], "wanted": lengths[1], "cosine": cosine}
    return [fault("overwritten" if far else "update_subtracted", cosine, told, cost=OF_LOOP)]


def _run(trainer: Any, params: PyTree, state: Any, batch: Any) -> Any:
    """A step on copies, compiled where the trainer allows that."""
    copies = jax.tree.map(_copy, (params, state))
    try:
        return jax.jit(lambda *given: trainer(*given)[:2])(*copies, batch)
    except Exception:  # a step with parts that are no program, such as prints of numbers
        return trainer(*jax.tree.map(_copy, (params, state)), batch)[:2]


def _moved(leaf: Any, update: Any) -> Any:
    return leaf if getattr(update, "dtype", None) == jax.dtypes.float0 else leaf + update


def _copy(leaf: Any) -> Any:
    return jnp.array(leaf) if hasattr(leaf, "dtype") else leaf


def _arrays(tree: PyTree) -> Leaves:
    """The numbers of a tree by name."""
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    kept = [pair for pair in pairs if hasattr(pair[1], "dtype") and jnp.issubdtype(pair[1].dtype, np.number)]
    return {leaf_name(path): np.asarray(leaf).astype(np.float64) for path, leaf in kept}


def _alike(one: Leaves, other: Leaves) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
