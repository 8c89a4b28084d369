"""The frameworks' hooks: what is trained moves, what is fixed stays, and nothing random is probed.

The loss of every network below is that of a saddle at zero weights: 10 classes guessed alike.
"""

import builtins

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp

# Every network compiles for itself: with the examples, these run in a stage of their own.
pytestmark = [pytest.mark.any_promotion, pytest.mark.slow]
WINDOW = 32


def batch(seed=0, size=256):
    """Four blobs, told apart by two of their six features; every class as often in either half."""
    rng = np.random.default_rng(seed)
    y = np.arange(size) % 4
    x = 0.3 * rng.standard_normal((size, 6))
    x[:, 0] += np.where(y % 2, 1.0, -1.0)
    x[:, 1] += np.where(y // 2, 1.0, -1.0)
    return x.astype(np.float32), y.astype(np.int32)


def crossentropy(logits, y):
    logits = logits.astype(jnp.float32)
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(y)), y])


def plateau(update, steps=6 * WINDOW):
    """Report the same loss again and again, as a run on a plateau would; return the event that moved."""
    for step in range(steps):
        event = update(step)
        if event.kind == "escaped":
            return event
    raise AssertionError(f"nothing was left in {steps} steps: {event}")


@pytest.fixture
def flax():
    return pytest.importorskip("flax")


def test_linen_train_state_with_batch_statistics(flax):
    import flax.linen as nn
    import optax
    from flax.training import train_state

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=False)(x)
            zeros = nn.initializers.zeros
            return nn.Dense(4, kernel_init=zeros)(jnp.tanh(nn.Dense(5, kernel_init=zeros)(x)))

    net, data = Net(), batch()
    variables = net.init(jax.random.key(0), data[0])
    state = train_state.TrainState.create(apply_fn=net.apply, params=variables["params"], tx=optax.adam(0.1))

    def loss(params, stats, both):
        x, y = both
        logits, _ = net.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])
        return crossentropy(logits, y)

    stats = variables["batch_stats"]
    value = loss(state.params, stats, data)
    monitor = hp.training.Monitor(loss, window=WINDOW, moments="reset")
    seen = []

    def update(step):
        state_after, event = hp.training.update_train_state(monitor, state, value, batch=data, aux=stats)
        seen.append(state_after)
        return event

    event = plateau(update)
    assert all(before is state for before in seen[:-1])
    assert seen[-1].params is event.params
    assert loss(seen[-1].params, stats, data) < value - 0.1
    assert jax.tree.structure(seen[-1].params) == jax.tree.structure(state.params)


def test_nnx_module_with_dropout_and_a_frozen_layer(flax):
    import optax
    from flax import nnx

    class Frozen(nnx.Variable):
        pass

    class Net(nnx.Module):
        def __init__(self, rngs):
            zeros = nnx.initializers.zeros
            self.scale = Frozen(jnp.full((6,), 2.0, jnp.float32))
            self.first = nnx.Linear(6, 5, kernel_init=zeros, rngs=rngs)
            self.norm = nnx.BatchNorm(5, use_running_average=False, rngs=rngs)
            self.dropout = nnx.Dropout(0.2, rngs=rngs)
            self.last = nnx.Linear(5, 4, kernel_init=zeros, rngs=rngs)

        def __call__(self, x):
            hidden = jnp.tanh(self.first(x * self.scale[...]))
            return self.last(self.dropout(hidden))

    def loss(net, both):
        return crossentropy(net(both[0]), both[1])

    net, data = Net(nnx.Rngs(0)), batch()
    optimizer = nnx.Optimizer(net, optax.adam(0.1), wrt=nnx.Param)
    optimizer.update(net, jax.tree.map(jnp.zeros_like, nnx.state(net, nnx.Param)))
    value = loss(net, data)
    hook = hp.training.NNXMonitor(loss, net, optimizer, window=WINDOW, moments="reset")
    _, before, others = nnx.split(net, nnx.Param, ...)
    before, others = (jax.tree.map(jnp.copy, part) for part in (before, others))
    event = plateau(lambda step: hook.update(step, value, batch=data))
    assert event.point.label == "saddle"
    _, after, others_after = nnx.split(net, nnx.Param, ...)
    moved = [
        bool(jnp.any(a != b)) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    ]
    assert any(moved)
    for a, b in zip(jax.tree.leaves(others), jax.tree.leaves(others_after), strict=True):
        assert jnp.array_equal(a, b)  # the frozen scale, statistics, dropout's key and count
    assert loss(net, data) < value - 0.1
    counts = [v for path, v in nnx.to_flat_state(nnx.state(optimizer)) if path[-1] == "count"]
    assert [int(np.asarray(c[...])) for c in counts] == [0]


def test_equinox_module_in_bfloat16_with_a_frozen_part():
    eqx = pytest.importorskip("equinox")
    net = eqx.nn.MLP(6, 4, 5, 1, activation=jnp.tanh, key=jax.random.key(0))
    net = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32) if eqx.is_inexact_array(x) else x, net)
    spec = jax.tree.map(eqx.is_inexact_array, net)
    spec = eqx.tree_at(lambda t: t.layers[0].bias, spec, replace=False)
    data = batch()

    def loss(module, both):
        half = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if eqx.is_inexact_array(x) else x, module)
        return crossentropy(jax.vmap(half)(both[0].astype(jnp.bfloat16)), both[1])

    value = loss(net, data)
    hook = hp.training.EquinoxMonitor(loss, trainable=spec, window=WINDOW)
    event = plateau(lambda step: hook.update(step, net, value, batch=data))
    moved = event.params
    assert moved.activation is net.activation
    assert jnp.array_equal(moved.layers[0].bias, net.layers[0].bias)
    assert moved.layers[0].weight.dtype == jnp.float32
    assert loss(moved, data) < value - 0.1
    still = hook.update(999, moved, value, batch=data)
    assert still.params is moved


def test_equinox_state_is_held_fixed():
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        norm: eqx.nn.BatchNorm
        first: jax.Array
        last: jax.Array

        def __call__(self, x, state):
            x, state = self.norm(x, state)
            return jnp.tanh(x @ self.first) @ self.last, state

    net, state = eqx.nn.make_with_state(
        lambda: Net(
            eqx.nn.BatchNorm(6, "batch", mode="batch"),
            jnp.zeros((6, 5), jnp.float32),
            jnp.zeros((5, 4), jnp.float32),
        )
    )()
    data = batch()

    def loss(module, held, both):
        apply = jax.vmap(module, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        return crossentropy(apply(both[0], held)[0], both[1])

    value = loss(net, state, data)
    hook = hp.training.EquinoxMonitor(loss, window=WINDOW)
    event = plateau(lambda step: hook.update(step, net, value, batch=data, state=state))
    assert loss(event.params, state, data) < value - 0.1


def test_haiku_needs_no_adapter():
    hk = pytest.importorskip("haiku")
    zeros = hk.initializers.Constant(0.0)

    def forward(x):
        x = hk.BatchNorm(True, True, 0.9)(x, is_training=True)
        return hk.Linear(4, w_init=zeros)(jnp.tanh(hk.Linear(5, w_init=zeros)(x)))

    net, data = hk.without_apply_rng(hk.transform_with_state(forward)), batch()
    params, state = net.init(jax.random.key(0), data[0])

    def loss(trained, held, both):
        state, frozen = held
        return crossentropy(net.apply({**frozen, **trained}, state, both[0])[0], both[1])

    frozen, trained = hk.data_structures.partition(lambda module, *_: module == "batch_norm", params)
    value = loss(trained, (state, frozen), data)
    monitor = hp.training.Monitor(loss, window=WINDOW)
    event = plateau(lambda step: monitor.update(step, trained, value, batch=data, aux=(state, frozen)))
    assert set(event.params) == {"linear", "linear_1"}
    assert loss(event.params, (state, frozen), data) < value - 0.1


@pytest.fixture
def keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    module = pytest.importorskip("keras")
    if module.backend.backend() != "jax":
        pytest.skip("Keras was imported with another backend")
    return module


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_keras_fit_with_frozen_layers_and_dropout(keras, policy):
    keras.utils.set_random_seed(0)
    net = keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(6, trainable=False, dtype=policy),
            keras.layers.BatchNormalization(dtype=policy),
            keras.layers.Dense(5, "tanh", kernel_initializer="zeros", dtype=policy),
            keras.layers.Dropout(0.2, dtype=policy),
            keras.layers.Dense(4, kernel_initializer="zeros", dtype="float32"),
        ]
    )
    optimizer = keras.optimizers.SGD(1e-6)
    if policy != "float32":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(optimizer, loss)
    x, y = batch(size=512)
    frozen = [np.asarray(v) for v in net.layers[0].variables]
    hook = hp.training.keras_callback([(x[:256], y[:256]), (x[256:], y[256:])], window=WINDOW)
    net.fit(x, y, batch_size=256, epochs=3 * WINDOW, verbose=0, callbacks=[hook])
    escaped = [event for event in hook.history if event.kind == "escaped"]
    assert len(escaped) == 1
    # The count of steps beside the moments began anew at the escape.
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    assert int(inner.iterations) == 6 * WINDOW - escaped[0].step
    assert net.evaluate(x, y, verbose=0) < escaped[0].value - 0.1
    for before, after in zip(frozen, net.layers[0].variables, strict=True):
        np.testing.assert_array_equal(before, np.asarray(after))
    # The loss of a batch is taken from Keras's running mean.
    np.testing.assert_allclose(escaped[0].value, np.log(4), rtol=1e-3)


@pytest.mark.parametrize(
    ("module", "make"),
    [
        ("flax", lambda: hp.training.NNXMonitor(crossentropy, None)),
        ("equinox", lambda: hp.training.EquinoxMonitor(crossentropy)),
        ("keras", lambda: hp.training.keras_callback([])),
    ],
)
def test_a_missing_framework_is_named_with_its_extra(monkeypatch, module, make):
    for name in [name for name in __import__("sys").modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(__import__("sys").modules, name)
    real = builtins.__import__

    def absent(name, *rest, **options):
        if name.partition(".")[0] == module:
            raise ModuleNotFoundError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    monkeypatch.setattr("importlib.import_module", lambda name: absent(name))
    with pytest.raises(ImportError, match=rf"hessian_probe\[{module}\]"):
        make()
