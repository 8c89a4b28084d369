"""The plateau test against streams whose trend is known, whatever their scale, sign and noise."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from hessian_probe.training import PlateauTest
from hessian_probe.training import plateau_statistics as streams

pytestmark = pytest.mark.float32

STEPS = np.arange(3000)


def kinds(values, **options):
    test = PlateauTest(**options)
    return [test.update(value) for value in values]


def decay(time):
    return np.exp(-STEPS / time)


NOISE = np.random.default_rng(0).standard_normal(len(STEPS))
HEAVY = np.random.default_rng(1).standard_t(1.5, len(STEPS))
STEP_DECAY = np.where(STEPS < 1500, 0.3 + 0.7 * decay(300), 0.1 + 0.2 * np.exp(-(STEPS - 1500) / 300))
HEALTHY = {
    "exponential": decay(1500),
    "exponential, noise": decay(1500) + 0.1 * NOISE,
    "one over t": 1 / (1 + STEPS / 10),
    "one over t, noise that shrinks": np.exp(0.3 * NOISE) / (1 + STEPS / 10),
    "one over square root": (1 + STEPS / 10) ** -0.5,
    "linear, negative": -1e-3 * STEPS,
    "linear, noise": -1e-3 * STEPS + NOISE,
    "steps of the learning rate": STEP_DECAY + 0.02 * NOISE,
    "heavy tails": decay(1500) + 0.05 * HEAVY,
    "fast, then slow": 0.9 * decay(10) + 0.1 * decay(2000),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_no_alarm_while_the_loss_falls(name):
    found = kinds(HEALTHY[name])
    # In the first half of a step of the learning rate the loss moves; later it truly stands still.
    assert set(found) <= {"none", "noisy"}


RISEN = {
    "fine-tuning": np.where(STEPS < 300, 0.1 + 1.9 * STEPS / 300, 0.1 + 2 / np.sqrt(1 + STEPS / 500)),
    "warm-up": np.where(STEPS < 100, 1 + STEPS / 100, 2 * decay(3000)),
    "an early peak": np.where(STEPS < 64, 1.0, 1 + 2 * decay(4000)),
}


@pytest.mark.parametrize("name", RISEN)
def test_a_loss_that_rose_first_is_slow_only_where_its_fall_begins(name):
    """Progress is measured from the highest eighth, not from the first."""
    found = kinds(RISEN[name] + 0.02 * NOISE)
    assert set(found[1500:]) <= {"none", "noisy"}


AT_REST = {
    "constant": np.ones(1000),
    "constant, negative": np.full(1000, -7.3),
    "a saddle entered": 0.5 + 0.5 * np.exp(-STEPS[:1000] / 20) - 1e-12 * np.exp(STEPS[:1000] / 100),
    "a floor with little noise": decay(50) + 1e-3 * NOISE,
    "rounding": np.float64(np.float32(1.0)) + 1e-16 * NOISE[:1000],
}


@pytest.mark.parametrize("name", AT_REST)
def test_a_loss_at_rest_is_flat(name):
    assert "flat" in kinds(AT_REST[name])


def test_a_run_that_starts_on_a_plateau_is_noticed_long_before_it_leaves():
    """1 − 1e-8·exp(t/100): half of the way down after 1,770 steps."""
    found = kinds(1 - 1e-8 * np.exp(STEPS[:1800] / 100))
    assert 0 < found.index("slow") < 400


def test_a_saddle_that_is_approached_like_a_power_of_time_is_noticed():
    """What is left to gain is a thousandth of what was gained; seen on a network with symmetric units."""
    assert "slow" in kinds(10 * np.exp(-STEPS[:1000] / 20) + 0.9 + 0.01 / (1 + STEPS[:1000] / 10))


def test_noise_that_hides_any_trend_is_said_to_be_noise():
    found = kinds(np.exp(-STEPS / 5000) + 3.0 * NOISE)
    assert found[200] == "noisy"
    assert "flat" not in found[:1000]
    assert "diverging" not in found


OTHERS = {
    "oscillating": [decay(100) + 0.1 * (-1.0) ** STEPS, decay(100) + 0.1 * np.sin(STEPS / 1.3)],
    "diverging": [decay(100) + 1e-2 * np.exp(np.minimum(STEPS / 100, 12)), 1e-3 * STEPS**1.5 + 0.01 * NOISE],
}


@pytest.mark.parametrize(("kind", "number"), [(k, i) for k in OTHERS for i in range(2)])
def test_oscillation_and_divergence(kind, number):
    values = OTHERS[kind][number][:1200]
    assert kinds(values)[-1] == kind


def test_what_is_not_finite_diverges_and_is_forgotten():
    test = PlateauTest()
    for value in decay(300)[:500]:
        test.update(value)
    before = test.kind
    assert test.update(float("nan")) == "diverging"
    assert test.evidence().code == "value_nonfinite"
    assert test.update(float("inf")) == "diverging"
    assert test.update(decay(300)[500]) == before


def test_r16_negative_losses_are_like_positive_ones():
    """optax's `reduce_on_plateau` never fires on negative losses."""
    plateau = 0.5 + 0.5 * decay(20)
    assert kinds(plateau) == kinds(plateau - 10)
    assert "flat" in kinds(plateau - 10)


@pytest.mark.parametrize("window", [32, 64])
def test_a_spike_leaves_no_trace_in_the_smallest_window_either(window):
    values = (1 + STEPS / 10) ** -0.5 + 1e-3 * NOISE
    values[400] += 1e3
    assert set(kinds(values, window=window)) <= {"none", "noisy"}


def test_values_outside_of_single_precision_warn_of_nothing():
    assert "flat" in kinds(np.full(200, 1e39))


@pytest.mark.parametrize("height", [-50.0, 50.0, 1e6, -1e6])
def test_r16_a_steady_decrease_after_a_spike_is_no_plateau(height):
    values = -1e-3 * STEPS + 0.01 * NOISE
    values[500] += height
    assert set(kinds(values)) <= {"none", "noisy"}
    values[500:503] += height
    assert "flat" not in kinds(values)


SHAPES = ["exponential, noise", "heavy tails", "steps of the learning rate", "one over t"]


@given(
    name=st.sampled_from([*SHAPES, *AT_REST]),
    scale=st.floats(-8, 8).map(lambda e: 2.0 ** round(e)),
    shift=st.integers(-64, 64),
)
def test_scale_and_shift_change_no_kind(name, scale, shift):
    values = (HEALTHY | AT_REST)[name][:400]
    # On a grid on which scaling and shifting are exact.
    values = np.round(values * 2.0**30) / 2.0**30
    assert kinds(values) == kinds(scale * values + shift)


@pytest.mark.slow
def test_the_compiled_test_is_the_host_one():
    """The same formulas under jit: the same kinds, up to rounding at the thresholds."""
    chunk = 8

    @jax.jit
    def run(values):
        def step(statistics, values):
            statistics = streams.absorb(jnp, statistics, values)
            return statistics, streams.judge(jnp, statistics, chunk, 1.2e-7).kind

        return jax.lax.scan(step, streams.new_statistics(jnp, values.dtype), values.reshape(-1, chunk))[1]

    for name in ("exponential, noise", "heavy tails", "one over t", "a floor with little noise"):
        values = (HEALTHY | AT_REST)[name][:800]
        compiled = [streams.KINDS[k] for k in np.asarray(run(jnp.asarray(values, jnp.float32)))]
        host = kinds(np.asarray(values, np.float32))[chunk - 1 :: chunk]
        assert np.mean([a == b for a, b in zip(compiled, host, strict=True)]) > 0.97, name


@pytest.mark.parametrize("window", [16, 48, 0])
def test_a_window_that_does_not_work_is_refused(window):
    with pytest.raises(ValueError, match="expected a multiple of 32"):
        PlateauTest(window=window)


def test_memory_is_bounded():
    test = PlateauTest()
    size = sum(np.size(field) for field in test.statistics)
    kinds_seen = [test.update(v) for v in np.tile(HEALTHY["linear, noise"], 4)]
    assert len(kinds_seen) == 12000
    assert sum(np.size(field) for field in test.statistics) == size
    assert len(test.recent) == 64
