"""An ordinary network that is stuck: three layers with biases, weights of zero, minibatches, momentum.

At the start the loss is that of guessing, log 10.  Biases learn how frequent the classes are, and nothing
else is learned.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe import problems
from hessian_probe.training import Monitor, escape_events, escape_saddles

optax = pytest.importorskip("optax")
pytest.importorskip("sklearn")
pytestmark = pytest.mark.float32

STEPS, BATCH = 200, 40
LOSS = problems.mlp_loss("tanh", "cross_entropy")
BOTH = jax.jit(jax.value_and_grad(LOSS))
OPTIMIZER = optax.sgd(0.1, momentum=0.9)
START = jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.float32), problems.mlp_init((64, 16, 16, 10)))
# Learned: what a well-started run has reached by far in as many steps.
LEARNED = 0.6


@pytest.fixture(scope="module")
def data():
    inputs, labels = problems.digits(one_hot=False)
    return jnp.asarray(inputs[:200], jnp.float32), jnp.asarray(labels[:200])


@pytest.fixture(scope="module")
def batches(data):
    """A batch for each step, epochs of fresh permutations."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.permutation(200) for _ in range(STEPS * BATCH // 200)]).reshape(STEPS, BATCH)
    return jax.tree.map(lambda part: part[rows], data)


def train(optimizer, params, batches):
    """Parameters, state, and the loss of each step."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(carry, batch):
        params, state = carry
        value, gradient = jax.value_and_grad(LOSS)(params, batch)
        updates, state = optimizer.update(gradient, state, params, value=value, batch=batch)
        return (optax.apply_updates(params, updates), state), value

    carry = (params, optimizer.init(params))
    (params, state), losses = jax.jit(lambda carry: jax.lax.scan(step, carry, batches))(carry)
    return params, state, np.asarray(losses)


@pytest.fixture(scope="module")
def plain(batches):
    return train(OPTIMIZER, START, batches)


def test_the_hook_leaves_where_plain_training_stays(data, batches, plain):
    stuck, _, losses = plain
    assert losses[-50:].mean() > 2.2
    params, state, hooked = train(escape_saddles(OPTIMIZER, LOSS), START, batches)
    assert int(state.num_escapes) >= 1
    assert int(state.num_rollbacks) == 0
    first = next(row for row in escape_events(state) if row["kind"] == "escaped")
    assert first["step"] < STEPS
    assert first["gain"] > 0.5
    np.testing.assert_array_equal(hooked[: first["step"]], losses[: first["step"]])
    assert float(LOSS(params, data)) < LEARNED < float(LOSS(stuck, data))


@pytest.mark.parametrize("start", ["zero weights", "after plain training"])
@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_hp_escape_leaves_with_the_full_data_and_with_batches(data, plain, start, parts):
    params = START if start == "zero weights" else plain[0]
    given = data if parts == 1 else [jax.tree.map(lambda a, i=i: a[i::parts], data) for i in range(parts)]
    move = hp.escape(LOSS, params, given)
    assert move.status == "escaped"
    assert "fell_on_sphere" in move.reasons
    before, after = (float(LOSS(p, data)) for p in (params, move.params))
    np.testing.assert_allclose([move.loss_before, move.loss_after], [before, after], rtol=1e-4)
    assert after < before - 0.5
    # With eight batches four of them fit, and it gains less on the others.
    fall = before - after
    assert move.gain == pytest.approx(fall, rel=1e-3) if parts == 1 else 0.5 * fall < move.gain < fall
    assert move.gain > 10 * move.gain_of_slope


@pytest.mark.slow
def test_the_monitor_leaves(data, batches):
    parts = [jax.tree.map(lambda a, i=i: a[i::8], data) for i in range(8)]
    monitor, update = Monitor(LOSS, parts), jax.jit(OPTIMIZER.update)
    params, state, kinds = START, OPTIMIZER.init(START), []
    for number in range(STEPS):
        value, gradient = BOTH(params, jax.tree.map(lambda a, n=number: a[n], batches))
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        event = monitor.update(number, params, value, opt_state=state)
        params, state = event.params, event.opt_state
        kinds.append(event.kind)
    assert kinds.count("escaped") == monitor.state.num_escapes >= 1
    assert "taken_back" not in kinds
    assert float(LOSS(params, data)) < LEARNED
