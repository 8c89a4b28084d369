"""Losses in which one sample meets another by broadcasting, and couplings that are meant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.diagnosis.checks import broadcast
from hessian_probe.diagnosis.experiments import Experiments

optax = pytest.importorskip("optax")
pytestmark = [pytest.mark.any_promotion, pytest.mark.one_precision]  # both dtypes in one run
N = 48
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, 4))
Y = np.sin(X.sum(1))
CLASSES = (Y > 0).astype(np.int32)
WEIGHTS = (np.abs(Y) > 0.5).astype(float)
PARAMS = {"a": 0.3 * RNG.standard_normal((4, 6)), "b": 0.3 * RNG.standard_normal((6, 1)), "c": np.zeros(1)}


def net(p, x):
    return jnp.tanh(x @ p["a"]) @ p["b"] + p["c"]


def flat(p, x):
    return net(p, x)[:, 0]


def per_class(p, x):
    return jnp.tanh(x @ p["a"])


def square(a, b):
    return jnp.mean((a - b) ** 2)


def masked(p, d):
    return jnp.sum((net(p, d["x"]) - d["y"]) ** 2 * d["w"]) / jnp.sum(d["w"])


def picked(p, d):
    log = jax.nn.log_softmax(per_class(p, d["x"]))
    return -jnp.mean(jnp.take_along_axis(log, d["y"][:, None], axis=1) * d["w"])


def by_rows(p, d):
    return square(jax.vmap(lambda x: net(p, x))(d[0]), d[1])


PAIR = (X, Y)
COLUMN = (X, Y[:, None])
WITH = {"x": X, "y": Y[:, None], "w": WEIGHTS}
# A loss, its data, the operation, and the shapes of what is crossed.
CROSSED = {
    "difference": (lambda p, d: square(net(p, d[0]), d[1]), PAIR, "sub", ((N, 1), (N,))),
    "turned": (lambda p, d: square(d[1], net(p, d[0])), PAIR, "sub", ((N,), (N, 1))),
    "targets in a column": (lambda p, d: square(flat(p, d[0]), d[1]), COLUMN, "sub", ((N,), (N, 1))),
    "compiled": (jax.jit(lambda p, d: square(net(p, d[0]), d[1])), PAIR, "sub", ((N, 1), (N,))),
    "sample by sample": (by_rows, PAIR, "sub", ((N, 1), (N,))),
    "checkpointed": (lambda p, d: square(jax.checkpoint(net)(p, d[0]), d[1]), PAIR, "sub", ((N, 1), (N,))),
    "sum ÷ samples": (
        lambda p, d: jnp.sum((net(p, d[0]) - d[1]) ** 2) / len(d[1]),
        PAIR,
        "sub",
        ((N, 1), (N,)),
    ),
    "entropy": (
        lambda p, d: jnp.mean(optax.sigmoid_binary_cross_entropy(net(p, d[0]), d[1])),
        (X, CLASSES.astype(float)),
        "mul",
        ((N,), (N, 1)),
    ),
    "margin": (
        lambda p, d: jnp.mean(jnp.maximum(0.0, 1 - (2 * d[1] - 1) * net(p, d[0]))),
        (X, CLASSES),
        "mul",
        ((N,), (N, 1)),
    ),
    "choice": (
        lambda p, d: jnp.mean(jnp.where(d[1] > 0, 1.0, 2.0) * net(p, d[0]) ** 2),
        PAIR,
        "mul",
        ((N,), (N, 1)),
    ),
    "weights": (
        lambda p, d: jnp.mean((net(p, d["x"]) - d["y"]) ** 2 * d["w"]),
        WITH,
        "mul",
        ((N, 1), (N,)),
    ),
    "mask": (masked, WITH, "mul", ((N, 1), (N,))),
    "picked classes": (picked, {"x": X, "y": CLASSES, "w": WEIGHTS}, "mul", ((N, 1), (N,))),
    "rows": (lambda p, d: square(net(p, d[0])[..., None], d[1]), (X, X), "sub", ((N, 1, 1), (N, 4))),
}


def normalised(p, x):
    h = x @ p["a"]
    return (jnp.tanh((h - h.mean(0)) / (h.std(0) + 0.1)) @ p["b"])[:, 0]


def attending(p, x):
    h = x @ p["a"]
    return (jax.nn.softmax(h @ h.T) @ h @ p["b"])[:, 0]


def unit(p, x):
    h = per_class(p, x)
    return h / jnp.linalg.norm(h, axis=1, keepdims=True)


def hinge(scores, targets):
    return jnp.mean(jnp.maximum(0.0, 1 - scores * jnp.sign(targets)))


def survival(p, d):
    scores = flat(p, d[0])
    at_risk = jnp.where(d[1] >= d[1][:, None], scores, -1e9)
    return -jnp.mean(scores - jax.nn.logsumexp(at_risk, axis=1))


def contrast(p, d):
    return -jnp.mean(jnp.diag(jax.nn.log_softmax(unit(p, d[0]) @ unit(p, d[1]).T)))


def supervised_contrast(p, d):
    z, same = unit(p, d[0]), d[1][:, None] == d[1][None, :]
    return -jnp.mean(jnp.where(same, jax.nn.log_softmax(z @ z.T), 0.0))


def ranked(p, d):
    return hinge(net(p, d[0]) - flat(p, d[0]), d[1][:, None] - d[1])


def distances(p, d):
    return jnp.mean(jnp.sum((unit(p, d[0])[:, None] - unit(p, d[1])) ** 2, axis=-1))


def process(p, d):
    kernel = jnp.exp(-((d[0][:, :1] - d[0][:, 0]) ** 2)) + 0.3 * jnp.eye(len(d[1]))
    return flat(p, d[0]) @ jnp.linalg.solve(kernel, d[1])


# A loss, its data, and whether its samples are coupled (or weighted, or summed).
MEANT = {
    "mean": (lambda p, d: square(flat(p, d[0]), d[1]), PAIR, False),
    "both in columns": (lambda p, d: square(net(p, d[0]), d[1][:, None]), PAIR, False),
    "penalty": (lambda p, d: square(flat(p, d[0]), d[1]) + 0.1 * jnp.sum(p["a"] ** 2), PAIR, False),
    "autoencoder": (lambda p, d: square(per_class(p, d) @ p["a"].T, d), X, False),
    "normalised batch": (lambda p, d: square(normalised(p, d[0]), d[1]), PAIR, True),
    "attention over the batch": (lambda p, d: square(attending(p, d[0]), d[1]), PAIR, True),
    "sum": (lambda p, d: jnp.sum((flat(p, d[0]) - d[1]) ** 2), PAIR, True),
    "weighted mean": (
        lambda p, d: jnp.sum(d[1] ** 2 * flat(p, d[0]) ** 2) / jnp.sum(d[1] ** 2),
        PAIR,
        True,
    ),
    "masked mean": (
        lambda p, d: jnp.sum(d["w"] * (net(p, d["x"]) - d["y"])[:, 0] ** 2) / jnp.maximum(jnp.sum(d["w"]), 1),
        WITH,
        True,
    ),
    "survival": (survival, PAIR, True),
    "contrast": (contrast, (X, X[::-1]), True),
    "supervised contrast": (supervised_contrast, (X, CLASSES), True),
    "ranking": (ranked, PAIR, True),
    "distances": (distances, (X, X[::-1]), True),
    "Gaussian process": (process, PAIR, True),
}


def checked(loss, data, dtype=np.float32):
    def cast(leaf):
        return jnp.asarray(leaf, dtype if leaf.dtype.kind == "f" else leaf.dtype)

    case = Experiments(loss, jax.tree.map(cast, PARAMS), jax.tree.map(cast, data))
    return case, [item for item in broadcast.check(case) if hasattr(item, "reason")]


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CROSSED)
def test_crossed_samples_are_named_with_operation_and_shapes(name, dtype):
    loss, data, operation, shapes = CROSSED[name]
    _, found = checked(loss, data, dtype)
    assert [item.reason for item in found] == ["crossed_samples"]
    both = np.broadcast_shapes(*shapes)
    assert f"broadcast to {both} in `{operation}` (test_broadcasts.py:" in found[0].claim
    for shape in shapes:
        assert f" {shape} " in found[0].claim


@pytest.mark.parametrize("name", MEANT)
def test_couplings_that_are_meant_are_no_finding(name):
    loss, data, coupled = MEANT[name]
    case, found = checked(loss, data)
    assert not found
    assert any("samples: " in what for what in case.measured) == coupled


def test_a_length_that_other_axes_share_is_no_sample():
    """Sixteen samples of sixteen inputs: the bias of the inputs meets samples along the other axis."""
    rng = np.random.default_rng(1)
    data = (rng.standard_normal((16, 16)), rng.standard_normal((16, 16)))
    case = Experiments(lambda p, d: square(d[0] * p, d[1]), np.ones(16), data)
    assert not broadcast.check(case)


def test_a_training_at_the_mean_of_its_targets_is_told_of_its_shapes():
    """There each sample's loss alone has the same mean as the loss of all: only other parameters tell."""
    x = jnp.linspace(-2, 2, 64)[:, None]
    y = x[:, 0] ** 2
    params = {"w": jnp.zeros((1, 1)), "b": jnp.mean(y)[None]}

    def apply(p, x):
        return x @ p["w"] + p["b"]

    def loss(p, d):
        return square(apply(p, d[0]), d[1])

    found = hp.diagnose(loss, params, [(x[i::4], y[i::4]) for i in range(4)], apply=apply)
    assert [f.cause for f in found.findings] == ["broadcast"]
    assert "outputs (16, 1) and targets (16,) broadcast to (16, 16)" in found.findings[0].claim
    assert found.findings[0].confidence >= 0.9
    right = hp.diagnose(lambda p, d: square(apply(p, d[0])[:, 0], d[1]), params, (x, y), apply=apply)
    assert "broadcast" not in [f.cause for f in right.findings]
