"""Are the optimiser's steps too long, too short, too noisy?  Tried on copies."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.diagnosis.context import MAX_SINGLE, Context
from hessian_probe.diagnosis.evidence import Found, confidence, log_confidence
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.diagnosis.trial import STEPS, float_leaf
from hessian_probe.results import number

# Share that a change must gain of the loss that going on unchanged leaves after as many steps.
MATERIAL = 0.05
SPREAD = 0.5
# Oscillation: from here the sharpness is at the limit (see stability.EDGE).
AT_LIMIT = 0.95
SPREAD_OF_RATIO = 0.05
# Or: the share of steps in which the gradient along the top eigenvector changes sign.  Momentum crosses a
# valley in several steps.
FLIPS = 0.3
SPREAD_OF_FLIPS = 0.1
# Slow: a longer step gains this many times as much.
FASTER = 3.0
# Larger batches that are tried for noise.
LARGER = 8
GROUPS = 16
NEEDS = "optimizer and opt_state, and train as batches of arrays with samples along axis 0"


def check(context: Context) -> Found:
    """Try the user's optimiser for some steps at several rates and batch sizes."""
    if not context.trials:
        return [NotChecked("oscillation, slow, noise", context.no_trials or NEEDS)]
    now = context.trials[1.0]
    text = ", ".join(f"× {f:.3g}: {number(t.after, 4)}" for f, t in context.trials.items())
    context.measured[f"loss after {STEPS} steps at multiples of the rate"] = text
    shorter = min(context.trials[1 / 16].after, context.trials[1 / 4].after)
    longer = min(trial.after for factor, trial in context.trials.items() if factor > 1)
    out: Found = []
    stability = context.stability
    if stability is not None and stability.status == "undetermined":
        out.append(NotChecked("sharpness against the stability limit", stability.reason))
    out += _oscillation(context, now.after, shorter)
    out += _slow(context, now.after, longer)
    out += _noise(context, now.after)
    return out


def _gain(context: Context, unchanged: float, changed: float) -> float:
    """Share that a change gains of the loss that going on leaves."""
    worse = min(unchanged, 10 * context.value)  # a trial that ran away counts as a loss ten times as large
    return (worse - changed) / worse if min(worse, context.value) > 0 else 0.0


def _oscillation(context: Context, unchanged: float, shorter: float) -> Found:
    """Shorter steps gain, and either the sharpness is at the limit or the gradient alternates in sign."""
    # Far out on the walls of a valley the curvature can be small: that it is crossed shows in the signs.
    stability = context.stability
    if stability is None or stability.status == "undetermined":
        return []
    gain = _gain(context, unchanged, shorter)
    ratio, error = stability.ratio, stability.error / stability.limit
    context.measured["sharpness ÷ stability limit"] = number(ratio, 4)
    gains = log_confidence(gain, MATERIAL, SPREAD)
    flips = 0.0
    if gains >= 0.1 or ratio > AT_LIMIT / 2:
        full = context.steps(None, STEPS)
        flips = full.run(context.params, context.opt_state, context.value, 1.0, stability.direction).flips
        context.num_evaluations += STEPS
        context.measured["sign changes along the top eigenvector"] = number(flips, 2)
    by_ratio = confidence(ratio - AT_LIMIT, max(error, SPREAD_OF_RATIO))
    by_flips = confidence(flips - FLIPS, SPREAD_OF_FLIPS)
    sharp = by_ratio >= by_flips
    claim = (
        f"steps are too long: sharpness is {number(ratio, 3)} of what {stability.method} can stand, the "
        f"gradient along the sharpest direction changes sign in {number(100 * flips, 2)} % of the steps, and "
        f"shorter steps gain {number(100 * gain, 2)} % of the loss"
    )
    return [
        Finding(
            cause="oscillation",
            claim=claim,
            quantity="sharpness ÷ stability limit" if sharp else "sign changes along the top eigenvector",
            number=ratio if sharp else flips,
            low=ratio - 2 * error if sharp else max(flips - 2 * SPREAD_OF_FLIPS, 0.0),
            high=ratio + 2 * error if sharp else min(flips + 2 * SPREAD_OF_FLIPS, 1.0),
            threshold=AT_LIMIT if sharp else FLIPS,
            source=f"{stability.formula}, {stability.source}; at the limit from 0.95 on"
            if sharp
            else "below the limit no sign changes; chosen on planted troubles",
            confidence=min(gains, max(by_ratio, by_flips)),
            experiment=_shorter_rate(stability.learning_rate, ratio),
            cost=f"{stability.num_hvps} HVPs and {3 * STEPS} steps on a copy",
        )
    ]


def _shorter_rate(rate: float, ratio: float) -> str:
    known = math.isfinite(rate) and ratio > AT_LIMIT
    to = f" to {number(rate / (2 * ratio), 2)} (half the limit)" if known else " to a quarter"
    return f"lower the learning rate{to}, or decay it from here"


def _slow(context: Context, unchanged: float, longer: float) -> Found:
    step, far = context.value - unchanged, context.value - longer
    gain = _gain(context, unchanged, longer)
    faster = far / step if step > 0 else (math.inf if far > 0 else 0.0)
    stability = context.stability
    room = ""
    if stability is not None and stability.status != "undetermined":
        room = f" (sharpness is {number(stability.ratio, 2)} of the stability limit)"
    best = min((f for f in context.trials if f > 1), key=lambda f: context.trials[f].after)
    return [
        Finding(
            cause="slow",
            claim=f"the rate is too small{room}: {best:.3g} times the rate gains {number(faster, 3)} times "
            f"as much in {STEPS} steps, {number(100 * gain, 2)} % of the loss more",
            quantity="decrease with a longer step ÷ decrease as it is",
            number=faster,
            low=faster * math.exp(-2 * SPREAD),
            high=faster * math.exp(2 * SPREAD),
            threshold=FASTER,
            source="a rate within a factor 3 of a good one is not the trouble; chosen on planted troubles",
            confidence=min(log_confidence(faster, FASTER, SPREAD), log_confidence(gain, MATERIAL, SPREAD)),
            experiment=f"multiply the learning rate by {best:.3g}",
            cost=f"{3 * STEPS} steps on a copy",
        )
    ]


def noise_scale(context: Context) -> tuple[float, float, float] | None:
    """Gradient noise scale tr Σ / |G|², in samples, with an interval from groups left out in turn.

    Returns:
        The scale and the ends of its interval; None where the loss cannot take single samples.  Infinite
        where the gradient cannot be told from zero.
    """
    samples = context.samples
    assert samples is not None
    rows = context.rng.permutation(samples.size)[: MAX_SINGLE - MAX_SINGLE % GROUPS]
    each = len(rows) // GROUPS
    if each == 0 or context.single_losses(samples) is None:
        return None
    batch = jax.tree.map(jnp.asarray, samples.take(rows[: each * GROUPS]))
    groups = jax.tree.map(lambda leaf: leaf.reshape(GROUPS, each, *leaf.shape[1:]), batch)

    def gradient(sample: object) -> jax.Array:
        one = jax.tree.map(lambda leaf: leaf[None], sample)
        found = jax.grad(context.loss, allow_int=True)(context.params, one)
        return jnp.concatenate(
            [leaf.ravel().astype(jnp.float32) for leaf in jax.tree.leaves(found) if float_leaf(leaf)]
        )

    def group(part: object) -> tuple[jax.Array, jax.Array]:
        def add(
            total: tuple[jax.Array, jax.Array], sample: object
        ) -> tuple[tuple[jax.Array, jax.Array], None]:
            g = gradient(sample)
            return (total[0] + g, total[1] + g @ g), None

        like = jax.eval_shape(gradient, jax.tree.map(lambda leaf: leaf[0], part))
        zero = (jnp.zeros(like.shape, like.dtype), jnp.zeros((), like.dtype))
        return jax.lax.scan(add, zero, part)[0]

    sums, squares = jax.jit(lambda parts: jax.lax.map(group, parts))(groups)
    context.num_evaluations += 2
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
    least, most = signal - 2 * error[1], signal + 2 * error[1]
    high = trace / least if least > 0 else math.inf
    return (trace / signal if signal > 0 else math.inf), trace / most if most > 0 else math.inf, high


def _changed_batch(size: float, factor: float, scale: float) -> str:
    """Steps and samples to the same progress with another batch, as shares of those with this one."""
    # The best step gains in proportion to 1/(1 + scale / batch): McCandlish et al. 2018, section 2.2.
    steps = 1 / factor if math.isinf(scale) else (1 + scale / (factor * size)) / (1 + scale / size)
    return f"{number(steps, 3)} of the steps and {number(factor * steps, 3)} of the samples"


def _noise(context: Context, unchanged: float) -> Found:
    samples = context.samples
    assert samples is not None
    scale = noise_scale(context)
    if scale is not None:
        text = f"{number(scale[0], 3)} samples ({number(scale[1], 3)} to {number(scale[2], 3)})"
        context.measured["gradient noise scale tr Σ / |G|²"] = text
    size = samples.batch_size
    if size is None:
        return [NotChecked("noise", "train as the list of batches that training uses")]
    if scale is None:
        return [NotChecked("noise", "a loss that is a mean over samples and can take one sample")]
    doubled, halved = (_changed_batch(size, factor, scale[0]) for factor in (2.0, 0.5))
    context.measured["twice the batch, by the noise scale"] = doubled
    context.measured["half the batch, by the noise scale"] = halved
    larger = context.steps(min(LARGER * size, samples.size), STEPS)
    changed = larger.run(context.params, context.opt_state, context.value).after
    context.num_evaluations += STEPS
    context.measured[f"loss after {STEPS} steps with {LARGER} times the batch"] = number(changed, 4)
    gain = _gain(context, unchanged, changed)
    share = scale[1] / size  # the least that the noise can be, with 95 % confidence
    sure = min(log_confidence(share, 1.0, SPREAD), log_confidence(gain, MATERIAL, SPREAD))
    return [
        Finding(
            cause="noise",
            claim=f"with {size} samples a step the gradient is mostly noise: its noise scale is "
            f"{number(scale[0], 3)} samples, and {LARGER} times the batch gains {number(100 * gain, 2)} % of "
            "the loss",
            quantity="gradient noise scale ÷ batch size",
            number=scale[0] / size,
            low=share,
            high=scale[2] / size,
            threshold=1.0,
            source="McCandlish et al. 2018, arXiv:1812.06162, section 2.2: below it noise dominates a step",
            confidence=sure,
            experiment=f"decay the learning rate to zero from here, or {LARGER} times the batch; by the "
            f"noise scale twice the batch takes at best {doubled}, half of it at worst {halved}",
            cost=f"{min(MAX_SINGLE, samples.size)} gradients of single samples, {2 * STEPS} steps",
        )
    ]
