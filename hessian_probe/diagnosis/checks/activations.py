"""Do the hidden units still respond to the data, and does every block of an array get a gradient?"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from hessian_probe.diagnosis.confidence import Found, Measure, confidence, finding
from hessian_probe.diagnosis.experiments import IDLE, Experiments
from hessian_probe.diagnosis.layer_jacobians import activation_slopes
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.programs.layers import Activation, run_model, trace_model

# Half of a layer, chosen on round 1 of the synthetic failures.
SHARE = 0.5
SPREAD = 0.1
# A tanh beyond this has a derivative below 0.02; for the logistic function the same.
SATURATED = 0.99
# For activations of which only the slope is known it is below this share of the steepest: half of what a
# leaky ReLU keeps by default (0.01).
LEVEL = 0.005
# Below this share of the steepest there is no answer at all; an output below this size is zero.
STILL = 1e-3
ZERO = 0.05
# What is counted of each cause, the reason, what is claimed of the share, and the remedy.
COUNTED = {
    "dead_units": (
        "dead units",
        "zero_for_every_sample",
        "of the ReLU units are zero for every sample",
        "re-initialise with biases of zero and train with a smaller learning rate, or use leaky ReLU",
    ),
    "saturation": (
        "saturated outputs",
        "flat_ends",
        "of the outputs lie at the flat ends of the activation",
        "re-initialise with smaller weights (variance 1/inputs), or normalise before the activation",
    ),
}
UNIT_CAUSES = tuple(COUNTED)


def check(case: Experiments) -> Found:
    """Count units that do not respond, and blocks of arrays (experts, heads) that get no gradient."""
    return [*check_units(case), *_unused_blocks(case)]


def check_units(case: Experiments) -> Found:
    """Count units that are zero for every sample, and outputs at the flat ends of tanh and sigmoid."""
    samples = case.samples
    if samples is None:
        return [NotChecked(UNIT_CAUSES, case.need_of_samples)]
    batch = case.random_batch(samples)
    try:
        program, count = trace_model(case.loss, case.params, batch)
        seen = run_model(program, count, case.params, batch)
        others = activation_slopes(program, count, case.params, batch)
    except (TypeError, ValueError, NotImplementedError) as error:
        return [NotChecked(UNIT_CAUSES, f"a program that can be run in parts; {error}")]
    case.cost.add(losses=1)
    hidden = [seen.activations[i] for i in sorted(seen.hidden)]
    out: Found = []
    if seen.loops:
        out.append(NotChecked(UNIT_CAUSES, "layers outside scan, while and cond", "within loops"))
    # At the model's output too: where the loss is large, they are flat on the wrong side.
    ends = [seen.activations[i] for i in sorted(seen.last)]
    if not hidden and not ends and not others:
        return [*out, NotChecked(UNIT_CAUSES, "hidden layers with relu, tanh or sigmoid")]
    dead = [_dead(a) for a in [*hidden, *ends] if a.kind == "relu"] + [_off(*other) for other in others]
    flat = [_flat(a) for a in [*hidden, *ends] if a.kind != "relu"] + [_level(*other) for other in others]
    found = {"dead_units": dead, "saturation": flat}
    return [*out, *(_worst_layer(case, cause, shares) for cause, shares in found.items() if shares)]


def _dead(activation: Activation) -> float:
    """Share of units that are zero for every sample though their input is not."""
    # Units whose input is zero everywhere were not pushed there: they are at a saddle.
    value, given = (jnp.moveaxis(a, activation.axis, -1) for a in (activation.value, activation.input))
    samples = tuple(range(value.ndim - 1))
    return float(jnp.mean(jnp.all(value <= 0, axis=samples) & jnp.any(given != 0, axis=samples)))


def _flat(activation: Activation) -> float:
    """Share of outputs at a flat end of the activation; of gates, of those that are shut."""
    if activation.kind == "gate":
        return float(jnp.mean(activation.value < (1 - SATURATED) / 2))
    value = activation.value if activation.kind == "tanh" else 2 * activation.value - 1
    return float(jnp.mean(jnp.abs(value) > SATURATED))


def _off(value: np.ndarray, slope: np.ndarray) -> float:
    """Share of units that are about zero with slope zero, for every sample."""
    size = np.maximum(np.sqrt(np.mean(value**2)), 1.0)
    still = _still(slope, STILL) & (np.abs(value) < ZERO * size)
    return float(np.mean(np.all(still, axis=tuple(range(value.ndim - 1)))))


def _level(value: np.ndarray, slope: np.ndarray) -> float:
    """Share of outputs with slope zero that are not zero themselves."""
    size = np.maximum(np.sqrt(np.mean(value**2)), 1e-30)
    return float(np.mean(_still(slope, LEVEL) & (np.abs(value) >= ZERO * min(size, 1.0))))


def _still(slope: np.ndarray, share: float) -> np.ndarray:
    """Where the slope is below a share of the steepest; everywhere if there is no slope at all."""
    most = float(np.max(slope))
    return slope <= share * most if most > STILL else np.ones(slope.shape, bool)


def _share(share: float, threshold: float) -> Measure:
    low, high = max(share - 2 * SPREAD, 0.0), min(share + 2 * SPREAD, 1.0)
    return Measure(share, threshold, low, high, confidence(share - threshold, SPREAD))


def _worst_layer(case: Experiments, cause: str, shares: list[float]) -> Finding:
    what, reason, claim, experiment = COUNTED[cause]
    case.measured[f"{what} by layer"] = ", ".join(f"{share:.2f}" for share in shares)
    worst = max(shares)
    return finding(
        (cause, reason),
        f"in layer {shares.index(worst) + 1} {worst:.0%} {claim}",
        f"share of {what} in the worst layer",
        _share(worst, SHARE),
        source="half of a layer; chosen on synthetic failures (make bench-diagnose)",
        remedy=("reinitialise", experiment),
        cost="one forward pass over 512 samples",
    )


def _unused_blocks(case: Experiments) -> Found:
    if case.blocks_without_gradient is None:
        return []
    name, idle, total = case.blocks_without_gradient
    more = "and add a loss that balances the samples over the experts"
    experiment = f"train again with the router's weights near zero, {more}"
    return [
        finding(
            ("dead_units", "blocks_without_gradient"),
            f"{idle} of the {total} blocks of {name} along its first axis get no gradient from any "
            "sample: no sample is routed to them, or no layer uses their output",
            "share of blocks without gradient",
            _share(idle / total, IDLE),
            source="half of an array, as for units of a layer",
            remedy=("reinitialise", experiment),
            cost="one gradient",
        )
    ]
