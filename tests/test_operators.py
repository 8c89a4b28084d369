"""Hessian-vector products against Hessians written down by hand, and what may stand in their way."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg

import hessian_probe as hp
from hessian_probe.arrays import coefficients, combine, dot, flatten_rows, unflatten_rows
from hessian_probe.operators.per_batch import charge_share, rayleigh_quotients, select_batches
from hessian_probe.operators.preconditioned import PreconditionedOperator
from hessian_probe.programs.walker import nested_programs

FLOAT = np.asarray(jnp.zeros(())).dtype
EPS = float(np.finfo(FLOAT).eps)
RNG = np.random.default_rng(11)
X = RNG.standard_normal((40, 4)).astype(FLOAT)
Y = (RNG.random(40) < 0.5).astype(FLOAT)
W = np.array([0.4, -0.3, 0.2, 0.7], FLOAT)
V = np.array([1.0, -0.5, 2.0, 0.25], FLOAT)


def close(actual, expected, factor=200):
    expected = np.asarray(expected, np.float64)
    scale = max(float(np.max(np.abs(expected), initial=0)), 1e-30)
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, atol=factor * EPS * scale)


def rosenbrock(p):
    return jnp.sum(100.0 * (p[1:] - p[:-1] ** 2) ** 2 + (1.0 - p[:-1]) ** 2)


def rosenbrock_hessian(p):
    p = np.asarray(p, np.float64)
    n = len(p)
    h = np.zeros((n, n))
    for i in range(n - 1):
        h[i, i] += 1200 * p[i] ** 2 - 400 * p[i + 1] + 2
        h[i + 1, i + 1] += 200
        h[i, i + 1] = h[i + 1, i] = -400 * p[i]
    return h


def logistic(p, batch):
    x, y = batch
    z = x @ p
    return jnp.mean(jax.nn.softplus(z) - y * z) + 0.05 * jnp.sum(p**2)


def logistic_by_hand(p, x, y):
    """Value, gradient, Hessian in numpy."""
    p, x, y = (np.asarray(a, np.float64) for a in (p, x, y))
    z = x @ p
    s = 1 / (1 + np.exp(-z))
    value = np.mean(np.log1p(np.exp(z)) - y * z) + 0.05 * p @ p
    gradient = x.T @ (s - y) / len(x) + 0.1 * p
    return value, gradient, x.T @ ((s * (1 - s))[:, None] * x) / len(x) + 0.1 * np.eye(len(p))


def test_quadratic_with_data_matrix():
    matrix = X.astype(np.float64)
    op = hp.hessian(lambda p, x: jnp.mean((x @ p) ** 2), W, X)
    close(op(V), 2 * matrix.T @ (matrix @ V) / 40)
    assert op.size == 4
    assert op.dtype == FLOAT


@pytest.mark.parametrize("point", [[1, 1, 1, 1], [-1.2, 1, 0.5, 3], [0, 0, 0, 0]])
def test_rosenbrock(point):
    op = hp.hessian(rosenbrock, np.asarray(point, FLOAT))
    close(op(V), rosenbrock_hessian(point) @ V)
    close(op.dense(), rosenbrock_hessian(point))


@pytest.mark.parametrize("stored", [None, 0])
def test_logistic_regression(stored):
    value, gradient, matrix = logistic_by_hand(W, X, Y)
    op = hp.hessian(logistic, W, (X, Y), max_residual_bytes=stored)
    close(op(V), matrix @ V)
    close(op.gradient, gradient)
    close(op.value, value)
    assert ("recomputed" in op.route) == (stored == 0)
    assert "forward over reverse" in op.route
    assert "exact" in op.accuracy


def test_products_follow_differences_of_a_gradient_written_by_hand():
    """Central differences in float64; their error is h² times the third derivative."""
    step = 1e-5
    ahead = logistic_by_hand(W + step * V.astype(np.float64), X, Y)[1]
    behind = logistic_by_hand(W - step * V.astype(np.float64), X, Y)[1]
    product = np.asarray(hp.hessian(logistic, W, (X, Y))(V), np.float64)
    np.testing.assert_allclose(product, (ahead - behind) / (2 * step), atol=1e-8 + 200 * EPS)


def test_the_recomputing_route_equals_the_stored_one_over_batches():
    data = [(X[:16], Y[:16]), (X[16:32], Y[16:32]), (X[32:], Y[32:])]
    stored = hp.hessian(logistic, W, data)
    again = hp.hessian(logistic, W, data, max_residual_bytes=0)
    close(again(V), stored(V))
    close(again.dense(), logistic_by_hand(W, X, Y)[2])
    assert stored.route != again.route


def mixed(p):
    """Reads some leaves of `odd`; its Hessian is written below."""
    a = jnp.sum(p["a"] ** 3) / 6
    cross = p["a"][0, 0] * p["b"]
    factor = 2.0 if p["double"] else 1.0
    noise = jnp.sum(jax.random.normal(p["key"], (2,), p["a"].dtype))  # constant: the key is no variable
    chosen = p["table"][p["index"]] ** 2
    return factor * (a + cross + chosen) + 0.0 * noise + 0.5 * p["activation"](p["b"]) * p["b"]


def odd():
    return {
        "a": np.array([[1.0, 2.0], [3.0, 4.0]], FLOAT),
        "b": np.array(0.5, FLOAT),
        "double": True,
        "empty": np.zeros((0, 3), FLOAT),
        "index": jnp.asarray(1),
        "key": jax.random.key(0),
        "name": "odd",
        "none": None,
        "activation": jnp.negative,
        "table": np.array([1.0, 2.0, 3.0], FLOAT),
        "unused": np.ones(2, FLOAT),
    }


def test_leaves_that_are_no_variables_are_passed_on():
    params = odd()
    op = hp.hessian(mixed, params)
    assert op.size == 4 + 1 + 0 + 3 + 2
    v = jax.tree.map(lambda leaf: leaf, params)
    product = op(v)
    assert jax.tree.structure(product) == jax.tree.structure(params)
    a, b = np.array([[1.0, 2.0], [3.0, 4.0]]), 0.5
    expected = 2.0 * a * a
    expected[0, 0] += 2.0 * b
    close(product["a"], expected)
    close(product["b"], 2.0 * a[0, 0] - b)
    close(product["table"], [0, 4 * 2.0, 0])
    close(product["unused"], [0, 0])
    assert product["empty"].shape == (0, 3)
    assert product["name"] == "odd"
    assert not np.any(product["index"])
    assert op.objective.ignored == ("params['unused']",)


@pytest.mark.any_promotion
def test_low_precision_parameters_are_multiplied_in_float32():
    params = {"a": jnp.asarray([0.5, 1.0], jnp.bfloat16), "b": jnp.asarray([1.0, 2.0], jnp.float16)}

    def loss(p):
        return jnp.sum(p["a"].astype(jnp.float32) ** 4) + jnp.sum(p["b"].astype(jnp.float32) ** 2)

    product = hp.hessian(loss, params)(jax.tree.map(jnp.ones_like, params))
    assert product["a"].dtype == product["b"].dtype == jnp.float32
    np.testing.assert_allclose(product["a"], [12 * 0.25, 12.0], rtol=1e-2)
    np.testing.assert_allclose(product["b"], [2.0, 2.0], rtol=1e-2)


@pytest.mark.parametrize(
    ("v", "message"),
    [
        ({"a": np.zeros(2, FLOAT), "b": 0.0}, r"params\['a'\].*\(3,\)"),
        ({"a": np.zeros(3, FLOAT)}, "structure"),
        (np.zeros(4, FLOAT), "structure"),
    ],
)
def test_a_vector_that_does_not_fit_is_refused_by_name(v, message):
    op = hp.hessian(lambda p: jnp.sum(p["a"] ** 2) + p["b"], {"a": np.ones(3, FLOAT), "b": 1.0})
    with pytest.raises(ValueError, match=message):
        op(v)


@jax.custom_vjp
def squares(p):
    return p**2


squares.defvjp(lambda p: (p**2, p), lambda p, g: (g * 2 * p,))


@jax.custom_vjp
def cubes(p):
    return jnp.sum(p**3)


cubes.defvjp(lambda p: (jnp.sum(p**3), p), lambda p, g: (g * 3 * squares(p),))


def host_gradient(p):
    return jax.pure_callback(
        lambda x: (3 * np.asarray(x) ** 2).astype(x.dtype), jax.ShapeDtypeStruct(p.shape, p.dtype), p
    )


@jax.custom_vjp
def host_cubes(p):
    return jnp.sum(p**3)


host_cubes.defvjp(lambda p: (jnp.sum(p**3), p), lambda p, g: (g * host_gradient(p),))


def test_a_custom_backward_pass_goes_reverse_over_reverse():
    """The gradient calls a function that has no forward derivative."""
    op = hp.hessian(cubes, W)
    close(op(V), 6 * W.astype(np.float64) * V)
    assert "reverse over reverse" in op.route
    assert "exact" in op.accuracy
    close(op.dense(), np.diag(6 * W.astype(np.float64)))


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_a_gradient_from_the_host_is_differenced_and_the_accuracy_said(size):
    point = (size * W).astype(FLOAT)
    op = hp.hessian(host_cubes, point)
    expected = 6 * point.astype(np.float64) * V
    error = np.linalg.norm(np.asarray(op(V), np.float64) - expected)
    assert error <= 50 * EPS ** (2 / 3) * np.linalg.norm(expected)
    assert "differences" in op.route
    assert "eps^(2/3)" in op.accuracy


def test_differences_suffice_for_a_label():
    point = hp.classify(lambda p: host_cubes(p) - 3 * jnp.sum(p), np.array([1, -1, 1], FLOAT))
    assert point.label == "saddle"
    np.testing.assert_allclose(point.lowest.eigenvalues, [-6.0], rtol=1e-2)


def test_scipy_sees_the_same_matrix():
    params = {"p": W, "q": np.array([[0.5, -1.0]], FLOAT)}

    def loss(p):
        return rosenbrock(p["p"]) + jnp.sum(p["q"] ** 4) + p["p"][0] * p["q"][0, 1]

    op = hp.hessian(loss, params)
    matrix = np.zeros((6, 6))
    matrix[:4, :4] = rosenbrock_hessian(W)
    matrix[4, 4], matrix[5, 5] = 12 * 0.25, 12.0
    matrix[0, 5] = matrix[5, 0] = 1
    linear = op.to_scipy()
    assert linear.shape == (6, 6)
    close(linear @ np.eye(6)[2], matrix[2])
    close(linear.rmatvec(np.eye(6)[5]), matrix[5])
    values = scipy.sparse.linalg.eigsh(linear, k=2, which="BE", return_eigenvectors=False)
    close(np.sort(values), np.linalg.eigvalsh(matrix)[[0, -1]], 1000)


def test_dense_over_many_blocks_and_its_refusal():
    values = np.linspace(-1, 3, 150)
    op = hp.hessian(lambda p, d: 0.5 * jnp.sum(d * p**2), np.ones(150, FLOAT), values.astype(FLOAT))
    matrix = op.dense()
    assert matrix.dtype == np.float64
    close(matrix, np.diag(values))
    with pytest.raises(MemoryError, match=r"150 variables needs 176 KiB.*eigsh"):
        op.dense(max_bytes=100_000)


def test_flat_rows_keep_the_order_of_the_leaves():
    op = hp.hessian(mixed, odd())
    basis = unflatten_rows(op.layout, np.arange(20.0).reshape(2, 10))
    np.testing.assert_array_equal(flatten_rows(basis), np.arange(20.0).reshape(2, 10))
    np.testing.assert_array_equal(basis[0][1], [[10, 11], [12, 13]])


class Compilations:
    """Counts what the compiler is asked for while it is open."""

    def __init__(self):
        self.count, self.open = 0, False
        jax.monitoring.register_event_duration_secs_listener(self)

    def __call__(self, event, _duration, **_):
        self.count += self.open and "backend_compile" in event

    def __enter__(self):
        self.count, self.open = 0, True
        return self

    def __exit__(self, *_):
        self.open = False


COMPILATIONS = Compilations()


def everything(params, data):
    op = hp.hessian(logistic, params, data)
    op(V)
    hp.eigsh(op)
    hp.classify(logistic, params, data)
    hp.escape(logistic, params, data)


def test_new_parameters_and_batches_compile_nothing():
    everything(W, (X, Y))
    everything((W + 0.3).astype(FLOAT), (2 * X, 1 - Y))  # warms what only other numbers reach
    with COMPILATIONS as made:
        everything((1.1 * W - 0.2).astype(FLOAT), (X + 1, Y))
    assert made.count == 0
    with COMPILATIONS as made:
        jax.jit(lambda x: x * 3 + made.count)(W)
    assert made.count > 0, "the counter counts nothing"


@pytest.mark.any_promotion
@pytest.mark.any_promotion
@pytest.mark.parametrize("kind", [jnp.asarray, np.int32, int])
def test_a_new_number_in_a_leaf_that_is_no_variable_compiles_nothing(kind):
    """A step count among the parameters is data like any other."""

    def loss(p):
        return jnp.sum(p["w"] ** 2) * (1.0 + 0.0 * p["step"])

    def multiply(step):
        return hp.hessian(loss, {"w": W, "step": kind(step)})({"w": V, "step": kind(step)})

    multiply(1)
    with COMPILATIONS as made:
        multiply(2)
    assert made.count == 0


def test_a_loss_whose_surroundings_changed_is_not_answered_from_memory():
    """What a notebook does: change a number in the loss's closure, call again."""
    sign = -1.0

    def loss(p):
        return sign * jnp.sum(p**2)

    close(hp.hessian(loss, W)(V), -2 * V.astype(np.float64))
    sign = 1.0
    close(hp.hessian(loss, W)(V), 2 * V.astype(np.float64))


def test_a_loss_whose_closed_over_array_changed_is_not_answered_from_memory():
    signs = np.full(4, -1.0, np.float32)

    def loss(p):
        return jnp.sum(jnp.asarray(signs, p.dtype) * p**2)

    close(hp.hessian(loss, W)(V), -2 * V.astype(np.float64))
    signs = -signs
    close(hp.hessian(loss, W)(V), 2 * V.astype(np.float64))


def test_a_method_whose_object_changed_is_not_answered_from_memory():
    class Model:
        scale = -1.0

        def loss(self, p):
            return self.scale * jnp.sum(p**2)

    model = Model()
    assert hp.classify(model.loss, 0 * W).label == "maximum"
    model.scale = 1.0
    assert hp.classify(model.loss, 0 * W).label == "minimum"


BAD_LOSSES = {
    "vector": (lambda p: p**2, ValueError, r"shape \(4,\).*scalar"),
    "length 1": (lambda p: jnp.sum(p, keepdims=True), ValueError, r"shape \(1,\)"),
    "tuple": (lambda p: (jnp.sum(p), p), TypeError, "tuple.*scalar"),
    "dict": (lambda p: {"loss": jnp.sum(p)}, TypeError, "dict.*scalar"),
    "None": (lambda p: None, TypeError, "NoneType|None"),
    "complex": (lambda p: jnp.sum(p) * (1 + 1j), TypeError, "complex.*real"),
    "integer": (lambda p: jnp.sum(p > 0), TypeError, "int.*float"),
    "boolean": (lambda p: jnp.all(p > 0), TypeError, "bool.*float"),
}


@pytest.mark.any_promotion
@pytest.mark.parametrize("kind", BAD_LOSSES)
def test_a_loss_that_is_no_real_scalar_is_refused(kind):
    loss, error, message = BAD_LOSSES[kind]
    for job in (hp.hessian, hp.classify, hp.escape):
        with pytest.raises(error, match=message):
            job(loss, W)


@pytest.mark.parametrize("loss", [None, 3.0, W, "loss"])
def test_what_cannot_be_called_is_refused(loss):
    for job in (hp.hessian, hp.classify, hp.escape):
        with pytest.raises(TypeError, match=r"loss must be a function.*got"):
            job(loss, W)


@pytest.mark.parametrize(
    "params", [{}, None, [], np.arange(3), {"n": 3, "flag": True, "name": "w"}, np.zeros((0, 3), FLOAT)]
)
def test_parameters_without_a_variable_are_refused(params):
    for job in (hp.hessian, hp.classify, hp.escape):
        with pytest.raises(ValueError, match="no floating-point entry"):
            job(lambda p: 0.0, params)


def test_a_complex_leaf_is_named():
    with pytest.raises(TypeError, match=r"params\['layers'\]\[1\] .*complex64"):
        hp.hessian(lambda p: 0.0, {"layers": [W, np.ones(2, np.complex64)]})


def test_an_error_of_the_loss_comes_through_with_its_place():
    def loss(p):
        raise RuntimeError("my own mistake")

    with pytest.raises(RuntimeError, match="my own mistake") as caught:
        hp.hessian(loss, W)
    assert any("hessian_probe" in note for note in caught.value.__notes__)


def test_a_loss_without_any_gradient_says_what_was_tried():
    def loss(p):
        return jax.pure_callback(
            lambda x: np.sum(np.asarray(x) ** 2).astype(x.dtype), jax.ShapeDtypeStruct((), p.dtype), p
        )

    with pytest.raises(ValueError, match="callback") as caught:
        hp.hessian(loss, W)
    assert any("differentiated" in note for note in caught.value.__notes__)


def test_a_random_loss_is_named_by_the_first_product():
    """Randomness that JAX cannot see: a host generator behind a callback."""
    rng = np.random.default_rng(0)

    def loss(p):
        mask = jax.pure_callback(
            lambda: (rng.random(4) < 0.5).astype(FLOAT), jax.ShapeDtypeStruct((4,), FLOAT)
        )
        return jnp.sum((mask * p) ** 2)

    with pytest.raises(ValueError, match=r"random|dropout"):
        hp.hessian(loss, W, max_residual_bytes=0)(V)


def test_a_gradient_of_no_loss_is_named_by_the_first_product():
    """A hand-written derivative with one block's sign wrong is no gradient of anything."""

    @jax.custom_vjp
    def broken(p):
        return p[0] * p[1] + p[2] ** 2 + p[3] ** 2

    def backward(p, g):
        return (g * jnp.stack([p[1], -p[0], 2 * p[2], 2 * p[3]]),)

    broken.defvjp(lambda p: (broken(p), p), backward)
    with pytest.raises(ValueError, match="symmetric"):
        hp.hessian(broken, W)(V)


def test_the_operator_prints():
    text = repr(hp.hessian(rosenbrock, W))
    assert "4 variables" in text
    assert FLOAT.name in text


def test_products_are_counted():
    op = hp.hessian(rosenbrock, W)
    op(V)
    before = op.num_hvps
    for _ in range(3):
        op(V)
    assert op.num_hvps == before + 3
    assert not math.isnan(op.value)


def test_every_product_is_entered_in_the_ledger_of_the_objective():
    op = hp.hessian(lambda w, x: jnp.mean((x @ w) ** 3), W, [X[:20], X[20:]])
    op(V)
    op.at(op.x).apply(op.gradient_vector)
    scaled = PreconditionedOperator(op, (jnp.ones(4, FLOAT),))
    scaled.apply(op.gradient_vector)
    assert (op.num_hvps, scaled.num_hvps, op.objective.cost.num_hvps) == (2, 1, 3)
    half = select_batches(op, 0, 2)
    rayleigh_quotients(half, [op.gradient_vector, op.gradient_vector])
    assert (half.num_hvps, op.objective.cost.num_hvps) == (2, 3)
    charge_share(op, [half])
    charge_share(op, [half])  # nothing is charged twice
    assert op.objective.cost.num_hvps == 4


def test_evaluations_are_entered_by_kind():
    objective = hp.hessian(rosenbrock, W).objective
    cost, x = objective.cost, objective.variables
    objective.value(x)
    objective.value_and_gradient(x)
    objective.line(x, (jnp.asarray(V),), [0.0, 0.5, 1.0])
    assert (cost.num_losses, cost.num_gradients, cost.num_evaluations, cost.num_hvps) == (4, 1, 5, 0)


def precisions(program):
    """What every matrix product of a program, and of those nested in it, asks for."""
    for equation in program.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for _, inner in nested_programs(equation):
            yield from precisions(inner)


@jax.custom_vjp
def product_by_own_rule(x, w):
    return x @ w


product_by_own_rule.defvjp(
    lambda x, w: (x @ w, (x, w)), lambda saved, g: (jnp.outer(g, saved[1]), saved[0].T @ g)
)


@pytest.mark.parametrize("multiply", [jnp.matmul, product_by_own_rule], ids=["plain", "own rule"])
@pytest.mark.parametrize("limit", [None, 0], ids=["stored", "recomputed"])
def test_matrix_products_of_derivatives_run_at_full_precision(limit, multiply):
    """In TF32 or bfloat16 a small curvature changes its sign; on a CPU only the program shows it."""
    op = hp.hessian(
        lambda w: jnp.mean(jnp.tanh(multiply(X, w)) ** 2), W, max_residual_bytes=limit, check=False
    )
    assert op.value > 0
    rows = (jnp.stack([op.x[0]] * 2),)
    for function, operand in ((op.product, op.x), (op.product_rows, rows)):
        found = list(precisions(jax.make_jaxpr(function)(operand).jaxpr))
        assert found
        assert all(each == (jax.lax.Precision.HIGHEST,) * 2 for each in found)
    objective = op.objective
    found = list(precisions(objective.program(next(iter(objective.data)), op.x).jaxpr))
    assert found == [(jax.lax.Precision.HIGHEST,) * 2]


def test_linear_algebra_on_vectors_runs_at_full_precision():
    vector, basis = (jnp.ones(3),), (jnp.ones((2, 3)),)
    calls = (dot, vector, vector), (coefficients, basis, vector), (combine, basis, jnp.ones(2))
    for function, *operands in calls:
        found = list(precisions(jax.make_jaxpr(function)(*operands).jaxpr))
        assert found == [(jax.lax.Precision.HIGHEST,) * 2]


class RefusedError(Exception):
    """An error of a library's own."""


@pytest.mark.parametrize("error", [RuntimeError, RefusedError, AssertionError, TypeError])
def test_any_refusal_of_a_derivative_leads_to_the_next_route(error):
    """Libraries refuse forward mode with errors of their own."""

    @jax.custom_vjp
    def own(x):
        return jnp.sum(x**3)

    def forward(x):
        if isinstance(x, jax.core.Tracer) and "JVPTracer" in type(x).__name__:
            raise error("no second derivative here")
        return own(x), x

    own.defvjp(forward, lambda x, t: (3 * t * x**2,))
    op = hp.hessian(lambda x: own(x) - x[0] * x[1], jnp.array([1.0, 2.0]))
    found = op(jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(found, [6, -1], rtol=1e-3, atol=1e-3)
