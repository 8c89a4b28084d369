"""Is the gradient of a batch mostly noise?"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import from_tangent
from hessian_probe.diagnosis.case import MAX_SINGLE
from hessian_probe.diagnosis.confidence import Found, finding, log_confidence, ratio
from hessian_probe.diagnosis.experiments import MATERIAL, Experiments
from hessian_probe.diagnosis.result import NotChecked
from hessian_probe.results import number

SPREAD = 0.5
# Larger batches that are tried.
LARGER = 8
# Groups of samples that are left out in turn.
GROUPS = 16


def check(case: Experiments) -> Found:
    """Compare the batch size with the gradient noise scale, and try steps on larger batches."""
    samples = case.samples
    if not case.trials:
        return []  # said by the check of the steps
    if samples is None:
        return [NotChecked(("noise",), case.need_of_samples)]
    scale = noise_scale(case)
    if scale is not None:
        most = f" to {number(scale[2], 3)}" if math.isfinite(scale[2]) else " or more"
        spread = f" ({number(scale[1], 3)}{most})" if math.isfinite(scale[1]) else ""
        case.measured["gradient noise scale tr Σ / |G|²"] = _samples(scale[0]) + spread
    size = samples.batch_size
    if size is None:
        return [NotChecked(("noise",), "data as the list of batches that training uses")]
    if case.no_step_moves:
        return [NotChecked(("noise",), "steps that move the parameters: none does here")]
    if scale is None:
        return [NotChecked(("noise",), "a loss that is a mean over samples and can take one sample")]
    doubled, halved = (_changed_batch(size, factor, scale[0]) for factor in (2.0, 0.5))
    case.measured["twice the batch, by the noise scale"] = doubled
    case.measured["half the batch, by the noise scale"] = halved
    gain = _gain_of_larger(case, size)
    # The lower end of the interval of the noise scale.
    by_scale, by_trials = log_confidence(scale[1] / size, 1.0, SPREAD), _by_trials(case)
    experiment = (
        f"decay the learning rate to zero from here, or use {LARGER} times the batch; by the noise scale "
        f"twice the batch needs at best {doubled}, half the batch at worst {halved}"
    )
    return [
        finding(
            ("noise", "noise_scale" if by_scale >= by_trials else "larger_batches"),
            f"with {size} samples a step the gradient is mostly noise: its noise scale is "
            f"{_samples(scale[0])}, and a batch {LARGER} times as large lowers the loss by "
            f"{number(100 * gain, 3)} % more",
            "gradient noise scale ÷ batch size",
            ratio(scale[0] / size, 1.0, SPREAD),
            source="McCandlish et al. 2018, arXiv:1812.06162, section 2.2: below it noise dominates a step",
            sure=min(max(by_scale, by_trials), log_confidence(gain, MATERIAL, SPREAD)),
            remedy=("decay_rate", experiment),
            cost=f"{min(MAX_SINGLE, samples.size)} gradients of single samples, {2 * case.num_steps} steps",
        )
    ]


def _samples(scale: float) -> str:
    return f"{number(scale, 3)} samples" if math.isfinite(scale) else "infinite, no gradient beyond its error"


def _gain_of_larger(case: Experiments, size: int) -> float:
    """Share of the loss that larger batches, or all samples, gain over training on unchanged."""
    assert case.samples is not None
    larger = case.steps(min(LARGER * size, case.samples.size), case.num_steps)
    changed = larger.run(case.params, case.opt_state, case.value).after
    case.measured[f"loss after {case.num_steps} steps with {LARGER} times the batch"] = number(changed, 4)
    return case.gain(case.trials[1.0].after, min(changed, case.full_batch[1.0].after))


def _by_trials(case: Experiments) -> float:
    """Confidence without the noise scale: shorter steps gain on batches, and full-batch steps gain too."""
    going_on = case.trials[1.0].after
    shorter = min(trial.after for factor, trial in case.trials.items() if factor < 1)
    gains = (case.gain(going_on, shorter), case.gain(going_on, case.full_batch[1.0].after))
    return log_confidence(min(gains), MATERIAL, SPREAD)


def noise_scale(case: Experiments) -> tuple[float, float, float] | None:
    """Noise scale tr Σ / |G|² in samples, and the ends of its interval; None without single samples."""
    samples = case.samples
    assert samples is not None
    rows = case.rng.permutation(samples.size)[: MAX_SINGLE - MAX_SINGLE % GROUPS]
    each = len(rows) // GROUPS
    if each == 0 or case.sample_losses(samples) is None:
        return None
    batch = jax.tree.map(jnp.asarray, samples.take(rows[: each * GROUPS]))
    groups = jax.tree.map(lambda leaf: leaf.reshape(GROUPS, each, 1, *leaf.shape[1:]), batch)

    def add(total: tuple[jax.Array, jax.Array], sample: Any) -> tuple[tuple[jax.Array, jax.Array], None]:
        found = from_tangent(case.op.layout, jax.grad(case.loss, allow_int=True)(case.params, sample))
        g = jnp.concatenate([leaf.ravel().astype(jnp.float32) for leaf in found])
        return (total[0] + g, total[1] + g @ g), None

    def group(part: Any) -> tuple[jax.Array, jax.Array]:
        zero = (jnp.zeros(case.op.size, jnp.float32), jnp.zeros((), jnp.float32))
        return jax.lax.scan(add, zero, part)[0]

    sums, squares = jax.jit(lambda parts: jax.lax.map(group, parts))(groups)
    case.cost.add(gradients=2)
    sums, squares = np.asarray(sums, np.float64), np.asarray(squares, np.float64)

    def parts(keep: np.ndarray) -> tuple[float, float]:
        count = each * int(keep.sum())
        mean, square = sums[keep].sum(0) / count, squares[keep].sum() / count
        trace = (square - mean @ mean) * count / (count - 1)
        return trace, float(mean @ mean) - trace / count

    everything = np.ones(GROUPS, bool)
    trace, signal = parts(everything)
    left = np.array([parts(everything & (np.arange(GROUPS) != g)) for g in range(GROUPS)])
    error = np.sqrt((GROUPS - 1) / GROUPS * np.sum((left - left.mean(0)) ** 2, axis=0))
    least, most = signal - 2 * error[1], signal + 2 * error[1]  # infinite where G is zero within its error
    high = trace / least if least > 0 else math.inf
    return (trace / signal if signal > 0 else math.inf), trace / most if most > 0 else math.inf, high


def _changed_batch(size: float, factor: float, scale: float) -> str:
    """Steps and samples that another batch size needs for the same progress, relative to this one."""
    # The best step gains in proportion to 1/(1 + scale / batch): McCandlish et al. 2018, section 2.2.
    steps = 1 / factor if math.isinf(scale) else (1 + scale / (factor * size)) / (1 + scale / size)
    return f"{number(steps, 3)} of the steps and {number(factor * steps, 3)} of the samples"
