"""Is the derivative that of the loss?  Losses with a wrong one, each beside its twin with a right one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.operators.hessian import hessian
from hessian_probe.points.preconditions import derivative_fault

pytestmark = pytest.mark.any_promotion

stop = jax.lax.stop_gradient
FALSE = ("derivative_not_of_loss", "loss_jumps")


def with_vjp(value, pullback):
    """A function with a rule of the user's own."""

    @jax.custom_vjp
    def function(h):
        return value(h)

    function.defvjp(lambda h: (value(h), h), lambda h, g: (pullback(h, g),))
    return function


def with_jvp(value, slope):
    """A function with a forward rule of the user's own."""

    @jax.custom_jvp
    def function(h):
        return value(h)

    function.defjvp(lambda primals, tangents: (value(*primals), slope(*primals) * tangents[0]))
    return function


def called_back(slope):
    """tanh outside of JAX."""

    def value(h):
        return jax.pure_callback(lambda a: np.tanh(a), jax.ShapeDtypeStruct(h.shape, h.dtype), h)

    return with_jvp(value, slope)


def one_hot_of_largest(h):
    return h * jax.nn.one_hot(jnp.argmax(h, axis=-1), h.shape[-1])


def normalised(h, held=lambda a: a):
    return (h - held(h.mean(0, keepdims=True))) / held(h.std(0, keepdims=True) + 0.1)


def in_turns(h, held):
    """A recurrence over the columns; a part of what is carried may be held."""

    def turn(carry, column):
        carry = jnp.tanh(0.7 * held(carry) + column)
        return carry, carry

    return jax.lax.scan(turn, jnp.zeros(h.shape[0], h.dtype), h.T)[1].T


def log_softmax_with_a_held_shift(h):
    shifted = h - stop(h.max(-1, keepdims=True))
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), -1, keepdims=True))


def sech2(h):
    return 1 - jnp.tanh(h) ** 2


# (name, what is done to the hidden units, the same with a right derivative)
KINDS = (
    ("stopped", lambda h: stop(jnp.tanh(h)), jnp.tanh),
    ("half stopped", lambda h: 0.5 * h + 0.5 * stop(h), lambda h: h),
    ("target of itself", lambda h: h - stop(h[:, ::-1]), lambda h: h - h[:, ::-1]),
    ("statistics held", partial(normalised, held=stop), normalised),
    ("truncated recurrence", partial(in_turns, held=stop), partial(in_turns, held=lambda a: a)),
    (
        "scaled rule",
        with_vjp(jnp.tanh, lambda h, g: 0.5 * g * sech2(h)),
        with_vjp(jnp.tanh, lambda h, g: g * sech2(h)),
    ),
    ("reversed rule", with_vjp(lambda h: h, lambda h, g: -g), with_vjp(lambda h: h, lambda h, g: g)),
    ("rule of zero", with_vjp(jnp.tanh, lambda h, g: 0 * g), jax.checkpoint(jnp.tanh)),
    (
        "clipped rule",
        with_vjp(lambda h: h, lambda h, g: jnp.clip(g, -1e-3, 1e-3)),
        lambda h: jnp.where(h > 0, h, 0.2 * h),
    ),
    (
        "forgotten factor",
        with_jvp(lambda h: jnp.tanh(2 * h), lambda h: sech2(2 * h)),
        with_jvp(lambda h: jnp.tanh(2 * h), lambda h: 2 * sech2(2 * h)),
    ),
    ("callback without slope", called_back(lambda h: 0 * h), called_back(sech2)),
    (
        "straight through",
        with_vjp(lambda h: jnp.round(8 * h) / 8, lambda h, g: g),
        lambda h: jnp.where(jnp.abs(h) < 1, h**2 / 2, jnp.abs(h) - 0.5),
    ),
    (
        "rounded",
        lambda h: jnp.round(4 * h) / 4,
        lambda h: jnp.where(h > 0, jnp.sqrt(jnp.where(h > 0, h, 1.0) + 1), 1 + 0.5 * h),
    ),
    ("floored", lambda h: jnp.floor(4 * h) / 4, log_softmax_with_a_held_shift),
    (
        "integers",
        lambda h: (4 * h).astype(jnp.int32).astype(h.dtype) / 4,
        lambda h: h - stop(jnp.floor(h.mean() * 0)),
    ),
    ("sign", jnp.sign, lambda h: h * jnp.sign(jnp.where(jnp.isfinite(h), 1.0, h))),
    (
        "compared",
        lambda h: (h > 0.1).astype(h.dtype),
        lambda h: jax.lax.cond(h.shape[0] > 1, jnp.tanh, jnp.sin, h),
    ),
    ("one or the other", lambda h: jnp.where(h > 0, 1.0, -0.5), lambda h: jnp.where(h > 0, h, jnp.expm1(h))),
    ("largest alone", lambda h: jnp.sign(one_hot_of_largest(h)), lambda h: jax.nn.softmax(3 * h)),
    (
        "looked up",
        lambda h: jnp.linspace(-1, 1, 9)[jnp.clip((4 * h + 4).astype(jnp.int32), 0, 8)].astype(h.dtype),
        lambda h: h[:, np.array([2, 0, 1, 3, 4])],
    ),
)


def made(unit, seed):
    """A network with one kind of unit, and its parameters: regression, classes, or with a decay."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((24, 3)), rng.standard_normal(24)
    x, y = (jnp.asarray(a, jnp.zeros(()).dtype) for a in (x, y))
    params = {
        "w": rng.standard_normal((3, 5)) / 3**0.5,
        "b": 0.1 * rng.standard_normal(5),
        "v": rng.standard_normal(5) / 5**0.5,
    }
    params = jax.tree.map(lambda a: jnp.asarray(a, x.dtype), params)

    def loss(p):
        out = unit(x @ p["w"] + p["b"]) @ p["v"]
        if seed == 0:
            return jnp.mean((out - y) ** 2)
        if seed == 1:
            return jnp.mean(jnp.logaddexp(0.0, -jnp.sign(y) * out))
        return jnp.mean((out - y) ** 2) + 1e-3 * sum(jnp.sum(a**2) for a in p.values())

    return loss, params


def fault(unit, seed):
    found = derivative_fault(hessian(*made(unit, seed), check=False))
    return "" if found is None else found.code


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("wrong", "right"), [row[1:] for row in KINDS], ids=[row[0] for row in KINDS])
def test_a_wrong_derivative_is_told_from_its_twin(wrong, right, seed):
    assert fault(wrong, seed) in FALSE
    assert fault(right, seed) == ""


@pytest.mark.parametrize("unit", [lambda h: stop(jnp.tanh(h)), jnp.round], ids=["stopped", "rounded"])
def test_classify_and_escape_say_so_and_a_lower_point_is_offered(unit):
    loss, params = made(unit, 2)
    point = hp.classify(loss, params)
    assert (point.label, point.reasons[0]) == ("undetermined", "derivative_not_of_loss")
    assert "test_derivative_check.py" in point.evidence[0]
    assert "params['w']" in point.evidence[0]
    move = hp.escape(loss, params, point=point)
    assert move.loss_after < move.loss_before - 0.1 or 2 * move.gain_of_slope > 0.1
    assert "test_derivative_check.py" in str(move)
    assert "test_derivative_check.py" in str(hp.sharpness(loss, params))
    assert {"derivative_not_of_loss"} <= set(hp.plan(loss, params).noticed)
    found = hp.diagnose(loss, params)
    assert (found.findings[0].cause, found.findings[0].reason) == ("derivative", "derivative_not_of_loss")


def test_a_jump_at_the_parameters_is_no_plateau():
    point = hp.classify(
        lambda x: jnp.sum((10 * x).astype(jnp.int32).astype(x.dtype) ** 2), jnp.array([1.0, -2.0, 0.5])
    )
    assert (point.label, point.reasons[0]) == ("undetermined", "loss_jumps")


PEAKS = {
    "square of a complex modulus at 0": lambda x: jnp.sum((jnp.abs(x[:2] + 1j * x[1:]) ** 2 - 1) ** 2) / 2,
    "clamped root": lambda x: 1 - jnp.sqrt(jnp.maximum(jnp.sum(x**2), 1e-12)),
    "clamped root, three times": lambda x: jnp.exp(-3 * jnp.sqrt(jnp.maximum(jnp.sum(x**2), 1e-12))),
    "clamped root and decay": lambda x: (
        1 - jnp.sqrt(jnp.maximum(jnp.sum(x**2), 1e-12)) + 0.01 * jnp.sum(x**2)
    ),
    "clamped root and more decay": lambda x: (
        1 - jnp.sqrt(jnp.maximum(jnp.sum(x**2), 1e-14)) + 0.1 * jnp.sum(x**2)
    ),
    "distance with a small number": lambda x: (
        2 - jnp.sqrt(jnp.where(jnp.sum(x**2) > 1e-14, jnp.sum(x**2), 1e-14))
    ),
}


@pytest.mark.parametrize("name", PEAKS)
def test_a_peak_whose_derivative_is_zero_is_neither_a_minimum_nor_flat(name):
    """Every other point within 0.1 is lower."""
    x = jnp.zeros(3)
    point = hp.classify(PEAKS[name], x)
    assert point.label in ("maximum", "undetermined")
    assert not point.certified
    move = hp.escape(PEAKS[name], x, point=point)
    assert move.loss_after < move.loss_before - 0.01


# (name, loss of b and w at b = 0 with a gradient that is no number, the operation)
NAN = {
    "norm": (lambda b, w: jnp.linalg.norm(b), "sqrt at 0"),
    "root": (lambda b, w: jnp.sum(jnp.sqrt(b**2)), "sqrt at 0"),
    "untaken root": (
        lambda b, w: jnp.sum(jnp.where(b > 0, jnp.sqrt(b), 0.0)),
        "sqrt at 0, which the loss does not",
    ),
    "untaken logarithm": (
        lambda b, w: jnp.sum(jnp.where(b > 0, jnp.log(b), 0.0)),
        "log at 0, which the loss does not",
    ),
    "power": (lambda b, w: jnp.sum(jnp.abs(b) ** 0.5), "pow at 0"),
    "quotient": (lambda b, w: jnp.sum(jnp.where(b != 0, 1 / b, 0.0)), "div at 1, 0"),
    "angle": (lambda b, w: jnp.sum(jnp.arccos(1 - b)), "acos at 1"),
    "deviation": (lambda b, w: jnp.std(b), "sqrt at 0"),
    "in a loop": (lambda b, w: jax.lax.scan(lambda c, r: (c + jnp.sqrt(r), r), b[0] + 1, b)[0], "sqrt at 0"),
    "in a branch": (
        lambda b, w: jax.lax.cond(w[0] > 0, lambda a: jnp.sqrt(a[0]), lambda a: a[0], b),
        "sqrt at 0",
    ),
    "in a call": (lambda b, w: jax.checkpoint(jax.jit(lambda a: jnp.linalg.norm(a)))(b), "sqrt at 0"),
    "own rule": (lambda b, w: jnp.sum(with_jvp(lambda h: h, lambda h: 1 / h)(b)), "at 0"),
}


def beside(name):
    """A quadratic with such a term, and its parameters."""
    term, operation = NAN[name]

    def loss(p):
        return jnp.sum((p["w"] - 1) ** 2) + 0.1 * term(p["b"], p["w"])

    return loss, {"w": jnp.array([2.0, 0.5]), "b": jnp.zeros(2)}, operation


@pytest.mark.parametrize("name", NAN)
def test_what_makes_a_gradient_not_finite_is_named_with_its_line(name):
    loss, params, operation = beside(name)
    found = derivative_fault(hessian(loss, params, check=False))
    assert found.code == "gradient_nonfinite"
    assert "params['b']" in str(found)
    assert operation in str(found)
    assert "test_derivative_check.py" in str(found)


def test_every_verb_says_that_a_gradient_is_not_finite():
    loss, params, operation = beside("norm")
    point = hp.classify(loss, params)
    assert point.reasons[0] == "gradient_nonfinite"
    assert point.label in ("not_critical", "undetermined")
    move = hp.escape(loss, params, point=point)
    monitor = hp.training.Monitor(loss, window=32)
    events = [monitor.update(step, params, loss(params)) for step in range(128)]
    probed = next(event for event in events if event.point is not None)
    found = hp.diagnose(loss, params)
    assert (found.findings[0].cause, found.findings[0].reason) == ("derivative", "gradient_nonfinite")
    for text in (
        found,
        point,
        move,
        hp.sharpness(loss, params),
        hp.plan(loss, params),
        " ".join(probed.evidence),
    ):
        assert operation in str(text)


@jax.custom_jvp
def positive(value):
    """The value; Python raises where it is not positive."""

    def check(number):
        if not np.all(number > 0):
            raise ValueError("must be positive")
        return number

    return jax.pure_callback(
        check, jax.ShapeDtypeStruct(value.shape, value.dtype), value, vmap_method="expand_dims"
    )


positive.defjvp(lambda primals, tangents: (positive(*primals), *tangents))

RAISING = {
    "minimum": (lambda q: (jnp.log(positive(q[0])) - 0.5) ** 2 + q[1] ** 2, (np.exp(0.5), 0.0)),
    "saddle": (lambda q: jnp.log(positive(q[0])) ** 2 - q[1] ** 2 + q[1] ** 4, (1.0, 0.0)),
    "maximum": (lambda q: -((jnp.sqrt(positive(q[0])) - 1) ** 2) - q[1] ** 2, (1.0, 0.0)),
    "not_critical": (lambda q: positive(q[0]) ** 2 + q[1] ** 2, (1.0, 1.0)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("label", RAISING)
def test_a_trial_point_where_the_loss_raises_is_one_that_is_not_finite(label):
    loss, at = RAISING[label]
    q = jnp.asarray(at, jnp.zeros(()).dtype)
    point = hp.classify(loss, q)
    assert point.label == label
    told = [text for code, text in zip(point.reasons, point.evidence, strict=True) if code == "loss_raised"]
    assert len(told) == 1
    assert told[0].endswith("ValueError: must be positive")
    move = hp.escape(loss, q, point=point)
    assert move.loss_after <= move.loss_before
    assert (move.status == "escaped") == (label in ("saddle", "maximum"))
    hp.sharpness(loss, q)
    with pytest.raises(Exception, match="must be positive"):
        hp.classify(loss, -q - 1)
