"""Why training is stuck: each measurement against a closed form or NumPy, and whole diagnoses."""

import itertools
import json
import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.cli import main
from hessian_probe.diagnosis import baselines
from hessian_probe.diagnosis.checks import activations, divergence
from hessian_probe.diagnosis.checks.conditioning import PRODUCTS, gradient_krylov_model
from hessian_probe.diagnosis.checks.generalisation import area_under_curve, chance_spread, two_sample_area
from hessian_probe.diagnosis.checks.noise import noise_scale
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.diagnosis.features import Features
from hessian_probe.diagnosis.layer_jacobians import layer_gradients
from hessian_probe.diagnosis.result import CAUSES, Finding
from hessian_probe.optimizers.samples import join_batches
from hessian_probe.programs.layers import run_model, trace_model

optax = pytest.importorskip("optax")
pytestmark = [pytest.mark.any_promotion, pytest.mark.float32]


def mlp(widths, seed=0, gain=1.0):
    rng = np.random.default_rng(seed)
    return [
        {
            "w": jnp.asarray(rng.standard_normal((a, b)) * gain / np.sqrt(a), jnp.float32),
            "b": jnp.zeros(b, jnp.float32),
        }
        for a, b in itertools.pairwise(widths)
    ]


@cache
def forward(activation):
    def apply(params, x):
        for layer in params[:-1]:
            x = activation(x @ layer["w"] + layer["b"])
        return x @ params[-1]["w"] + params[-1]["b"]

    return apply


@cache
def cross_entropy(apply):
    def loss(params, batch):
        log = jax.nn.log_softmax(apply(params, batch[0]))
        return -jnp.mean(jnp.take_along_axis(log, batch[1][:, None], axis=1))

    return loss


def blobs(count=60, seed=0, classes=3):
    """Three clouds that a line can tell apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = 2.5 * np.random.default_rng(1).standard_normal((classes, 5))
    return (centres[labels] + 0.5 * rng.standard_normal((count, 5))).astype(np.float32), labels.astype(
        np.int32
    )


def bowl(p):
    """A loss without data."""
    return jnp.sum(p**2) + 1.0


def train(loss, params, data, optimizer, steps):
    state, losses = optimizer.init(params), []
    step = jax.jit(jax.value_and_grad(loss))
    update = jax.jit(optimizer.update)
    for _ in range(steps):
        value, gradient = step(params, data)
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(value))
    return params, state, np.array(losses)


# The inside of a model


@pytest.mark.parametrize(
    ("activation", "kind"), [(jax.nn.relu, "relu"), (jnp.tanh, "tanh"), (jax.nn.sigmoid, "logistic")]
)
def test_activations_of_a_network_are_seen(activation, kind):
    params, (x, y) = mlp((5, 7, 4, 3)), blobs()
    loss = cross_entropy(forward(activation))
    program, count = trace_model(loss, params, (x, y))
    found = run_model(program, count, params, (x, y))
    hidden = activation(x @ params[0]["w"] + params[0]["b"])
    assert float(found.output) == pytest.approx(float(loss(params, (x, y))), rel=1e-5)
    assert [found.activations[i].kind for i in sorted(found.hidden)] == [kind, kind]
    np.testing.assert_allclose(found.activations[0].value, hidden, rtol=1e-5)
    assert len(found.layers) == 3


@pytest.mark.parametrize("activation", [jax.nn.gelu, jax.nn.silu])
def test_a_gate_is_no_hidden_activation(activation):
    params, batch = mlp((5, 7, 3)), blobs()
    program, count = trace_model(cross_entropy(forward(activation)), params, batch)
    assert not run_model(program, count, params, batch).hidden


def test_a_gate_with_a_layer_of_its_own_is_hidden():
    """As in gated linear units and squeeze-and-excitation; shut gates are saturated."""
    params, batch = [*mlp((5, 7, 3)), *mlp((5, 7), seed=1)], blobs()

    def gated(p, x):
        gate = jax.nn.sigmoid(x @ p[2]["w"] + p[2]["b"])
        return (jax.nn.silu(x @ p[0]["w"]) * gate) @ p[1]["w"]

    program, count = trace_model(cross_entropy(gated), params, batch)
    found = run_model(program, count, params, batch)
    [hidden] = [found.activations[i] for i in found.hidden]
    np.testing.assert_allclose(hidden.value, jax.nn.sigmoid(batch[0] @ params[2]["w"]), rtol=1e-5)
    params[2]["b"] = params[2]["b"] - 40.0
    seen = activations.check(Experiments(cross_entropy(gated), params, batch))
    assert next(item for item in seen if getattr(item, "cause", "") == "saturation").number == 1.0


def saturated(loss, params, batch):
    found = [f for f in activations.check(Experiments(loss, params, batch)) if isinstance(f, Finding)]
    return [f.number for f in found if f.cause == "saturation"]


@pytest.mark.parametrize(("bias", "share"), [(7.0, 0.0), (-7.0, 1.0)])
def test_gates_of_a_recurrent_cell_are_saturated_where_they_are_shut(bias, share):
    """A cell that keeps what it holds is no trouble; the first turn multiplies zeros."""
    x = blobs()[0][:, :, None]
    kernels = [mlp((5, 4), seed=seed)[0]["w"] for seed in range(3)]

    def loss(p, batch):
        def turn(carry, column):
            out, cell = carry
            keep, new, show = (jnp.concatenate([column, out], axis=1) @ kernel for kernel in p)
            cell = jax.nn.sigmoid(keep + bias) * cell + jnp.tanh(new)
            return (jax.nn.sigmoid(show) * cell / 9, cell), None

        start = jnp.zeros((len(batch), 4))
        (out, _), _ = jax.lax.scan(turn, (start, start), jnp.swapaxes(batch, 0, 1))
        return jnp.mean((out @ p[0][:4]) ** 2)

    assert saturated(loss, kernels, x)[0] == pytest.approx(share, abs=0.2)


@pytest.mark.parametrize(("bias", "share"), [(0.0, 0.0), (7.0, 1.0), (-7.0, 1.0)])
def test_gates_that_mix_are_saturated_at_both_ends(bias, share):
    """Kept entirely, nothing is read; replaced entirely, nothing is kept."""
    x = blobs()[0][:, :, None]
    kernels = [mlp((5, 4), seed=seed)[0]["w"] for seed in range(2)]

    def loss(p, batch):
        def turn(out, column):
            keep, new = (jnp.concatenate([column, out], axis=1) @ kernel for kernel in p)
            keep = jax.nn.sigmoid(keep + bias)
            return keep * out + (1 - keep) * jnp.tanh(new) / 9, None

        out, _ = jax.lax.scan(turn, jnp.zeros((len(batch), 4)), jnp.swapaxes(batch, 0, 1))
        return jnp.mean((out @ p[0][:4]) ** 2)

    assert saturated(loss, kernels, x)[0] == pytest.approx(share, abs=0.2)


@pytest.mark.parametrize("squared", [False, True])
def test_outputs_of_a_cross_entropy_are_not_saturated(squared):
    """Rare events have small probabilities, and the logarithm undoes the flat end; a square does not."""
    params, (x, y) = mlp((5, 7, 1)), blobs()
    params[1]["b"] = params[1]["b"] - 20.0
    target = (y[:, None] == 0).astype(np.float32)

    def loss(p, batch):
        out = jax.nn.sigmoid(forward(jnp.tanh)(p, batch[0]))
        if squared:
            return jnp.mean((out - batch[1]) ** 2)
        return -jnp.mean(batch[1] * jnp.log(out + 1e-7) + (1 - batch[1]) * jnp.log(1 - out + 1e-7))

    assert (saturated(loss, params, (x, target))[0] == 1.0) == squared


def test_a_dead_last_layer_is_seen_through_targets_of_ones_and_zeros():
    params, (x, y) = mlp((5, 7, 3)), blobs()
    params[1]["b"] = params[1]["b"] - 50.0

    def loss(p, batch):
        return -jnp.mean(batch[1] * jax.nn.log_softmax(jnp.maximum(forward(jnp.tanh)(p, batch[0]), 0)))

    found = activations.check(Experiments(loss, params, (x, np.eye(3, dtype=np.float32)[y])))
    assert next(f for f in found if isinstance(f, Finding) and f.cause == "dead_units").number == 1.0


def test_checkpointed_layers_are_seen_and_loops_are_told():
    params, batch = mlp((5, 7, 7, 3)), blobs()
    plain = forward(jnp.tanh)

    def scanned(p, x):
        h, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x @ p[0]["w"], p[1]["w"][None])
        return h @ p[2]["w"]

    def looped(p, x):
        h = jax.lax.fori_loop(0, jnp.argmax(x[0]) + 1, lambda i, h: jnp.tanh(h @ p[1]["w"]), x @ p[0]["w"])
        return h @ p[2]["w"]

    for apply, hidden, loops in ((jax.checkpoint(plain), 2, False), (scanned, 1, False), (looped, 0, True)):
        program, count = trace_model(cross_entropy(apply), params, batch)
        found = run_model(program, count, params, batch)
        assert (len(found.hidden), found.loops) == (hidden, loops)
        assert float(found.output) == pytest.approx(float(cross_entropy(apply)(params, batch)), rel=1e-5)


def test_gradients_by_layer_are_those_of_the_biases():
    """With one sample, the gradient at a layer's output is the gradient of its bias."""
    params, (x, y) = mlp((5, 7, 6, 5, 3)), blobs()
    loss = cross_entropy(forward(jnp.tanh))
    one = (x[:1], y[:1])
    norms, loops = layer_gradients(loss, params, one)
    expected = [float(jnp.linalg.norm(layer["b"])) for layer in jax.grad(loss)(params, one)]
    np.testing.assert_allclose(norms, expected, rtol=1e-4)
    assert not loops


# Other models


def test_a_loss_is_recognised_and_its_trivial_value_known():
    params, (x, y) = mlp((5, 7, 3)), blobs()
    apply = forward(jnp.tanh)
    out = np.asarray(apply(params, x))
    task = baselines.recognise_task(out, y, float(cross_entropy(apply)(params, (x, y))))
    assert task.kind == "cross_entropy"
    assert baselines.constant_predictor_loss(task) == pytest.approx(math.log(3))
    squared = float(np.mean((out - np.eye(3)[y]) ** 2))
    task = baselines.recognise_task(out, np.eye(3)[y], squared)
    assert (task.kind, task.factor) == ("squared_error", pytest.approx(2 / 3))
    assert baselines.constant_predictor_loss(task) == pytest.approx(np.mean(np.var(np.eye(3)[y], axis=0)))
    assert baselines.recognise_task(out, y, 17.0) is None


def test_a_linear_baseline_is_at_its_minimum():
    x, y = blobs()
    rows = Features(x, np.random.default_rng(0))(x)
    task = baselines.Task("cross_entropy", 1.0, y.astype(np.int64), 3)
    weights, reached = baselines.fit(rows, task, decay=0.1)
    value = jax.jit(lambda w: cross_entropy(lambda p, r: r @ p)(w, (rows, y)) + 0.05 * jnp.sum(w**2))
    assert float(jnp.max(jnp.abs(jax.grad(value)(jnp.asarray(weights, jnp.float32))))) < 1e-3
    assert reached == pytest.approx(float(cross_entropy(lambda p, r: r @ p)(weights, (rows, y))), rel=1e-4)


def test_area_under_the_curve_by_counting_pairs():
    rng = np.random.default_rng(0)
    labels, score = rng.integers(0, 2, 60), np.round(rng.standard_normal(60), 1)
    area, error = area_under_curve(score + 0.5 * labels, labels)
    s = score + 0.5 * labels
    pairs = s[labels == 1][:, None] - s[labels == 0][None]
    assert area == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
    assert 0.03 < error < 0.12


@pytest.mark.parametrize("change", ["none", "mean", "spread"])
def test_two_sets_are_told_apart_by_mean_and_by_spread(change):
    rng = np.random.default_rng(3)
    first, second = rng.standard_normal((2, 150, 6)).astype(np.float32)
    second = {"none": second, "mean": second + 1, "spread": 2.5 * second}[change]
    area, error = two_sample_area(join_batches(first), join_batches(second))
    assert (area > 0.9) == (change != "none")
    assert change != "none" or abs(area - 0.5) < 3 * error


# Noise and valleys


def test_noise_scale_from_single_gradients():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((320, 4)).astype(np.float32), rng.standard_normal(320).astype(np.float32)

    def loss(w, batch):
        return 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2)

    w = jnp.ones(4, jnp.float32)
    scale, low, high = noise_scale(Experiments(loss, w, (x, y)))
    each = x * (x @ np.ones(4) - y)[:, None]
    trace = np.trace(np.cov(each.T))
    signal = np.sum(each.mean(0) ** 2) - trace / 320
    assert scale == pytest.approx(trace / signal, rel=1e-3)
    assert low < scale < high


@pytest.mark.slow
def test_steps_on_small_batches_at_a_high_rate_are_mostly_noise():
    """Linear regression with independent noise: what is left above the optimum is made by the steps."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((256, 8)).astype(np.float32)
    y = (x @ np.ones(8) + 6 * rng.standard_normal(256)).astype(np.float32)
    batches = [(x[i : i + 4], y[i : i + 4]) for i in range(0, 256, 4)]

    def loss(w, batch):
        return 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2)

    w, optimizer, losses = jnp.zeros(8, jnp.float32), optax.sgd(0.15), []
    step = jax.jit(jax.value_and_grad(loss))
    for i in range(256):
        value, gradient = step(w, batches[i % 64])
        w, losses = w - 0.15 * gradient, [*losses, value]
    state = optimizer.init(w)
    history = {"loss": np.asarray(losses)}
    found = hp.diagnose(loss, w, batches, history=history, optimizer=optimizer, opt_state=state)
    assert causes(found)[0] in ("noise", "oscillation")
    noise = next(finding for finding in found.findings if finding.cause == "noise")
    assert noise.number > 1
    assert "noise scale" in str(found)


def test_a_valley_is_measured_as_conjugate_gradients_see_it():
    eigenvalues = np.geomspace(1e-3, 1.0, 8)

    def loss(x):
        return 0.5 * jnp.sum(jnp.asarray(eigenvalues, x.dtype) * x**2) + 1.0

    x = jnp.ones(8)
    here = Experiments(loss, x)
    found = gradient_krylov_model(here)
    assert (here.cost.num_hvps, here.cost.num_gradients) == (8, 1), (
        "the operator's ledger is part of the case's"
    )
    assert found.krylov == pytest.approx(0.5 * eigenvalues.sum(), rel=1e-3)
    left = eigenvalues * (1 - eigenvalues) ** (2 * PRODUCTS)
    assert found.plain == pytest.approx(0.5 * (eigenvalues - left).sum(), rel=1e-3)


# Whole diagnoses


@cache
def without_data():
    return hp.diagnose(bowl, jnp.ones(3))


def causes(found):
    return [finding.cause for finding in found.findings]


@pytest.mark.slow
def test_a_network_that_learned_is_healthy():
    data, unseen = blobs(90), blobs(90, seed=2)
    apply = forward(jnp.tanh)
    loss, optimizer = cross_entropy(apply), optax.adam(1e-2)
    params, state, losses = train(loss, mlp((5, 8, 3)), data, optimizer, 300)
    found = hp.diagnose(
        loss,
        params,
        data,
        test_data=unseen,
        history={"loss": losses},
        optimizer=optimizer,
        opt_state=state,
        apply=apply,
    )
    assert causes(found) == ["healthy"]
    assert found.findings[0].confidence > 0.6
    assert ("noise",) in [item.causes for item in found.not_checked]


@pytest.mark.slow
def test_dead_units_are_named_first():
    data = blobs()
    apply = forward(jax.nn.relu)
    params = mlp((5, 8, 3))
    params[0]["b"] = params[0]["b"] - 50.0
    found = hp.diagnose(cross_entropy(apply), params, data, apply=apply)
    assert causes(found)[0] == "dead_units"
    assert found.findings[0].number == 1.0
    assert "model_bias" not in causes(found)


@pytest.mark.slow
def test_a_saddle_is_named_and_priced():
    data = blobs()
    apply = forward(jnp.tanh)
    params = jax.tree.map(lambda leaf: 1e-3 * leaf, mlp((5, 8, 3)))
    found = hp.diagnose(cross_entropy(apply), params, data, apply=apply)
    first = found.findings[0]
    assert first.cause == "saddle"
    move = hp.escape(cross_entropy(apply), params, data)
    assert first.number == pytest.approx(1 - move.loss_after / move.loss_before, rel=1e-3)


@pytest.mark.one_precision
def test_a_loss_that_is_not_finite_is_divergence_and_nothing_else():
    apply = forward(jnp.tanh)
    params = jax.tree.map(lambda leaf: leaf * jnp.nan, mlp((5, 8, 3)))
    found = hp.diagnose(cross_entropy(apply), params, blobs())
    assert causes(found) == ["divergence"]
    assert found.not_checked[-1].causes == ()
    assert found.findings[0].reason == "not_finite"


@pytest.mark.one_precision
def test_without_data_what_is_missing_is_told():
    found = without_data()
    missing = {cause for item in found.not_checked for cause in item.causes}
    assert {"overfitting", "noise", "model_bias", "dead_units", "divergence", "input_scale"} <= missing


@pytest.mark.one_precision
def test_noisy_batch_losses_do_not_run_away_and_a_blow_up_does():
    rng = np.random.default_rng(0)
    steady = 2.3 * np.exp(0.5 * rng.standard_normal(300))
    blown = np.concatenate([np.geomspace(2.3, 1.0, 100), np.full(100, 400.0), np.full(100, 2.3)])
    for losses, expected in ((steady, False), (blown, True), (np.geomspace(2.3, 0.1, 300), False)):
        found = divergence.check(Experiments(bowl, jnp.ones(3), history={"loss": losses}))
        assert (found[0].confidence > 0.5) == expected


@pytest.mark.one_precision
def test_where_little_could_be_checked_healthy_is_not_sure():
    found = hp.diagnose(lambda p: -jnp.sum(p), jnp.ones(3))
    assert causes(found) == ["nothing_found"]
    assert found.findings[0].code == "little_checked"
    assert found.findings[0].confidence < 0.5
    assert "pass data, optimizer and opt_state" in found.findings[0].experiment
    gains = {"oscillation", "slow", "saddle", "optimization"}
    assert any(gains <= set(item.causes) for item in found.not_checked)


@pytest.mark.one_precision
def test_a_diagnosis_prints_and_exports():
    found = hp.diagnose(lambda p: -jnp.sum(p), jnp.ones(3))
    text = repr(found)
    assert "LITTLE CHECKED" in text
    assert "not checked" in text
    assert found.findings[0].cause in found._repr_html_()
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["findings"][0]["cause"] == found.findings[0].cause
    assert {f.cause for f in found.findings} <= set(CAUSES)


@pytest.mark.one_precision
@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({"apply": 3}, TypeError, "apply must be"),
        ({"optimizer": optax.sgd(0.1)}, ValueError, "opt_state is missing"),
        ({"test_data": (np.ones((3, 5), np.float32),)}, ValueError, "without data"),
        ({"history": {"lost": [1.0]}}, ValueError, "unknown entries"),
        ({"history": {"loss": [1.0], "grad_norm": [1.0, 2.0]}}, ValueError, "equal lengths"),
        ({"history": [1.0]}, TypeError, "must map names"),
        ({"history": {"loss": []}}, ValueError, "empty"),
    ],
)
def test_bad_input_is_refused(more, error, said):
    with pytest.raises(error, match=said):
        hp.diagnose(lambda p: jnp.sum(p**2), jnp.ones(3), **more)


@pytest.mark.one_precision
def test_an_optimizer_that_needs_more_is_not_checked():
    optimizer = optax.lbfgs()
    params = jnp.ones(3)
    found = hp.diagnose(
        lambda p, b: jnp.mean((b @ p) ** 2) + 1.0,
        params,
        np.eye(3, dtype=np.float32),
        optimizer=optimizer,
        opt_state=optimizer.init(params),
    )
    needs = {item.causes: item.needs for item in found.not_checked}
    assert "TypeError" in needs["oscillation", "slow", "noise"]


@pytest.mark.one_precision
def test_leaves_that_are_no_arrays_are_refused():
    with pytest.raises(TypeError, match=r"params\['act'\] is a .*eqx.partition"):
        hp.diagnose(lambda p: jnp.sum(p["w"] ** 2), {"w": jnp.ones(3), "act": jnp.tanh})


@pytest.mark.one_precision
def test_batches_are_joined_and_pairs_and_dicts_read():
    x, y = blobs()
    pair = join_batches([(x[:40], y[:40]), (x[40:], y[40:])])
    named = join_batches({"image": x, "label": y})
    assert (pair.size, pair.batch_size, named.batch_size) == (60, 30, None)
    np.testing.assert_array_equal(pair.inputs, named.inputs)
    np.testing.assert_array_equal(pair.targets, named.targets)
    assert join_batches({"a": x, "b": np.float32(1.0)}) is None


@pytest.mark.one_precision
def test_a_finding_states_number_threshold_and_source():
    found = without_data()
    for finding in found.findings:
        texts = (finding.claim, finding.quantity, finding.source, finding.experiment, finding.cost)
        assert all((*texts, finding.reason, finding.remedy))


@pytest.mark.one_precision
def test_the_program_diagnoses_what_a_function_returns(tmp_path, capsys):
    file = tmp_path / "stuck.py"
    file.write_text(
        "import jax.numpy as jnp\n"
        "def loses():\n"
        "    past = {'loss': [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 9.0, 9.0, 9.0, 9.0]}\n"
        "    return {'loss': lambda p: jnp.sum(p**2), 'params': jnp.ones(2), 'history': past}\n"
        "def wrong():\n"
        "    return {'loss': lambda p: jnp.sum(p**2), 'params': jnp.ones(2), 'train': 1}\n"
    )
    assert main(["diagnose", f"{file}:loses", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    found = plain["sections"]["diagnosis"]["results"]["diagnosis"]["findings"]
    assert found[0]["cause"] == "divergence"
    assert main(["diagnose", f"{file}:wrong"]) == 2
    assert "expected a dict with loss, params" in capsys.readouterr().err


@pytest.mark.one_precision
def test_few_samples_are_told_apart_by_chance() -> None:
    """The deviation of the area under no difference, against draws."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    areas = [area_under_curve(rng.standard_normal(100), labels)[0] for _ in range(2000)]
    assert np.std(areas) == pytest.approx(chance_spread(50), rel=0.05)


@pytest.mark.one_precision
def test_a_loss_that_blows_up_in_one_step_has_run_away() -> None:
    """The first step throws the loss up a thousandfold; later it falls, and is still far above its start."""
    history = {"loss": np.r_[1.0, 3e3 * 0.99 ** np.arange(199)]}
    found = hp.diagnose(lambda x: jnp.sum(x**2) + 1.0, jnp.ones(2), history=history)
    assert found.findings[0].cause == "divergence"
    assert found.findings[0].reason == "first_step"


def test_an_output_at_the_flat_end_of_a_sigmoid_is_saturated() -> None:
    """Squared error of a sigmoid at the output; no layer reads it."""

    def loss(params: dict[str, jax.Array], batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jnp.mean((jax.nn.sigmoid(batch[0] @ params["w"] + params["b"]) - batch[1]) ** 2)

    rng = np.random.default_rng(0)
    train = (rng.standard_normal((64, 3)), np.zeros((64, 1)))
    for bias, flat in ((0.0, False), (20.0, True)):
        params = {"w": jnp.asarray(0.1 * rng.standard_normal((3, 1))), "b": jnp.full(1, bias)}
        assert saturated(loss, params, train) == [float(flat)]
