"""Every public call works under every flag with which JAX helps to find faults."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp

optax = pytest.importorskip("optax")
pytestmark = pytest.mark.one_precision

FLAGS = {
    "none": {},
    "debug_nans": {"jax_debug_nans": True},
    "debug_infs": {"jax_debug_infs": True},
    "debug_key_reuse": {"jax_debug_key_reuse": True},
    "checking_leaks": {"jax_check_tracer_leaks": True},
    "strict promotion": {"jax_numpy_dtype_promotion": "strict", "jax_numpy_rank_promotion": "raise"},
    "without 64 bits": {"jax_enable_x64": False},
    "disable_jit": {"jax_disable_jit": True},
}
RATE = optax.sgd(0.1)
DATA = [(np.linspace(-1, 1, 8, dtype=np.float32), np.linspace(1, 0, 8, dtype=np.float32)) for _ in range(4)]


def loss(p, batch):
    """A network of one hidden unit; zero weights are a saddle."""
    x, y = batch
    return jnp.mean((p["b"] * jnp.tanh(p["a"] * x) - y) ** 2)


def params():
    return {"a": jnp.zeros((), jnp.float32), "b": jnp.zeros((), jnp.float32)}


def curved(p, batch):
    return loss(p, batch) + p["a"] ** 2 + p["b"] ** 2


def hooked():
    optimizer = hp.training.escape_saddles(optax.sgd(0.05), loss, window=32)
    step = jax.jit(lambda p, s, v, g, b: optimizer.update(g, s, p, value=v, batch=b))
    p = params()
    state = optimizer.init(p)
    for number in range(90):
        batch = DATA[number % 4]
        value, gradient = jax.value_and_grad(loss)(p, batch)
        updates, state = step(p, state, value, gradient, batch)
        p = optax.apply_updates(p, updates)
    return int(state.num_escapes) > 0


def watched():
    monitor, p = hp.training.Monitor(loss, DATA, window=32), params()
    kinds = set()
    for number in range(60):
        value, gradient = jax.value_and_grad(loss)(p, DATA[number % 4])
        p = jax.tree.map(lambda a, g: a - jnp.asarray(0.05, a.dtype) * g, p, gradient)
        event = monitor.update(number, p, value)
        p = event.params
        kinds.add(event.kind)
    return "escaped" in kinds


CALLS = {
    "classify": lambda: hp.classify(loss, params(), DATA).label == "saddle",
    "escape": lambda: hp.escape(loss, params(), DATA).status == "escaped",
    "eigsh": lambda: len(hp.eigsh(hp.hessian(loss, params(), DATA)).eigenvalues) == 2,
    "sharpness": lambda: np.isfinite(hp.sharpness(curved, params(), DATA)["lambda_max"].value),
    "stability": lambda: (
        hp.stability(curved, params(), DATA, optimizer=RATE, opt_state=RATE.init(params())).sharpness > 0
    ),
    "plan": lambda: "classify" in str(hp.plan(loss, params(), DATA)),
    "diagnose": lambda: (
        len(str(hp.diagnose(loss, params(), DATA, optimizer=RATE, opt_state=RATE.init(params())))) > 0
    ),
    "escape_saddles": hooked,
    "Monitor": watched,
}


@contextlib.contextmanager
def flags(options):
    """Set flags, and set them back; programs traced under others are forgotten."""
    before = {name: getattr(jax.config, name) for name in options}
    jax.clear_caches()
    for name, value in options.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        jax.clear_caches()


@pytest.mark.slow
@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("call", CALLS)
def test_every_call_works_under_every_flag(call, flag):
    with flags(FLAGS[flag]):
        assert CALLS[call]()
