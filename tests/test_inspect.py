"""What a loss's program shows: each case is a loss whose make-up is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.operators.objective import Objective
from hessian_probe.programs.active_kinks import ties
from hessian_probe.programs.inspect import ProgramFacts, inspect_program
from hessian_probe.programs.walker import scan_parts

pytestmark = pytest.mark.any_promotion

X = np.linspace(-1.0, 1.0, 12).reshape(4, 3)
LABELS = np.array([0, 1, 2, 3])


def facts(loss, w=None) -> ProgramFacts:
    w = jnp.asarray(np.linspace(-0.5, 0.7, 15).reshape(3, 5)) if w is None else w
    return Objective(loss, w).facts


def cross_entropy(logits):
    shifted = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    log_sum = jnp.log(jnp.sum(jnp.exp(shifted), axis=-1))
    return jnp.mean(log_sum - shifted[jnp.arange(4), LABELS])


def attention(w):
    h = X @ w
    scores = jnp.where(jnp.tril(jnp.ones((4, 4), bool)), h @ h.T, -1e9)
    return jnp.mean(jax.nn.softmax(scores) @ h)


def layer_norm(w):
    h = X @ w
    centred = h - jnp.mean(h, -1, keepdims=True)
    return jnp.sum(jnp.tanh(centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)))


SMOOTH = {
    "tanh network": lambda w: cross_entropy(jnp.tanh(X @ w)),
    "relu of the data alone": lambda w: cross_entropy(jnp.tanh(np.maximum(X, 0) @ w)),
    "mask from data": lambda w: jnp.sum(jnp.where(X > 0, 1.0, 2.0)) * jnp.sum(w**2),
    "log_softmax of gelu": lambda w: -jnp.mean(jax.nn.log_softmax(jax.nn.gelu(X @ w))[:, 0]),
    "softplus, silu, sigmoid": lambda w: jnp.sum(jax.nn.softplus(jax.nn.silu(w)) + jax.nn.log_sigmoid(w)),
    "logsumexp": lambda w: jax.scipy.special.logsumexp(w),
    "layer norm": layer_norm,
    "masked attention": attention,
    "inverse": lambda w: jnp.sum(jnp.linalg.inv(w @ w.T + jnp.eye(3))),
    "log determinant": lambda w: jnp.linalg.slogdet(w @ w.T + jnp.eye(3))[1],
    "cholesky": lambda w: jnp.sum(jnp.linalg.cholesky(w @ w.T + jnp.eye(3))),
    "unused maximum": lambda w: (jnp.max(w), jnp.sum(w**2))[1],
    "guard against NaN": lambda w: jnp.sum(jnp.where(jnp.isfinite(w), w, 0.0) ** 2),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_losses_show_no_kink(name):
    found = facts(SMOOTH[name])
    assert found.kinks == ()
    assert not (found.random)
    assert not (found.callback)
    assert not (found.reduced_matmul)
    assert not (found.custom_derivative)


KINKED = {
    "relu": lambda w: jnp.sum(jax.nn.relu(X @ w)),
    "max": lambda w: jnp.sum(jnp.maximum(w, 0.1)),
    "reduce_max": lambda w: jnp.max(w),
    "abs": lambda w: jnp.sum(jnp.abs(w)),
    "where": lambda w: jnp.sum(jax.nn.leaky_relu(w)),
    "sort": lambda w: jnp.sum(jnp.sort(w, axis=0)[0]),
    "clamp": lambda w: jnp.sum(jax.lax.clamp(-0.1, w, 0.1)),
    "round": lambda w: jnp.sum(w + jax.lax.stop_gradient(jnp.round(w) - w)),
    "sign": lambda w: jnp.sum(jnp.sign(w) * w),
    "comparison": lambda w: jnp.sum((w > 0).astype(w.dtype)) + jnp.sum(w),
    "max pooling": lambda w: jnp.sum(
        jax.lax.reduce_window(w, -jnp.inf, jax.lax.max, (1, 2), (1, 1), "VALID")
    ),
    "cond on values": lambda w: jax.lax.cond(jnp.sum(w) > 0, jnp.sum, lambda v: jnp.sum(v**2), w),
    "indexing by values": lambda w: jnp.asarray(X)[jnp.argmax(w[:, 0]), 0] * jnp.sum(w),
}


@pytest.mark.parametrize("name", KINKED)
@pytest.mark.parametrize(
    "wrap", [lambda f: f, jax.jit, jax.checkpoint, lambda f: lambda w: inside_scan(f, w)]
)
def test_kinks_are_named_wherever_they_are_nested(name, wrap):
    assert name in facts(wrap(KINKED[name])).kinks


def inside_scan(loss, w):
    return jax.lax.scan(lambda carry, _: (carry + loss(w), None), 0.0 * jnp.sum(w), None, length=3)[0]


def test_a_kink_behind_a_loop_carry_is_seen():
    """The parameters enter the carried value only in the first round, the corner is in the second."""

    def loss(w):
        def body(state, _):
            a, b = state
            return (jnp.sum(w), jnp.abs(a) + b), None

        zero = jnp.zeros((), w.dtype)
        return jax.lax.scan(body, (zero, zero), None, length=2)[0][1]

    found = facts(loss)
    assert "abs" in found.kinks
    assert found.loops == ("scan of 2",)


def test_a_loop_that_ends_by_values_is_told_from_one_that_counts():
    def counted(w):
        return jax.lax.fori_loop(0, 3, lambda _, c: jnp.sin(c), jnp.sum(w))

    def by_value(w):
        return jnp.sum(jax.lax.while_loop(lambda c: jnp.sum(c) < 30, lambda c: 2 * c, w))

    assert facts(counted).kinks == ()
    program = jax.make_jaxpr(by_value)(jnp.ones((3, 5)))
    assert inspect_program(program).kinks == ("while on values",)


def test_chance_and_callbacks():
    drop = jax.random.key(0)
    found = facts(lambda w: jnp.sum(w * jax.random.bernoulli(drop, 0.5, w.shape)))
    assert found.random
    assert "random" in dict(found.remarks)

    def host(w):
        return jax.pure_callback(lambda s: s, jax.ShapeDtypeStruct((), w.dtype), jnp.sum(w))

    assert inspect_program(jax.make_jaxpr(host)(jnp.ones(3))).callback
    assert not inspect_program(jax.make_jaxpr(jnp.sum)(jnp.ones(3))).callback


@pytest.mark.parametrize(
    ("loss", "lowest", "reduced"),
    [
        (
            lambda w: jnp.sum((w.astype(jnp.bfloat16) @ jnp.ones((5, 2), jnp.bfloat16)).astype(w.dtype)),
            2,
            True,
        ),
        (lambda w: jnp.sum(w.astype(jnp.float16)).astype(w.dtype), 2, False),
        (lambda w: jnp.sum(w.astype(jnp.float32) @ jnp.ones((5, 2), jnp.float32)), 4, False),
        (
            lambda w: jnp.sum(
                jnp.dot(w.astype(jnp.float32), jnp.ones((5, 2), jnp.float32), precision="default")
            ),
            4,
            True,
        ),
        (lambda w: jnp.sum(w * jnp.asarray(X[:3, :1], jnp.bfloat16).astype(w.dtype)), None, False),
        (lambda w: jnp.sum(jax.lax.reduce_precision(w.astype(jnp.float32), 8, 7)), 2, False),
    ],
)
def test_the_lowest_precision_that_parameters_pass_through(loss, lowest, reduced, x64):
    found = facts(loss)
    expected = (8 if x64 else 4) if lowest is None else lowest
    assert np.dtype(jnp.dtype(found.lowest_float)).itemsize == expected
    assert found.reduced_matmul is reduced


def test_low_precision_parameters_are_low_precision():
    assert (
        facts(lambda w: jnp.sum(w.astype(jnp.float32) ** 2), jnp.ones(3, jnp.bfloat16)).lowest_float
        == "bfloat16"
    )


def test_derivative_rules_of_the_users_are_named_and_jax_s_are_not():
    @jax.custom_vjp
    def straight_through(x):
        return jnp.sin(x)

    straight_through.defvjp(lambda x: (straight_through(x), x), lambda _, t: (t,))
    found = facts(lambda w: jnp.sum(straight_through(w) + jnp.logaddexp(w, 0.0)))
    assert found.custom_derivative == ("straight_through",)
    assert found.kinks == ()


def test_problems_that_are_smooth_are_seen_as_smooth():
    known = hp.problems.zero_mlp_point()
    assert Objective(known.loss, *known.args).facts.kinks == ()


def test_the_parts_of_a_scan_are_known_to_this_jax():
    """One array is fixed, two are carried, one comes by rows; JAX 0.12 names them otherwise than before."""
    program = jax.make_jaxpr(
        lambda w, x: jax.lax.scan(lambda c, t: ((c[0] @ w + t, c[1] + 1), None), (x[0], 0), x)
    )(jnp.ones((3, 3)), jnp.ones((4, 3)))
    scan = next(equation for equation in program.jaxpr.eqns if equation.primitive.name == "scan")
    assert scan_parts(scan.params) == (1, 2)


AT = np.array([1.0, -0.5, 2.0, 0.3])
NO_TIES = {
    "nan_to_num compares with infinity": lambda x: jnp.sum(jnp.nan_to_num(x - AT) ** 2),
    "a clip between infinities": lambda x: jnp.sum(jnp.clip(x, -jnp.inf, jnp.inf) ** 2),
    "where, below infinity": lambda x: jnp.sum(jnp.where(x < jnp.inf, x - AT, 0.0) ** 2),
    "a test for NaN": lambda x: jnp.sum(jnp.where(x != x, 0.0, x) ** 2),
    "softplus compares with itself": lambda x: (
        jnp.sum(jax.nn.softplus(x)) + jnp.sum(jax.nn.relu(jnp.abs(x) - 40))
    ),
    "the larger of twice the same": lambda x: jnp.sum(jnp.maximum(x, x) ** 2),
    "sorted, entries apart": lambda x: jnp.sum((jnp.sort(x) - np.sort(AT)) ** 2),
    "sorted along columns": lambda x: jnp.sum(jnp.sort(jnp.stack([x, 2 * x]), axis=0)[0]),
    "a median": lambda x: jnp.median(x),
}
TIES = {
    "a corner": lambda x: jnp.sum(jnp.maximum(x - AT, 0.0)),
    "a corner beside infinities": lambda x: jnp.sum(jnp.minimum(jnp.maximum(x - AT, 0.0), jnp.inf)),
    "sorted, two alike": lambda x: jnp.sum(jnp.sort(jnp.append(x, x[0])) ** 2 * jnp.arange(5.0)),
    "the largest of two alike": lambda x: jnp.max(jnp.append(x, x[2])),
    "a size at zero": lambda x: jnp.sum(jnp.abs(x - AT)),
}


@pytest.mark.parametrize(("name", "tied"), [*((n, False) for n in NO_TIES), *((n, True) for n in TIES)])
def test_operands_tie_where_they_are_equal_and_nowhere_else(name, tied):
    loss, x = (TIES | NO_TIES)[name], jnp.asarray(AT)
    program = jax.make_jaxpr(loss)(x)
    assert ties(program, 1, frozenset(facts(loss, AT).kinks), float(jnp.finfo(x.dtype).eps))([x]) is tied


@pytest.mark.parametrize("name", ["nan_to_num compares with infinity", "sorted, entries apart"])
def test_a_kink_that_is_none_leaves_a_minimum_one(name):
    assert hp.classify(NO_TIES[name], jnp.asarray(AT)).label == "minimum"
