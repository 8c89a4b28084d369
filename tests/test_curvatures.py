"""Gauss–Newton and Fisher matrices and users' own maps against their dense counterparts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import hessian_probe as hp

FLOAT = np.asarray(jnp.zeros(())).dtype
X64 = FLOAT.itemsize == 8
RNG = np.random.default_rng(3)
CLOSE = 1e-10 if X64 else 1e-4


def draw(*shape):
    return jnp.asarray(RNG.standard_normal(shape) / np.sqrt(shape[0]), FLOAT)


def dense_net(p, x):
    return jnp.tanh(x @ p["w"] + p["frozen"][None, :]) @ p["v"]


def convolution(p, x):
    window = jax.lax.conv_general_dilated(x[:, None, :], p["w"], (1,), "SAME")
    return jnp.mean(jnp.tanh(window * p["frozen"][None, :, None]), axis=2) @ p["v"]


def recurrent(p, x):
    def step(state, entry):
        return jnp.tanh(state @ p["w"] + entry[:, None] * p["frozen"][None, :]), None

    start = jnp.zeros((x.shape[0], 3), x.dtype)
    return jax.lax.scan(step, start, x.T)[0] @ p["v"]


def attention(p, x):
    tokens = x[:, :, None] * p["frozen"][None, None, :]
    scores = jnp.einsum("btd,de,bse->bts", tokens, p["w"], tokens)
    return jnp.mean(jnp.einsum("bts,bsd->btd", jax.nn.softmax(scores), tokens), axis=1) @ p["v"]


# The model and the shape of params["w"]; inputs have 4 entries, frozen weights 3, outputs 2.
MODELS = {
    "dense": (dense_net, (4, 3)),
    "convolutional": (convolution, (3, 1, 2)),
    "recurrent": (recurrent, (3, 3)),
    "attention": (attention, (3, 3)),
}


def cross_entropy(z, batch):
    return -jnp.mean(jnp.sum(jax.nn.one_hot(batch["y"], 2, dtype=z.dtype) * jax.nn.log_softmax(z), axis=1))


def squares(z, batch):
    return jnp.mean(jnp.sum((z - batch["y"][:, None].astype(z.dtype)) ** 2, axis=1))


def curvature_of_outputs(loss, z):
    """The Hessian of one sample's loss with respect to its outputs, by hand."""
    if loss is squares:
        return 2.0 * np.eye(len(z))
    share = np.exp(z - np.max(z))
    share /= np.sum(share)
    return np.diag(share) - np.outer(share, share)


def case(name):
    """Model of a batch, params with frozen, integer and None leaves, and ragged batches."""
    model, shape = MODELS[name]
    params = {"w": draw(*shape), "v": draw(3, 2), "frozen": draw(3), "count": jnp.arange(2), "none": None}
    x, y = RNG.standard_normal((9, 4)).astype(FLOAT), RNG.integers(0, 2, 9)
    batches = [{"x": x[part], "y": y[part]} for part in (slice(0, 4), slice(4, 8), slice(8, 9))]
    return (lambda p, batch: model(p, batch["x"])), params, batches


def varied(path, leaf):
    return path in ("params['w']", "params['v']")


def gauss_newton_by_hand(outputs, loss, params, batches, weights):
    """Jᵀ H_L J in float64, one sample after the other, for the leaves v and w."""
    flat, unravel = ravel_pytree({"v": params["v"], "w": params["w"]})
    whole = {"x": np.concatenate([batch["x"] for batch in batches])}

    def of(v):
        return outputs({**params, **unravel(v)}, whole)

    jacobians, values = (np.asarray(f(flat), np.float64) for f in (jax.jit(jax.jacrev(of)), jax.jit(of)))
    counts = [len(batch["x"]) for batch in batches]
    shares = np.repeat(np.asarray(weights) / np.sum(weights) / counts, counts)
    terms = zip(shares, jacobians, values, strict=True)
    return sum(share * j.T @ curvature_of_outputs(loss, z) @ j for share, j, z in terms)


def off(op, expected):
    """Largest deviation of the operator's matrix, in units of the largest entry."""
    return np.max(np.abs(op.dense() - expected)) / np.max(np.abs(expected))


@pytest.mark.parametrize("loss", [cross_entropy, squares])
@pytest.mark.parametrize("name", MODELS)
def test_gauss_newton_is_that_of_the_dense_matrices(name, loss):
    outputs, params, batches = case(name)
    weights = (4.0, 1.5, 3.0)
    op = hp.gauss_newton(outputs, loss, params, hp.Batches(batches, weights), trainable=varied)
    expected = gauss_newton_by_hand(outputs, loss, params, batches, weights)
    assert op.size == params["w"].size + 6
    assert off(op, expected) <= CLOSE
    assert np.min(np.linalg.eigvalsh(op.dense())) >= -CLOSE * np.max(np.abs(expected))


def test_ragged_batches_weigh_as_many_samples_as_they_hold_and_recomputing_changes_nothing():
    outputs, params, batches = case("dense")
    expected = gauss_newton_by_hand(outputs, squares, params, batches, (4, 4, 1))
    op = hp.gauss_newton(outputs, squares, params, batches, trainable=varied, max_residual_bytes=0)
    assert "recomputed" in op.route
    assert off(op, expected) <= CLOSE
    whole = hp.hessian(lambda p, b: squares(outputs(p, b), b), params, batches, trainable=varied)
    assert op.value == pytest.approx(whole.value, rel=1e-6)
    for one, other in zip(op.gradient_vector, whole.gradient_vector, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_gauss_newton_equals_the_hessian_of_a_linear_model():
    x, y = RNG.standard_normal((8, 4)).astype(FLOAT), RNG.integers(0, 2, 8)

    def outputs(w, batch):
        return batch["x"] @ w

    data = {"x": x, "y": y}
    op = hp.gauss_newton(outputs, cross_entropy, draw(4, 2), data)
    whole = hp.hessian(lambda w, batch: cross_entropy(outputs(w, batch), batch), draw(4, 2), data)
    assert off(op.__class__(op.objective, whole.x), whole.dense()) <= CLOSE


def test_outputs_may_be_a_pytree_with_integers_and_the_loss_may_need_no_batch():
    def outputs(p):
        return {"z": p**2, "label": jnp.asarray(1), "none": None}

    op = hp.gauss_newton(outputs, lambda z: jnp.sum(z["z"] ** 2) * z["label"], jnp.asarray([1.0, 2.0], FLOAT))
    np.testing.assert_allclose(op.dense(), np.diag([8.0, 32.0]), rtol=1e-5)  # (2x)·2·(2x)


@jax.custom_vjp
def squared(x):
    return x**2


squared.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))


@jax.custom_vjp
def squared_on_host(x):
    return x**2


squared_on_host.defvjp(
    lambda x: (x**2, x),
    lambda x, g: (jax.pure_callback(lambda a, b: 2 * a * b, jax.ShapeDtypeStruct(x.shape, x.dtype), x, g),),
)


@pytest.mark.parametrize(
    ("function", "route", "close"),
    [(squared, "forward over reverse", CLOSE), (squared_on_host, "differences", 1e-6 if X64 else 5e-3)],
)
def test_custom_derivatives_without_forward_mode_have_another_route(function, route, close):
    """Of Jᵀ H_L J, J is transposed reverse mode, or differences where not even that exists."""
    op = hp.gauss_newton(function, lambda z: jnp.sum(z**2), jnp.asarray([1.0, 2.0], FLOAT))
    assert route in op.route
    assert off(op, np.diag([8.0, 32.0])) <= close


def test_eigenvalues_of_gauss_newton_and_what_tells_it_from_the_hessian(tmp_path):
    outputs, params, batches = case("dense")
    op = hp.gauss_newton(outputs, squares, params, batches, trainable=varied)
    exact = np.linalg.eigvalsh(gauss_newton_by_hand(outputs, squares, params, batches, (4, 4, 1)))
    found = hp.eigsh(op, standard_errors=True)
    np.testing.assert_allclose(found.eigenvalues, exact[[0, -1]], atol=2e-3 * exact[-1])
    assert found.standard_errors.shape == (2,)
    assert repr(op).startswith("GaussNewtonOperator(")
    other = hp.hessian(op.objective.loss.function, params, batches, trainable=varied)
    big = jnp.zeros(40, FLOAT)
    jobs = [
        hp.gauss_newton(jnp.sin, lambda z: jnp.sum(z**2), big),
        hp.hessian(lambda p: jnp.sum(jnp.sin(p) ** 2), big),
    ]
    hp.eigsh(jobs[0], save_to=tmp_path / "job")
    with pytest.raises(hp.CheckpointError, match="another loss"):
        hp.eigsh(jobs[1], save_to=tmp_path / "job")
    assert other.objective.loss.fingerprint != op.objective.loss.fingerprint


@pytest.mark.parametrize(
    ("outputs", "loss", "error", "match"),
    [
        (3, jnp.sum, TypeError, "outputs must be a function; got int"),
        (jnp.sin, "sum", TypeError, "loss_of_outputs must be a function; got str"),
        (jnp.sin, jnp.sin, ValueError, r"expected a scalar"),
        (jnp.signbit, lambda z: jnp.sum(z.astype(FLOAT)), TypeError, r"at least one floating-point array"),
    ],
)
def test_what_is_wrong_with_the_two_functions_is_said(outputs, loss, error, match):
    with pytest.raises(error, match=match):
        hp.gauss_newton(outputs, loss, jnp.ones(3, FLOAT))


def test_curvature_of_many_outputs_takes_a_few_times_their_memory():
    """A vocabulary of 50,000: no matrix of outputs by outputs, 3.5 arrays of logits are stored."""
    from hessian_probe.operators import memory

    vocabulary, samples = 50_000, 4
    params = {"e": jnp.zeros((2, vocabulary), FLOAT)}
    data = {"x": np.ones((samples, 2), FLOAT), "y": np.zeros(samples, np.int32)}

    def loss(z, batch):
        picked = jnp.take_along_axis(jax.nn.log_softmax(z), batch["y"][:, None], axis=1)
        return -jnp.mean(picked)

    op = hp.gauss_newton(lambda p, batch: batch["x"] @ p["e"], loss, params, data)
    batch = next(iter(op.objective.data))
    logits = samples * vocabulary * FLOAT.itemsize
    assert memory.tree_bytes(op.objective.abstract_linearized(batch, op.x)[2]) <= 5 * logits


# Fisher matrices -----------------------------------------------------------------------------


def flipped(key, z, batch):
    """Labels that are drawn with certainty."""
    return {**batch, "y": 1 - batch["y"]}


def from_the_model(loss):
    def draw(key, z, batch):
        if loss is cross_entropy:
            return {**batch, "y": jax.random.categorical(key, z)}
        return {**batch, "y": z + jax.random.normal(key, z.shape, z.dtype) / np.sqrt(2.0).astype(z.dtype)}

    return draw


def squares_of_all(z, batch):
    """Squares, of labels for each output where they are drawn."""
    y = batch["y"]
    return jnp.mean(jnp.sum((z - (y if y.ndim == 2 else y[:, None]).astype(z.dtype)) ** 2, axis=1))


def second_moment_by_hand(outputs, loss, params, batches, weights, labels):
    """Σ w ggᵀ in float64, g one sample's gradient after the other, for the leaves v and w."""
    flat, unravel = ravel_pytree({"v": params["v"], "w": params["w"]})
    whole = {"x": np.concatenate([batch["x"] for batch in batches])}

    def each(v):
        z = outputs({**params, **unravel(v)}, whole)
        return jax.vmap(lambda row, y: loss(row[None], {"y": y[None]}))(z, jnp.asarray(labels))

    rows = np.asarray(jax.jit(jax.jacrev(each))(flat), np.float64)
    counts = [len(batch["x"]) for batch in batches]
    shares = np.repeat(np.asarray(weights) / np.sum(weights) / counts, counts)
    return np.einsum("s,si,sj->ij", shares, rows, rows)


@pytest.mark.parametrize(
    ("name", "drawn", "limit"),
    [(name, drawn, None) for name in MODELS for drawn in (False, True)] + [("dense", True, 0)],
)
def test_fisher_matrices_are_second_moments_of_the_gradients_of_samples(name, drawn, limit):
    outputs, params, batches = case(name)
    weights, y = (4.0, 1.5, 3.0), np.concatenate([batch["y"] for batch in batches])
    given = (outputs, cross_entropy, params, hp.Batches(batches, weights))
    options = {"trainable": varied, "max_residual_bytes": limit}
    if drawn:
        op = hp.fisher(*given, draw=flipped, num_draws=3, **options)
    else:
        op = hp.empirical_fisher(*given, **options)
    labels = 1 - y if drawn else y
    expected = second_moment_by_hand(outputs, cross_entropy, params, batches, weights, labels)
    assert off(op, expected) <= CLOSE
    assert np.min(np.linalg.eigvalsh(op.dense())) >= -CLOSE * np.max(np.abs(expected))


@pytest.mark.parametrize("loss", [cross_entropy, squares_of_all])
def test_the_fisher_matrix_is_gauss_newton_in_expectation(loss):
    """By 2,000 draws to a few per cent, and ten times closer than by 20: the bias is zero."""
    outputs, params, batches = case("dense")
    curvature = hp.gauss_newton(outputs, loss, params, batches, trainable=varied).dense()
    options = {"draw": from_the_model(loss), "trainable": varied}
    many = hp.fisher(outputs, loss, params, batches, num_draws=2000, **options)
    deviation = np.linalg.norm(many.dense() - curvature) / np.linalg.norm(curvature)
    few = hp.fisher(outputs, loss, params, batches, num_draws=20, **options)
    rough = np.linalg.norm(few.dense() - curvature) / np.linalg.norm(curvature)
    assert deviation <= 0.05
    assert 2 * deviation <= rough <= 50 * deviation  # about a tenth: in proportion to 1/√draws
    assert np.min(np.linalg.eigvalsh(few.dense())) >= -CLOSE * np.max(np.abs(curvature))


def test_draws_stay_for_all_products_and_differ_by_key():
    outputs, params, (batch, *_) = case("dense")
    options = {"draw": from_the_model(cross_entropy), "trainable": varied}
    one = hp.fisher(outputs, cross_entropy, params, batch, **options)
    assert not one.check().cause
    again = hp.fisher(outputs, cross_entropy, params, batch, max_residual_bytes=0, **options)
    assert off(again, one.dense()) <= CLOSE
    other = hp.fisher(outputs, cross_entropy, params, batch, key=jax.random.key(1), **options)
    assert off(other, one.dense()) > 0.01


def sine(p, batch):
    return batch * jnp.sin(p)[None]


def square(z, batch):
    return jnp.mean((z - batch) ** 2)


def test_draws_differ_by_batch():
    """The model reads nothing of the batch: only what is drawn can differ."""

    def curvature(value):
        def outputs(p, batch):
            return p[None] * jnp.ones_like(batch)

        def draw(key, z, batch):
            return z + jax.random.normal(key, z.shape, z.dtype)

        batch, at = jnp.full((2, 1), value, FLOAT), jnp.ones(1, FLOAT)
        return float(hp.fisher(outputs, square, at, batch, draw=draw, check=False)(at)[0])

    assert curvature(1.0) == curvature(1.0) != curvature(2.0)


def test_a_saved_search_is_not_that_of_other_draws(tmp_path):
    big, data = jnp.linspace(-1, 1, 40, dtype=FLOAT), jnp.ones((3, 1), FLOAT)
    jobs = [hp.fisher(sine, square, big, data, draw=lambda k, z, b, t=t: z + t) for t in (1, 2)]
    hp.eigsh(jobs[0], save_to=tmp_path / "job")
    with pytest.raises(hp.CheckpointError, match="another loss"):
        hp.eigsh(jobs[1], save_to=tmp_path / "job")


def test_tokens_of_sequences_are_samples_of_their_own():
    """Of 2 sequences of 3 tokens: by hand over the 6 tokens, and a mean over both axes."""
    rng = np.random.default_rng(8)
    x = jnp.asarray(rng.standard_normal((2, 3, 4)), FLOAT)
    y, weights = jnp.asarray(rng.integers(0, 2, (2, 3))), jnp.asarray(rng.standard_normal((4, 2)), FLOAT)

    def loss(z, batch):
        picked = jnp.take_along_axis(jax.nn.log_softmax(z), batch["y"][..., None], axis=-1)
        return -jnp.mean(picked)

    def outputs(w, batch):
        return jnp.tanh(batch["x"] @ w)

    op = hp.empirical_fisher(outputs, loss, weights, {"x": x, "y": y}, sample_axes=2)
    flat = {"x": x.reshape(6, 4), "y": y.reshape(6)}
    assert off(op, hp.empirical_fisher(outputs, loss, weights, flat).dense()) <= CLOSE


def test_fisher_matrices_of_custom_derivatives_and_misuse():
    x = jnp.asarray([1.0, 2.0], FLOAT)
    for function, close in ((squared, CLOSE), (squared_on_host, 1e-6 if X64 else 5e-3)):
        op = hp.empirical_fisher(function, lambda z: jnp.mean(z**2), x)
        assert off(op, np.diag([8.0, 512.0])) <= close  # (2z · 2x)² / 2 of z = x²
    with pytest.raises(TypeError, match="draw must be a function; got NoneType"):
        hp.fisher(jnp.sin, jnp.sum, x, x, draw=None)
    with pytest.raises(TypeError, match="data is None; expected batches"):
        hp.fisher(jnp.sin, jnp.sum, x, None, draw=flipped)
    with pytest.raises(ValueError, match="num_draws=0; expected at least 1"):
        hp.fisher(jnp.sin, jnp.sum, x, x, draw=flipped, num_draws=0)
    with pytest.raises(ValueError, match="sample_axes=0; expected at least 1"):
        hp.empirical_fisher(jnp.sin, jnp.sum, x, sample_axes=0)
    with pytest.raises(ValueError, match=r"outputs have shapes \[\(\), \(2,\)\]; expected the samples"):
        hp.empirical_fisher(lambda p: (jnp.sum(p), p), lambda z: jnp.sum(z[1]) + z[0], x)


# A user's own map ----------------------------------------------------------------------------


def symmetric(n, seed=0):
    root = np.random.default_rng(seed).standard_normal((n, n))
    return root + root.T


def map_of(matrix):
    """The same map on two leaves beside an integer and a None."""
    half = len(matrix) // 2
    wide = jnp.asarray(matrix, FLOAT)

    def matvec(v):
        found = wide @ jnp.concatenate([v["a"], v["b"]])
        return {**v, "a": found[:half], "b": found[half:]}

    like = {"a": jnp.ones(half, FLOAT), "b": jnp.ones(len(matrix) - half, FLOAT), "i": 3, "none": None}
    return hp.linear_map(matvec, like)


def test_a_users_map_is_multiplied_counted_and_found_at_both_ends(tmp_path):
    matrix = symmetric(50)
    op = map_of(matrix)
    np.testing.assert_allclose(op.dense(), matrix, atol=1e-5)
    assert op.num_hvps == 50
    exact = np.linalg.eigvalsh(matrix)
    found = hp.eigsh(op, lowest=2, highest=1, rtol=1e-5, save_to=tmp_path / "job")
    np.testing.assert_allclose(found.eigenvalues, exact[[0, 1, -1]], atol=1e-4 * exact[-1])
    assert found.eigenvectors["i"].shape == (3,)
    np.testing.assert_allclose(op.to_scipy().matvec(np.ones(50)), matrix @ np.ones(50), atol=1e-4)
    with pytest.raises(hp.CheckpointError, match="another loss"):
        hp.eigsh(map_of(matrix + np.eye(50)), lowest=2, rtol=1e-5, save_to=tmp_path / "job")


@pytest.mark.parametrize(
    ("matvec", "match"),
    [
        (lambda v: jnp.roll(v, 1), "not symmetric"),
        (lambda v: v + 1.0, "not linear.*offset"),
        (lambda v: v * RNG.random(), "differs by.*matvec is random"),
    ],
)
def test_a_map_that_is_none_is_refused_with_the_likely_cause(matvec, match):
    op = hp.linear_map(matvec, jnp.ones(5, FLOAT))
    with pytest.raises(hp.OperatorCheckError, match=match):
        hp.eigsh(op)


def test_misuse_of_a_users_map_is_named():
    with pytest.raises(TypeError, match="matvec must be a function of a pytree; got ndarray"):
        hp.linear_map(np.eye(3), jnp.ones(3, FLOAT))
    op = hp.linear_map(lambda v: {"a": v["a"][:2]}, {"a": jnp.ones(3, FLOAT)})
    with pytest.raises(
        ValueError, match=r"what matvec returned has shape \(2,\) where params\['a'\] has \(3,\)"
    ):
        op({"a": jnp.ones(3, FLOAT)})
    with pytest.raises(TypeError, match="op is a function; expected an operator"):
        hp.eigsh(lambda v: v)
    with pytest.raises(ValueError, match="standard_errors=True needs a Hessian"):
        hp.eigsh(map_of(symmetric(6)), standard_errors=True)
