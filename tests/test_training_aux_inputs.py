"""Fixed arrays beside the parameters: unchanged on the way, and no variables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.operators import derivatives
from hessian_probe.training import Monitor, WithAux, with_aux

pytestmark = pytest.mark.float32

FLOAT = np.asarray(jnp.zeros(())).dtype


def scaled_well(p, aux):
    """The well of a quartic, its depth a fixed number."""
    return aux["depth"] * (0.25 * p[0] ** 4 - 0.5 * p[0] ** 2 + p[1] ** 2)


def fixed_arrays():
    return {
        "depth": jnp.asarray(2.0, FLOAT),
        "half": np.asarray([-1.5, 0.0, np.inf], np.float16),
        "narrow": jnp.asarray([1.0, -0.0], jnp.bfloat16),
        "count": np.arange(3),
        "key": jax.random.key(3),
        "name": "layer",
        "nothing": None,
    }


def test_fixed_arrays_come_back_as_they_went_in():
    aux = fixed_arrays()
    leaves, treedef = jax.tree.flatten(WithAux(jnp.ones(2, FLOAT), aux))
    back = jax.tree.unflatten(treedef, leaves).aux
    assert jax.tree.structure(back) == jax.tree.structure(aux)
    for name, leaf in aux.items():
        if hasattr(leaf, "dtype") and name != "key":
            assert back[name].dtype == leaf.dtype
            np.testing.assert_array_equal(np.asarray(back[name]), np.asarray(leaf))
    assert back["key"] == aux["key"]
    assert back["name"] == "layer"


def test_only_the_parameters_are_variables():
    both = WithAux(jnp.zeros(2, FLOAT), fixed_arrays())
    op = hp.hessian(with_aux(scaled_well), both)
    assert op.size == 2
    point = hp.classify(with_aux(scaled_well), both)
    assert point.label == "saddle"
    np.testing.assert_allclose(point.lowest.eigenvalues, [-2.0], rtol=1e-5)
    np.testing.assert_allclose(point.highest.eigenvalues, [4.0], rtol=1e-5)


def test_new_fixed_values_compile_nothing():
    params = jnp.zeros(2, FLOAT)
    loss = with_aux(scaled_well)
    kernels = (derivatives.value_and_gradient, derivatives.linearized, derivatives.line_forward)
    hp.classify(loss, WithAux(params, {"depth": jnp.asarray(2.0, FLOAT)}))
    before = [kernel._cache_size() for kernel in kernels]
    point = hp.classify(loss, WithAux(params, {"depth": jnp.asarray(3.0, FLOAT)}))
    assert [kernel._cache_size() for kernel in kernels] == before
    np.testing.assert_allclose(point.lowest.eigenvalues, [-3.0], rtol=1e-5)


def test_aux_inputs_are_left_out_by_default():
    """A Python number among them may change without a compilation; complex arrays pass."""
    aux = {"depth": 2.0, "turn": np.ones(2, np.complex64), "count": 3}
    both = WithAux({"x": jnp.zeros(2, FLOAT)}, aux)

    def loss(both):
        return scaled_well(both.params["x"], both.aux)

    point = hp.classify(loss, both)
    assert point.size == 2
    assert "params.untrained['depth'] (untrained, not trained)" in point.variables
    before = derivatives.value_and_gradient._cache_size()
    deeper = hp.classify(loss, WithAux(both.params, aux | {"depth": 3.0}))
    assert derivatives.value_and_gradient._cache_size() == before
    np.testing.assert_allclose(deeper.lowest.eigenvalues, [-3.0], rtol=1e-5)


def test_the_monitor_varies_no_aux_input_whatever_is_asked():
    aux = {"depth": 2.0, "turn": np.ones(2, np.complex64), "count": 3}
    params = {"x": jnp.zeros(2, FLOAT), "fixed": 1.0}
    names = []
    monitor = Monitor(
        lambda p, aux: scaled_well(p["x"], aux), trainable=lambda path, _: names.append(path) or True
    )
    events = [monitor.update(step, params, 0.0, aux=aux) for step in range(200)]
    points = [event.point for event in events if event.point is not None]
    assert points
    assert points[0].size == 3
    assert set(names) == {"params['x']", "params['fixed']"}


def test_the_monitor_moves_the_parameters_alone():
    aux = {"depth": jnp.asarray(2.0, FLOAT), "count": jnp.arange(2)}
    monitor = Monitor(scaled_well)
    params = jnp.asarray([0.0, 0.5], FLOAT)
    step = jax.jit(jax.value_and_grad(scaled_well))
    kinds = []
    for number in range(400):
        value, gradient = step(params, aux)
        event = monitor.update(number, params, value, aux=aux)
        kinds.append(event.kind)
        moved = event.kind == "escaped"
        if moved:
            assert event.point.escape_direction.shape == (2,)
            assert event.escape.params.shape == (2,)
        params = event.params if moved else params - 0.05 * gradient
    assert kinds.count("escaped") == 1
    assert abs(float(params[0])) > 0.9
