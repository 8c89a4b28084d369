"""What is wrong with the data themselves: copies, numbers that are none, other keys, too few samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.diagnosis import baselines
from hessian_probe.diagnosis.checks import generalisation
from hessian_probe.optimizers.samples import assign_folds, join_batches

optax = pytest.importorskip("optax")
# Samples and parameters are float32 in both runs of the suite.
pytestmark = [pytest.mark.any_promotion, pytest.mark.one_precision]


def draws(seed, count, noise=0.0):
    """Two groups in five dimensions that overlap; labels are the groups."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    x = rng.standard_normal((count, 5)) + 0.5 * labels[:, None] + noise
    return x.astype(np.float32), labels.astype(np.int32)


def network(p, x):
    return jnp.tanh(x @ p["u"] + p["b"]) @ p["v"]


def cross_entropy(p, batch):
    return optax.softmax_cross_entropy_with_integer_labels(network(p, batch[0]), batch[1]).mean()


def start(width=40, classes=2):
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((5, width)), rng.standard_normal((width, classes)) / np.sqrt(width)
    return {"u": jnp.float32(u), "b": jnp.zeros(width, jnp.float32), "v": jnp.float32(v)}


def trained(loss, batch, steps=400):
    optimizer, params = optax.adam(1e-2), start()

    @jax.jit
    def run(params, state):
        def step(carry, _):
            params, state = carry
            moves, state = optimizer.update(jax.grad(loss)(params, batch), state)
            return (optax.apply_updates(params, moves), state), None

        return jax.lax.scan(step, (params, state), length=steps)[0]

    params, state = run(params, optimizer.init(params))
    return params, {"optimizer": optimizer, "opt_state": state}


def causes(found):
    return [finding.cause for finding in found.findings if finding.confidence > 0.5]


def test_copies_of_a_row_are_in_one_part():
    rows = np.repeat(np.arange(40.0), 3)[:, None] * np.ones(2)
    part, first = assign_folds(rows, 4, np.random.default_rng(0))
    assert np.all(part.reshape(40, 3) == part[::3, None])
    assert np.array_equal(np.flatnonzero(first), np.arange(0, 120, 3))
    assert np.array_equal(np.bincount(part[::3]), [10, 10, 10, 10])


def test_copies_count_once_where_samples_are_held_out():
    """No part of the data foretells labels drawn by chance, unless it holds copies of the rest."""
    x, y = np.tile(draws(0, 40)[0], (6, 1)), np.tile(np.random.default_rng(2).integers(0, 2, 40), 6)
    inside, _ = baselines.held_out_losses(x, baselines.guess_task(y), np.random.default_rng(0))
    assert inside.shape == (40,)
    assert inside.mean() > 0.8 * np.log(2)


def test_copies_do_not_make_enough_samples_to_compare_inputs():
    few, many = draws(0, 40)[0], draws(1, 120)[0]
    area, error = generalisation.two_sample_area(join_batches(np.tile(few, (3, 1))), join_batches(many))
    assert np.isnan(area)
    assert np.isnan(error)


@pytest.mark.slow
@pytest.mark.parametrize("copies", [1, 6])
def test_copies_of_samples_make_no_other_kind_of_data(copies):
    """Copies on both sides of a split are known by heart, and test data then look as if they were harder."""
    x, y = draws(0, 80)
    train = (np.tile(x, (copies, 1)), np.tile(y, copies))
    params, used = trained(cross_entropy, train)
    found = hp.diagnose(cross_entropy, params, train, test_data=draws(1, 300), apply=network, **used)
    assert causes(found)[0] == "overfitting", found
    assert "mismatch" not in causes(found)


@pytest.mark.slow
def test_copies_hide_no_other_kind_of_data():
    x, y = draws(0, 100)
    train = (np.tile(x, (3, 1)), np.tile(y, 3))
    params, used = trained(cross_entropy, train)
    other = draws(1, 300, noise=np.float32([4, -4, 4, -4, 4]))
    found = hp.diagnose(cross_entropy, params, train, test_data=other, apply=network, **used)
    assert causes(found)[0] == "mismatch", found


@pytest.mark.slow
def test_a_loss_at_its_floor_shows_no_small_model():
    """Smoothed labels leave a loss of 0.42 however well they are fitted; the task is not recognised."""

    def smoothed(p, batch):
        labels = optax.smooth_labels(jax.nn.one_hot(batch[1], 2), 0.3)
        return optax.softmax_cross_entropy(network(p, batch[0]), labels).mean()

    x, _ = draws(0, 200)
    train = (x, (x[:, 0] > 0).astype(np.int32))
    params, used = trained(smoothed, train, 800)
    found = hp.diagnose(smoothed, params, train, apply=network, **used)
    assert "model_bias" not in causes(found), found


def masked(p, batch):
    """A sum of squares over weights of inputs; a mask of −∞ takes some out."""
    weights = jax.nn.softmax(batch["x"] + batch["mask"], axis=-1)
    return jnp.mean((network(p, weights)[:, 0] - batch["y"]) ** 2)


def test_infinite_numbers_that_a_loss_can_take_are_not_why_it_diverged():
    x, y = draws(0, 60)
    mask = np.where(np.random.default_rng(0).random(x.shape) < 0.1, -np.inf, 0).astype(np.float32)
    batch = {"x": x, "mask": mask, "y": y.astype(np.float32)}
    params = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), start())
    (finding,) = hp.diagnose(masked, params, batch).findings
    assert (finding.cause, finding.reason) == ("divergence", "not_finite")
    assert "params['b']" in finding.claim


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_number_that_is_none_is_named_in_any_precision(dtype):
    x, y = draws(0, 60)
    x = jnp.asarray(x, dtype).at[3, 2].set(jnp.nan)
    (finding,) = hp.diagnose(cross_entropy, start(), (x, y)).findings
    assert (finding.reason, finding.number) == ("data_not_finite", 1.0)


def test_a_recorded_loss_that_is_none_counts_where_the_run_ended_on_it():
    losses = np.geomspace(2.0, 1.0, 100)
    passing, last = losses.copy(), losses.copy()
    passing[3] = last[-1] = np.nan

    def found(history):
        return hp.diagnose(lambda p: jnp.sum(p**2) + 1.0, jnp.zeros(2), history={"loss": history})

    assert "divergence" not in causes(found(passing))
    assert found(last).findings[0].reason == "history_not_finite"


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.slow
def test_few_samples_are_diagnosed_as_far_as_that_goes(count):
    train = tuple(leaf[:count] for leaf in draws(0, 8))
    found = hp.diagnose(cross_entropy, start(), train, apply=network)
    missing = {cause for item in found.not_checked for cause in item.causes}
    assert missing & {"overfitting", "model_bias"}


def test_data_that_do_not_fit_are_refused_by_name():
    x, y = draws(0, 60)

    def loss(p, batch):
        return cross_entropy(p, (batch["image"], batch["label"]))

    with pytest.raises(ValueError, match=r"test_data must be of the same kind as data; got batches .*'x'"):
        hp.diagnose(loss, start(), {"image": x, "label": y}, test_data={"x": x, "y": y})
    with pytest.raises(TypeError, match=r"history\['loss'\] must be an array or a list"):
        hp.diagnose(cross_entropy, start(), (x, y), history={"loss": (v for v in [1.0, 2.0])})


@pytest.mark.slow
def test_test_data_that_are_not_finite_are_said_to_be():
    x, y = draws(0, 60)
    bad = x.copy()
    bad[0, 0] = np.nan
    found = hp.diagnose(cross_entropy, start(), (x, y), test_data=(bad, y), apply=network)
    (need,) = (item.needs for item in found.not_checked if "overfitting" in item.causes)
    assert "(1 numbers" in need


# ---------------------------------------------------------------- a loss of the parameters alone

CURVATURES = jnp.array([1.0, 10.0, 100.0])


def valley(w):
    return 0.5 * jnp.sum(CURVATURES.astype(w.dtype) * w**2) + 1.0


def without_data(loss, optimizer, steps, start):
    """Diagnose a training of parameters alone by its optimiser, state and history."""

    @jax.jit
    def step(w, state):
        value, gradient = jax.value_and_grad(loss)(w)
        updates, state = optimizer.update(gradient, state, w)
        return optax.apply_updates(w, updates), state, value

    w, state, losses = start, optimizer.init(start), []
    for _ in range(steps):
        w, state, value = step(w, state)
        losses.append(float(value))
    found = hp.diagnose(loss, w, optimizer=optimizer, opt_state=state, history={"loss": losses})
    return found, {f.cause: f for f in found.findings if f.confidence >= 0.9}


NEED_NO_SAMPLES = {
    "uphill", "divergence", "oscillation", "slow", "ill_conditioned", "saddle", "minimum"
}  # fmt: skip


@pytest.mark.parametrize(
    ("optimizer", "steps", "first", "among"),
    [
        (optax.sgd(0.0201), 300, "divergence", "oscillation"),
        (optax.sgd(0.0199, 0.0), 40, "oscillation", "oscillation"),
        (optax.sgd(1e-6), 300, "slow", "slow"),
        (optax.adam(1e-6), 100, "slow", "slow"),
        (optax.scale(1e-4), 300, "uphill", "uphill"),
        (optax.adam(-1e-3), 50, "uphill", "uphill"),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.slow
def test_steps_are_judged_without_data(optimizer, steps, first, among, dtype):
    start = jnp.ones(3, dtype)
    found, strong = without_data(valley, optimizer, steps, start)
    missing = {cause for item in found.not_checked if not item.aspect for cause in item.causes}
    assert not missing & NEED_NO_SAMPLES
    assert missing >= {"noise", "model_bias", "broadcast", "input_scale", "overfitting"}
    assert found.findings[0].cause == first
    assert among in strong
    assert ("oscillation" in strong) == (among == "oscillation")
    assert ("slow" in strong) == (among == "slow")


@pytest.mark.slow
def test_points_and_valleys_are_judged_without_data():
    """A good training, a finished one, a saddle, a long valley and a decay that holds the loss up."""
    start = jnp.ones(3)
    even = jnp.array([1.0, 3.0, 10.0])
    found, _ = without_data(lambda w: 0.5 * jnp.sum(even * (w - 2.0) ** 2), optax.sgd(0.1), 30, start)
    assert [f.cause for f in found.findings] == ["healthy"]
    _, strong = without_data(valley, optax.sgd(0.01), 2500, start)
    assert not set(strong) - {"minimum", "healthy"}

    def saddle(w):
        return 2.0 + 0.5 * (w[0] ** 2 + w[1] ** 2) - 0.5 * w[2] ** 2 + 0.05 * w[2] ** 4

    _, strong = without_data(saddle, optax.sgd(0.1), 200, jnp.array([1.0, 1.0, 0.0]))
    assert "saddle" in strong

    def long(w):
        return 0.5 * jnp.sum(jnp.geomspace(1e-4, 1.0, 6) * w**2) + 1e-6

    _, strong = without_data(long, optax.sgd(1.9), 400, jnp.array([100.0, 40.0, 10.0, 4.0, 1.0, 1.0]))
    assert "ill_conditioned" in strong

    def fit(w):
        return jnp.sum((w - 3.0) ** 2) + 0.01

    decaying = optax.chain(optax.add_decayed_weights(20.0), optax.sgd(0.02))
    _, strong = without_data(fit, decaying, 200, start)
    assert strong["optimization"].reason == "weight_decay"


def test_one_batch_that_is_no_set_of_samples_is_stepped_on_as_a_whole():
    """A loss over a whole graph: its steps need no samples either."""
    rng = np.random.default_rng(0)
    near = rng.random((30, 30)).astype(np.float32) / 30
    graph = {"near": near, "x": np.float32(rng.standard_normal((30, 2)))}

    def loss(w, g):
        return jnp.mean((g["near"] @ g["x"] @ w - (g["x"] @ jnp.ones(2, g["x"].dtype))) ** 2) + 0.1

    w, optimizer = jnp.zeros(2, jnp.float32), optax.sgd(1e-6)
    found = hp.diagnose(loss, w, graph, optimizer=optimizer, opt_state=optimizer.init(w))
    assert "slow" in {f.cause for f in found.findings}
    assert not {cause for item in found.not_checked for cause in item.causes} & {"oscillation", "saddle"}
