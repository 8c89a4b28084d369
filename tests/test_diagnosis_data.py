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


def test_test_data_that_are_not_finite_are_said_to_be():
    x, y = draws(0, 60)
    bad = x.copy()
    bad[0, 0] = np.nan
    found = hp.diagnose(cross_entropy, start(), (x, y), test_data=(bad, y), apply=network)
    (need,) = (item.needs for item in found.not_checked if "overfitting" in item.causes)
    assert "(1 numbers" in need
