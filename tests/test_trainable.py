"""Which leaves are varied: what frameworks train by default, and what `trainable=` asks for.

Every model is the same ridge regression of three weights, times a number that nobody trains: where it is
varied, the gradient is not zero and the spectrum is another one.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hessian_probe as hp
from hessian_probe.arrays import split
from hessian_probe.operators import derivatives

pytestmark = pytest.mark.any_promotion
FLOAT = np.asarray(jnp.zeros(())).dtype
EPS = float(jnp.finfo(FLOAT).eps)
RNG = np.random.default_rng(7)
X = RNG.standard_normal((60, 3))
Y = X @ [1.0, -2.0, 0.5] + 0.3 * RNG.standard_normal(60)
DATA = X.astype(FLOAT), Y.astype(FLOAT)
SCALE = 2.0
HESSIAN = 2 * SCALE**2 * X.T @ X / 60 + 0.2 * np.eye(3)
BEST = np.linalg.solve(HESSIAN, 2 * SCALE * X.T @ Y / 60).astype(FLOAT)
EIGENVALUES = np.linalg.eigvalsh(HESSIAN)


def ridge(w, scale, data):
    return jnp.mean((scale * (data[0] @ w) - data[1]) ** 2) + 0.1 * jnp.sum(w**2)


def held():
    return jnp.asarray(SCALE, FLOAT)


def number():
    """A plain dict with a Python number."""
    return {"w": BEST, "scale": SCALE}, lambda p, d: ridge(p["w"], p["scale"], d), ("params['w']",)


def equinox():
    eqx = pytest.importorskip("equinox")

    class Ridge(eqx.Module):
        w: jax.Array
        scale: float
        activation: types.FunctionType = jnp.tanh

    return Ridge(jnp.asarray(BEST), SCALE), lambda m, d: ridge(m.w, m.scale, d), ("params.w",)


def nnx(module):
    flax_nnx = pytest.importorskip("flax.nnx")

    class Ridge(flax_nnx.Module):
        def __init__(self):
            self.w = flax_nnx.Param(jnp.asarray(BEST))
            self.scale = flax_nnx.BatchStat(held())
            self.rngs = flax_nnx.Rngs(0)

    net = Ridge()

    def loss(state, d):
        leaf = dict if not module else vars
        parts = leaf(state)
        return ridge(jax.tree.leaves(parts["w"])[0], jax.tree.leaves(parts["scale"])[0], d)

    params = net if module else flax_nnx.state(net)
    if module and jax.tree_util.all_leaves([net]):
        pytest.skip("modules of this release are no pytrees")
    return params, loss, (".w.value" if module else "['w'].value",)


def linen():
    params = {"params": {"dense": {"kernel": BEST}}, "batch_stats": {"norm": {"scale": held()}}}
    flax = pytest.importorskip("flax")
    return (
        flax.core.freeze(params),
        lambda p, d: ridge(p["params"]["dense"]["kernel"], p["batch_stats"]["norm"]["scale"], d),
        ("params['params']['dense']['kernel']",),
    )


def haiku():
    hk = pytest.importorskip("haiku")

    def forward(x):
        average = hk.BatchNorm(False, False, 0.9)(x, is_training=True)
        return hk.Linear(1, with_bias=False)(x)[:, 0] + 0 * jnp.sum(average)

    _, state = hk.transform_with_state(forward).init(jax.random.key(0), DATA[0])
    average = state["batch_norm/~/mean_ema"]
    assert set(average) == {"average", "counter", "hidden"}
    state = jax.tree.map(lambda leaf: jnp.full_like(leaf, SCALE), state)
    name = "params[0]['linear']['w']"

    def loss(both, d):
        scale = both[1]["batch_norm/~/mean_ema"]["average"]
        return ridge(both[0]["linear"]["w"][:, 0], scale.astype(FLOAT).ravel()[0], d)

    return ({"linear": {"w": jnp.asarray(BEST)[:, None]}}, state), loss, (name,)


def keras():
    module = pytest.importorskip("keras")
    if module.backend.backend() != "jax":
        pytest.skip("Keras was imported with another backend")
    kernel = module.Variable(BEST, dtype=FLOAT.name)
    scale = module.Variable(held(), dtype=FLOAT.name, trainable=False)

    return [kernel, scale], lambda p, d: ridge(p[0] + 0, p[1] + 0, d), ("params[0]",)


MODELS = {
    "number": number,
    "equinox": equinox,
    "nnx state": lambda: nnx(False),
    "nnx module": lambda: nnx(True),
    "linen": linen,
    "haiku": haiku,
    "keras": keras,
}


def mask_of(params, names):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(("params" + jax.tree_util.keystr(path)).endswith(name) for name in names), params
    )


FILTERS = {
    "by default": lambda params, names: None,
    "a leaf": lambda params, names: lambda leaf: np.shape(leaf)[:1] == (3,),
    "a path": lambda params, names: lambda path, leaf: path.endswith(tuple(names)),
    "a mask": mask_of,
    "true above": lambda params, names: True,
}


@pytest.fixture(autouse=True)
def _keras_on_jax(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("name", MODELS)
def test_what_nobody_trains_is_not_varied(name, kind):
    params, loss, names = MODELS[name]()
    asked = FILTERS[kind](params, names)
    point = hp.classify(loss, params, DATA, trainable=asked)
    assert (point.label, point.size) == ("minimum", 3)
    np.testing.assert_allclose(point.lowest.eigenvalues, EIGENVALUES[:1], rtol=1e3 * EPS)
    np.testing.assert_allclose(point.highest.eigenvalues, EIGENVALUES[-1:], rtol=1e3 * EPS)
    varied, left = point.variables.split("; left out: ")
    assert varied.startswith("3 variables: params")
    assert names[0] in varied
    assert "scale" in left or name in ("haiku", "keras")
    assert point.variables in repr(point)


def test_the_number_is_varied_where_it_is_asked_for():
    params, loss, _ = number()
    for asked in (lambda leaf: True, {"w": True, "scale": True}, lambda path, leaf: "count" not in path):
        point = hp.classify(loss, params, DATA, trainable=asked)
        assert (point.label, point.size) == ("not_critical", 4)
        assert "left out" not in point.variables


def verbs(params, optimizer):
    states = {"optimizer": optimizer, "opt_state": optimizer.init(params)}
    return {
        "classify": hp.classify,
        "escape": hp.escape,
        "plan": lambda *args, **kwargs: hp.plan(*args, measure=False, **kwargs),
        "sharpness": hp.sharpness,
        "stability": lambda *args, **kwargs: hp.stability(*args, **states, **kwargs),
        "hessian": hp.hessian,
        "eigsh": lambda *args, **kwargs: hp.eigsh(hp.hessian(*args, **kwargs)),
        "diagnose": lambda *args, **kwargs: hp.diagnose(*args, **states, **kwargs),
    }


@pytest.mark.one_precision
@pytest.mark.parametrize("verb", verbs({}, optax.sgd(0.01)))
def test_every_verb_takes_it_and_names_the_variables(verb):
    params = {"w": jnp.asarray(BEST), "v": jnp.ones(2, FLOAT), "scale": SCALE}

    def loss(p, d):
        return ridge(p["w"], p["scale"], d) + jnp.sum(p["v"] ** 2)

    call = verbs(params, optax.sgd(0.01))[verb]
    usual = "5 variables: params['v'] (2), params['w'] (3); left out: params['scale'] (a Python number)"
    assert usual in repr(call(loss, params, DATA))
    fewer = "3 variables: params['w'] (3); left out: "
    text = repr(call(loss, params, DATA, trainable=lambda path, _: path == "params['w']"))
    assert fewer in text
    assert "params['v'] (not in trainable=)" in text
    with pytest.raises(ValueError, match=r"trainable is a mask that does not fit params"):
        call(loss, params, DATA, trainable={"w": True})


def test_parameters_that_are_all_python_numbers_are_refused():
    loss = lambda p: (p["a"] - 1) ** 2 + p["b"] ** 2  # noqa: E731
    both = r"params\['a'\] \(a Python number\), params\['b'\] \(a Python number\).*asarray.*trainable="
    for job in (hp.hessian, hp.classify, hp.escape, hp.plan, hp.sharpness, hp.diagnose):
        with pytest.raises(ValueError, match=both):
            job(loss, {"a": 1.0, "b": 2.0})
    assert hp.classify(loss, {"a": 1.0, "b": 0.0}, trainable=lambda leaf: True).label == "minimum"
    assert hp.classify(loss, {"a": jnp.ones(()), "b": 0.0}).size == 1


@pytest.mark.parametrize(
    ("leaf", "what"),
    [
        (3, "a Python int"),
        (True, "a Python bool"),
        (np.arange(2), "int64"),
        (np.ones(2, np.complex64), "complex64"),
        (1j, "a Python complex"),
    ],
)
def test_only_floating_leaves_can_be_asked_for(leaf, what):
    params = {"w": BEST, "n": leaf}
    for asked in (lambda leaf: True, {"w": True, "n": True}):
        with pytest.raises(TypeError, match=rf"params\['n'\] \({what}\).*floating-point"):
            split(params, trainable=asked)
    assert split(params, trainable={"w": True, "n": False})[0].names == ("params['w']",)


@pytest.mark.parametrize("asked", [3, "w", {"w": 1}, lambda: True, lambda a, b, c: True])
def test_what_says_nothing_of_leaves_is_refused(asked):
    with pytest.raises(TypeError, match=r"trainable is .*\(leaf\).*\(path, leaf\).*booleans"):
        split({"w": BEST}, trainable=asked)


def random_tree(rng, depth=3):
    """Dicts and tuples of float arrays, Python numbers, integers and functions."""
    if depth and rng.random() < 0.7:
        parts = [random_tree(rng, depth - 1) for _ in range(rng.integers(1, 4))]
        return tuple(parts) if rng.random() < 0.5 else {f"k{i}": part for i, part in enumerate(parts)}
    leaves = (
        np.ones(int(rng.integers(1, 5)), FLOAT),
        1.5,
        int(rng.integers(5)),
        np.arange(3),
        jnp.tanh,
        None,
    )
    return leaves[rng.choice(6, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])]


@pytest.mark.parametrize("seed", range(12))
def test_a_mask_of_any_tree_chooses_its_leaves_and_the_rest_stays_the_very_objects(seed):
    rng = np.random.default_rng(seed)
    tree = {"first": np.ones(1, FLOAT), "rest": {"a": random_tree(rng), "b": random_tree(rng)}}
    floats = lambda leaf: isinstance(leaf, float) or str(getattr(leaf, "dtype", "")) == FLOAT.name  # noqa: E731
    mask = jax.tree.map(lambda leaf: bool(floats(leaf) and rng.random() < 0.6), tree)
    layout, variables, others = split(tree, trainable=mask)
    pairs = list(zip(jax.tree.leaves(mask), jax.tree.leaves(tree), strict=True))
    assert layout.size == sum(np.size(leaf) for flag, leaf in pairs if flag)
    assert jax.tree.leaves(layout.mask) == [flag for flag, _ in pairs]
    assert len(layout.left_out) == sum(not flag for flag, _ in pairs)
    back = jax.tree.leaves(hp.arrays.merge(layout, variables, others))
    for (flag, leaf), again in zip(pairs, back, strict=True):
        assert flag or again is leaf
    prefix = split(tree, trainable={"first": False, "rest": True})[0]
    usual = split(tree)[0]
    assert prefix.names == tuple(name for name in usual.names if "rest" in name)


def wells(p):
    """A saddle at x = 0: the loss falls along the first entry; s and t would fall further."""
    x = p["x"] * p["t"]
    return jnp.sum(0.25 * x**4 - 0.5 * x**2) + 0.1 * p["s"] * jnp.sum(x**2) + 0 * p["shift"][0]


@pytest.mark.parametrize("shift", [np.ones(2, FLOAT), jnp.ones(2, FLOAT)])
def test_an_escape_returns_what_is_not_varied_as_it_was(shift):
    params = {"x": jnp.zeros(2, FLOAT), "s": -1.0, "t": 1, "shift": shift, "note": "kept"}
    loss = lambda p: wells(p) + (p["shift"][1] - 3) ** 2  # noqa: E731
    move = hp.escape(loss, params, trainable=lambda path, _: "x" in path.removeprefix("params"))
    assert move.status == "escaped"
    assert float(jnp.max(jnp.abs(move.params["x"]))) > 0.5
    for name in ("s", "t", "shift", "note"):
        assert move.params[name] is params[name], name
    direction = move.point.escape_direction
    assert direction["s"] == 0
    assert not np.any(direction["shift"])


KERNELS = (
    derivatives.value,
    derivatives.value_and_gradient,
    derivatives.linearized,
    derivatives.line_forward,
    derivatives.values_and_gradients,
)


@pytest.mark.parametrize("layers", [2, 2.0])
def test_a_new_value_of_a_python_number_compiles_nothing(layers):
    """Not even where the loss needs an integer beside it as a number."""

    def loss(p):
        x = p["x"]
        for _ in range(p["layers"]) if isinstance(layers, int) else ():
            x = x * 1.5
        return p["scale"] * jnp.sum(x**2) - jnp.sum(p["x"] ** 4)

    point = hp.classify(loss, {"x": jnp.zeros(2, FLOAT), "scale": 1.0, "layers": layers})
    before = [kernel._cache_size() for kernel in KERNELS]
    other = hp.classify(loss, {"x": jnp.zeros(2, FLOAT), "scale": 3.0, "layers": layers})
    assert [kernel._cache_size() for kernel in KERNELS] == before
    np.testing.assert_allclose(other.lowest.eigenvalues, 3 * point.lowest.eigenvalues, rtol=100 * EPS)


def test_a_number_inside_a_scan_compiles_nothing_either():
    def loss(p):
        def turn(x, row):
            return x * (1 - p["rate"]) + row**2, jnp.sum(x)

        end, _ = jax.lax.scan(turn, p["x"], jnp.stack([p["x"]] * 3))
        return jnp.sum(jax.jit(lambda x, by: jnp.tanh(x) * by)(end, p["rate"]))

    losses, sizes = [], []
    for rate in (0.25, 0.75):
        params = {"x": jnp.ones(2, FLOAT), "rate": rate}
        losses.append(hp.classify(loss, params).loss - float(loss(params)))
        sizes.append([kernel._cache_size() for kernel in KERNELS])
    np.testing.assert_allclose(losses, 0, atol=10 * EPS)
    assert sizes[0] == sizes[1]


def test_a_number_that_decides_in_python_is_kept_as_one():
    def loss(p):
        return jnp.sum(p["x"] ** 2) if p["rate"] > 0.5 else -jnp.sum(p["x"] ** 2)

    labels = [hp.classify(loss, {"x": jnp.zeros(2, FLOAT), "rate": rate}).label for rate in (0.1, 0.9)]
    assert labels == ["maximum", "minimum"]


@pytest.mark.slow
def test_the_monitor_moves_what_is_varied():
    params = {"x": jnp.zeros(2, FLOAT), "s": -1.0, "t": 1, "shift": np.ones(2, FLOAT)}
    for asked in (None, {"x": True, "s": False, "t": False, "shift": False}):
        for aux in (None, {"mean": jnp.ones(2, FLOAT), "rate": 0.5}):
            loss = wells if aux is None else lambda p, aux: wells(p) + aux["rate"]
            monitor = hp.training.Monitor(loss, trainable=asked, window=32)
            events = [monitor.update(step, params, 0.0, aux=aux) for step in range(6 * 32)]
            moved = [event for event in events if event.kind == "escaped"]
            assert moved
            named = "params['shift']" not in moved[0].point.variables.split("; left out")[0]
            assert named == (asked is not None)
            assert moved[0].params["s"] is params["s"]
            assert asked is None or moved[0].params["shift"] is params["shift"]


@pytest.mark.parametrize("asked", [None, {"x": True, "shift": False, "t": False}])
def test_the_hook_displaces_what_is_varied(asked):
    """The gradient of `shift` is set to zero; a search moves it with all else unless it is left out."""
    loss = lambda p: wells(p | {"s": -1.0}) + 0.01 * jnp.sum(p["shift"] ** 2)  # noqa: E731
    optimizer = hp.training.escape_saddles(optax.sgd(0.05), loss, trainable=asked, window=32)

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        gradient = gradient | {"shift": jnp.zeros(2, FLOAT), "t": jnp.zeros((), FLOAT)}
        updates, state = optimizer.update(gradient, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    params = {"x": jnp.zeros(2, FLOAT), "shift": jnp.ones(2, FLOAT), "t": jnp.ones((), FLOAT)}
    (end, state), _ = jax.jit(lambda c: jax.lax.scan(step, c, None, length=300))(
        (params, optimizer.init(params))
    )
    assert int(state.num_escapes) >= 1
    assert float(jnp.max(jnp.abs(end["x"]))) > 0.5
    stays = [bool(jnp.all(end[name] == params[name])) for name in ("shift", "t")]
    assert stays == ([True, True] if asked else [False, False])


def test_a_python_number_in_the_hook_is_an_array_of_the_step():
    loss = lambda p: p["depth"] * wells({"x": p["x"], "s": -1.0, "t": 1, "shift": [0]})  # noqa: E731
    params = {"x": jnp.zeros(2, FLOAT), "depth": 2.0}
    optimizer = hp.training.escape_saddles(optax.sgd(0.05), loss, trainable={"x": True, "depth": False})
    state = optimizer.init(params)
    for _ in range(3):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params, value=value)
        params = optax.apply_updates(params, updates)
    assert int(state.num_steps) == 3


@pytest.mark.slow
def test_a_diagnosis_leaves_what_is_not_varied_where_it_is():
    """As if the number stood in the loss itself; freed, it would lower the loss."""
    params = {"w": jnp.asarray(BEST), "scale": SCALE}
    optimizer = optax.adam(1e-3)

    def run(loss, params):
        found = hp.diagnose(loss, params, DATA, optimizer=optimizer, opt_state=optimizer.init(params))
        return [(item.cause, item.reason) for item in found.findings], dict(found.measured)

    inside = run(lambda p, d: ridge(p["w"], p["scale"], d), params)
    alone = run(lambda p, d: ridge(p["w"], SCALE, d), {"w": params["w"]})
    assert inside[0] == alone[0]


@pytest.mark.slow
def test_a_loss_that_asks_which_leaves_are_arrays_keeps_its_value():
    """A weight decay over all arrays does not decay a number; a compiled loss and an exponent neither."""

    def decay(p, extra=jnp.sum):
        arrays = [leaf for leaf in jax.tree.leaves(p) if isinstance(leaf, jax.Array | np.ndarray)]
        return p["scale"] * jnp.sum(p["w"] ** 2) + sum(extra(jnp.abs(leaf)) for leaf in arrays)

    def power(p):
        return jnp.sum(jnp.cosh(p["w"]) ** p["scale"])

    nested = jax.tree_util.Partial(decay, extra=jax.jit(lambda leaf: jnp.sum(jnp.tanh(leaf))))
    for loss in (decay, nested, power):
        for scale in (2.0, 3.0):
            params = {"w": jnp.asarray([0.5, -1.0], FLOAT), "scale": scale, "count": 4}
            point = hp.classify(loss, params)
            np.testing.assert_allclose(point.loss, loss(params), rtol=10 * EPS)
            found = hp.diagnose(loss, params)
            np.testing.assert_allclose(found.loss, loss(params), rtol=10 * EPS)


NEEDING = {
    "a slice": lambda p: jnp.sum(p["w"][: p["n"]] ** 2),
    "a method": lambda p: jnp.sum(p["w"] ** 2) * p["n"].bit_length(),
    "a type": lambda p: jnp.sum(p["w"] ** 2) / isinstance(p["n"], int),
}


@pytest.mark.parametrize("name", NEEDING)
def test_a_number_that_the_loss_needs_as_a_number_stays_one(name):
    point = hp.classify(NEEDING[name], {"w": jnp.zeros(2), "n": 2})
    assert point.label == "minimum"
