"""Causes that a cure or a reference must set apart: each with a twin that differs in the cause alone."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.diagnosis import baselines
from hessian_probe.diagnosis.checks import (
    activations,
    conditioning,
    generalisation,
    gradient_flow,
    inputs,
    learning_rate,
    outputs,
    underfitting,
)
from hessian_probe.diagnosis.confidence import Sign
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.diagnosis.features import standardise
from hessian_probe.diagnosis.ranking import rank
from hessian_probe.diagnosis.reference_models import jacobian_rank, observed_range
from hessian_probe.diagnosis.result import Finding
from hessian_probe.optimizers.trial_runs import AdamRunner
from hessian_probe.results import Cost

optax = pytest.importorskip("optax")
pytestmark = [pytest.mark.any_promotion, pytest.mark.float32]


def case(loss, params, train, *, apply=None, optimizer=None):
    state = None if optimizer is None else optimizer.init(params)
    return Experiments(loss, params, train, optimizer=optimizer, opt_state=state, apply=apply)


def told(check, seen):
    return [item for item in check(seen) if isinstance(item, Finding)]


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# Inputs


def test_standardised_inputs_have_columns_of_one_size():
    table = 100 + normal(0, 50, 3) * np.float32([1, 10, 0])
    found = standardise(table)
    np.testing.assert_allclose(found[:, :2].mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(found[:, :2].std(axis=0), 1, rtol=1e-3)
    assert not found[:, 2].any()
    images = standardise(100 + normal(1, 20, 4, 4))
    assert images.shape == (20, 4, 4)
    assert images.dtype == np.float32
    assert abs(images.std() - 1) < 1e-3


def test_a_scale_hinders_where_standardised_inputs_train():
    """Waves over metres of a survey's grid, 10 km from its origin: no training on them learns anything."""
    places = np.linspace(0, 630, 200, dtype=np.float32)[:, None]
    batch = (10_000 + places, np.sin(places / 60))
    params = {"w": jnp.asarray(normal(0, 1, 8)), "b": jnp.zeros(8), "v": jnp.zeros((8, 1))}
    params["c"] = jnp.asarray(batch[1].mean())

    def apply(p, x):
        return jnp.tanh(x @ p["w"] + p["b"]) @ p["v"] + p["c"]

    def loss(p, batch):
        return jnp.mean((apply(p, batch[0]) - batch[1]) ** 2)

    seen = case(loss, params, batch, apply=apply)
    assert min(seen.adam_from_here, seen.adam_from_reinit) > 0.99 * seen.value
    assert seen.adam_on_standardised < 0.5 * seen.value
    assert [f.cause for f in rank(seen, told(inputs.check, seen), [])] == ["input_scale"]


# Layers


@pytest.mark.one_precision
def test_what_is_beside_the_way_of_the_gradient_does_not_count():
    chain = [1e-9, 1e-7, 1e-5, 1e-3, 0.1]
    branches = [1e-9, 1e-7, 0.0, 1e-12, 1e-5, 1e-3, 0.0, 0.1]
    assert gradient_flow.off_path(chain) == [False] * 5
    assert gradient_flow.off_path(branches) == [n in (0.0, 1e-12) for n in branches]
    assert not any(gradient_flow.off_path([0.0, 0.0, 1e-30, 1e-8, 1.0]))


@pytest.mark.parametrize("skip", [False, True])
def test_a_gradient_that_vanishes_past_attention_is_told(skip):
    """Between two branches that get nothing, the way itself loses the gradient; skips keep it."""
    width = 8
    names = ("q", "k", "v", "o", "up", "down")

    def matrix(seed):
        return jnp.asarray(0.05 * normal(seed, width, width))

    params = [{name: matrix(6 * block + i) for i, name in enumerate(names)} for block in range(4)]
    head = jnp.asarray(normal(90, width, 1))
    x = normal(91, 60, 5, width)

    def apply(p, x):
        for block in p["blocks"]:
            scores = (x @ block["q"]) @ jnp.swapaxes(x @ block["k"], -1, -2)
            mixed = jax.nn.softmax(scores) @ (x @ block["v"]) @ block["o"]
            x = x + mixed if skip else mixed
            inner = jnp.tanh(x @ block["up"]) @ block["down"]
            x = x + inner if skip else inner
        return x.mean(axis=1) @ p["head"]

    def loss(p, batch):
        return jnp.mean((apply(p, batch[0]) - batch[1]) ** 2)

    seen = case(loss, {"blocks": params, "head": head}, (x, x[:, 0, :1]), apply=apply)
    found = {f.cause: f.confidence for f in told(gradient_flow.check, seen)}
    assert (found["vanishing_gradients"] > 0.9) == (not skip)


# Units


def mixture(p, x):
    weights = jax.nn.softmax(x @ p["router"] + p["bias"])
    asked = jax.nn.one_hot(jnp.argmax(weights, axis=1), 8) * weights
    hidden = jax.nn.relu(jnp.einsum("ni,eij->nej", x, p["up"]))
    return jnp.einsum("ne,nej,ejk->nk", asked, hidden, p["down"])


def mixture_loss(p, batch):
    return jnp.mean((mixture(p, batch[0]) - batch[1]) ** 2)


@pytest.mark.parametrize("bias", [0.0, 30.0])
@pytest.mark.slow
def test_experts_that_nothing_is_sent_to_are_dead(bias):
    """Eight experts; a router that prefers one by far sends all samples to it."""
    x = normal(0, 200, 6)
    params = {
        "router": jnp.asarray(normal(1, 6, 8)),
        "bias": jnp.zeros(8).at[3].set(bias),
        "up": jnp.asarray(normal(2, 8, 6, 4)),
        "down": jnp.asarray(normal(3, 8, 4, 1)),
    }
    seen = case(mixture_loss, params, (x, np.abs(x[:, :1])), apply=mixture)
    found = [f for f in told(activations.check, seen) if f.reason == "blocks_without_gradient"]
    assert [f.cause for f in found] == ["dead_units"] * bool(bias)
    if bias:
        assert seen.blocks_without_gradient[1:] == (7, 8)
        assert rank(seen, found, [])[0].cause == "dead_units"


def test_images_with_blank_pixels_have_no_dead_blocks():
    """Rows of a matrix at inputs that are always zero get no gradient, and nothing is wrong with it."""
    x = normal(0, 50, 10) * (np.arange(10) < 2)
    seen = case(
        lambda p, batch: jnp.mean((batch[0] @ p["w"] - 1) ** 2), {"w": jnp.ones((10, 1))}, (x, x[:, :1])
    )
    assert seen.blocks_without_gradient is None
    assert told(activations.check, seen) == []


# Valleys


@pytest.mark.parametrize("condition", [1.0, 1e4])
def test_a_valley_must_hold_up_plain_steps_too(condition):
    """An optimiser that keeps the parameters in a small box says nothing about the surface."""
    scales = np.geomspace(1, 1 / np.sqrt(condition), 6, dtype=np.float32)
    x = normal(0, 300, 6)
    x = (x / x.std(axis=0)) * scales
    batch = (x, x @ (1 / scales)[:, None])

    def update(gradient, state, params):
        return jnp.clip(params - 0.1 * gradient, -0.01, 0.01) - params, state

    boxed = optax.GradientTransformation(lambda params: (), update)

    def loss(p, batch):
        return jnp.mean((batch[0] @ p - batch[1]) ** 2)

    seen = case(loss, jnp.zeros((6, 1)), batch, optimizer=boxed)
    assert max(trial.gain for trial in seen.trials.values()) < 0.5
    (found,) = told(conditioning.check, seen)
    assert (found.confidence > 0.5) == (condition > 1)


# Order


@cache
def noisy_points():
    """A model fitted to 0.7 of twelve noisy targets, and forty test points."""
    x = np.linspace(-1, 1, 12, dtype=np.float32)[:, None]
    y = np.sin(3 * x) + 0.8 * normal(4, 12, 1)
    unseen = np.linspace(-0.95, 0.95, 40, dtype=np.float32)[:, None]
    test = (unseen, np.sin(3 * unseen) + 0.8 * normal(5, 40, 1))

    def apply(p, x):
        return jnp.tanh(x @ p["w"] + p["b"]) @ p["v"]

    def loss(p, batch):
        return jnp.mean((apply(p, batch[0]) - batch[1]) ** 2)

    params = {"w": 8 * jnp.asarray(normal(6, 1, 200)), "b": 8 * jnp.asarray(normal(7, 200))}
    hidden = np.asarray(jnp.tanh(x @ params["w"] + params["b"]))
    fitted = np.linalg.lstsq(hidden, 0.7 * y, rcond=None)[0]
    params["v"] = jnp.asarray(fitted, jnp.float32)
    return Experiments(loss, params, (x, y), test_data=test, apply=apply)


@pytest.mark.parametrize(("sure", "kept"), [(0.95, True), (0.8, False)])
def test_strong_findings_about_steps_come_after_overfitting(sure, kept):
    """Training has converged for the test data, and still the steps are too long."""
    seen = noisy_points()
    assert 0.05 * seen.constant_predictor_loss < seen.value < 0.2 * seen.constant_predictor_loss
    found = [a_finding("oscillation", confidence=sure), a_finding("overfitting", confidence=0.95)]
    assert [f.cause for f in rank(seen, found, [])] == ["overfitting", "oscillation"][: 1 + kept]


# What a model's outputs can be


@pytest.mark.parametrize(
    ("last", "wanted"),
    [
        (jnp.tanh, (-1, 1)),
        (jax.nn.sigmoid, (0, 1)),
        (jax.nn.softmax, (0, 1)),
        (jax.nn.relu, (0, np.inf)),
        (jax.nn.elu, (-np.inf, np.inf)),
        (lambda out: jnp.sum(jnp.abs(out), axis=-1, keepdims=True) - 1.0, (-np.inf, np.inf)),
        (lambda out: out, (-np.inf, np.inf)),
        (lambda out: 1e-6 * out, (-np.inf, np.inf)),
        (lambda out: 1e-6 * jnp.tanh(out), (-np.inf, np.inf)),
        (lambda out: jnp.tanh(out) * 3.0, (-np.inf, np.inf)),
    ],
)
def test_outputs_behind_a_squashing_function_keep_within_limits(last, wanted):
    params = {"w": jnp.zeros((4, 3)), "b": jnp.zeros(3)}
    found = observed_range(lambda p, x: last(x @ p["w"] + p["b"]), params, normal(0, 30, 4))
    assert found == wanted


def test_limits_are_no_accident_of_one_draw():
    """One output behind rectifiers has one sign at each draw; normalised weights grow with the inputs."""
    x = np.abs(normal(0, 40, 1))
    params = {"w": jnp.ones((1, 8)), "v": jnp.ones((8, 1))}

    def one_sided(p, inputs):
        return jnp.tanh(jax.nn.relu(inputs @ p["w"]) @ p["v"])

    assert observed_range(one_sided, params, x) == (-1, 1)
    unit = {"w": jnp.ones((4, 1))}
    assert (
        observed_range(lambda p, x: x @ (p["w"] / jnp.linalg.norm(p["w"])), unit, 0.2 * normal(0, 40, 4))[1]
        == np.inf
    )
    broken = observed_range(lambda p, x: np.asarray(x @ p["w"]), unit, normal(0, 40, 4))
    assert broken == (-np.inf, np.inf), "an apply that cannot be compiled tells nothing"


def test_a_narrow_layer_lets_few_directions_through():
    params = {"w": jnp.asarray(normal(0, 6, 2)), "v": jnp.asarray(normal(1, 2, 5))}
    assert jacobian_rank(lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"], params, normal(2, 20, 6)) == 2
    assert jacobian_rank(lambda p, x: x @ p["v"], params, np.zeros((20, 2), int)) == np.inf


@pytest.mark.slow
@pytest.mark.parametrize("twice", [True, False])
def test_a_softmax_before_a_loss_of_logits_is_a_fault_of_the_program(twice):
    """Outputs between 0 and 1 as logits: of three classes no loss is below log(1 + 2 / e) = 0.5514."""
    x = normal(0, 90, 4)
    batch = (x, np.argmax(x[:, :3], axis=1))
    params = {"w": jnp.eye(4, 3) * 9.0, "b": jnp.zeros(3)}

    def apply(p, inputs):
        out = inputs @ p["w"] + p["b"]
        return jax.nn.softmax(out) if twice else out

    def loss(p, batch):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(apply(p, batch[0]), batch[1]))

    seen = case(loss, params, batch, apply=apply)
    assert seen.loss_floor == pytest.approx(np.log(1 + 2 / np.e) if twice else 0.0)
    found = told(outputs.check, seen)
    assert [(f.code, f.remedy) for f in found] == [("bounded_logits", "remove_last_activation")] * twice
    sure = {f.cause: f for f in underfitting.check(seen) if isinstance(f, Finding)}
    assert sure["optimization"].confidence < 0.2 or not twice
    ranked = rank(seen, [*found, *told(underfitting.check, seen)], [])
    assert ranked[0].cause == ("program" if twice else "healthy")


def test_units_without_any_input_are_no_dead_ones():
    """Weights of zero hold each other; a bias far below zero keeps units from answering."""
    x = normal(0, 50, 4)
    batch = (x, x[:, :1])
    for bias, dead in ((0.0, 0.0), (-50.0, 1.0)):
        params = {"w": jnp.zeros((4, 6)), "b": jnp.full(6, bias), "v": jnp.zeros((6, 1))}

        def loss(p, batch):
            return jnp.mean((jax.nn.relu(batch[0] @ p["w"] + p["b"]) @ p["v"] - batch[1]) ** 2)

        assert [f.number for f in told(activations.check, case(loss, params, batch))] == [dead]


# Steps that are too short


def test_a_rate_that_needs_five_times_the_steps_is_slow():
    """Adam crosses 100 units at 0.3 a step, also in the beginning, where it gains most of its loss."""
    x = np.ones((16, 1), np.float32)
    batch = (x, np.full((16, 1), 100, np.float32))

    def loss(p, batch):
        return jnp.mean((batch[0] @ p - batch[1]) ** 2)

    for rate, too_slow in ((0.3, True), (2.0, False)):
        seen = case(loss, jnp.zeros((1, 1)), batch, optimizer=optax.adam(rate))
        finding = told(learning_rate.check, seen)[0]
        assert (finding.confidence > 0.5) == too_slow, finding


@pytest.mark.slow
@pytest.mark.parametrize("warm_up", [True, False])
def test_a_rate_that_rises_by_itself_is_said_to(warm_up):
    """A small part of the rate that a warm-up over 500 steps ends with, and the same without one."""
    x = normal(0, 40, 4)
    batch = (x, x @ np.ones((4, 1), np.float32))
    rate = optax.linear_schedule(1e-4, 0.3, 500) if warm_up else 1e-4

    def loss(p, batch):
        return jnp.mean((batch[0] @ p - batch[1]) ** 2)

    finding = told(learning_rate.check, case(loss, jnp.zeros((4, 1)), batch, optimizer=optax.sgd(rate)))[0]
    assert (finding.confidence > 0.85) != warm_up
    assert finding.remedy == "multiply_rate"
    assert finding.factor > 1


# What matters


class Stub:
    """Numbers of a case as the ranking reads them."""

    samples, given_data, test_samples, trials = "train", "train", "test", {}
    blocks_without_gradient, limited_by_decay = None, False
    value, constant_predictor_loss, best_seen, random_feature_loss = 1.0, 2.0, 0.1, 2.0
    task = baselines.Task("squared_error", 1.0, np.zeros((1, 1)), 1)
    adam_from_here, adam_from_reinit, adam_on_standardised = 0.2, 0.1, float("nan")
    test_losses, test_sign_score = (1.0, 1.0), 0.0

    def __init__(self, **numbers):
        self.__dict__.update(numbers, measured={})


def a_finding(cause, number=1.0, confidence=0.99):
    return Finding(cause, "", "", "", number, number, number, 1.0, "", confidence, "", "", "")


@pytest.mark.one_precision
@pytest.mark.parametrize(
    ("adam", "share", "kept"), [(0.15, 0.7, False), (0.5, 0.7, True), (0.15, 0.95, True)]
)
def test_flat_units_that_do_not_keep_adam_from_here_back_are_not_told(adam, share, kept):
    """Weights drawn anew gain 0.9; from here Adam gains nearly all of that, or half of it."""
    found = [a_finding("saturation", share), a_finding("noise")]
    told = [f.cause for f in rank(Stub(adam_from_here=adam), found, [])]
    assert told == (["saturation", "noise"] if kept else ["noise"])


@pytest.mark.one_precision
def test_flat_units_are_told_where_nothing_was_learnt_and_nothing_learns():
    seen = Stub(value=1.95, adam_from_here=1.94, adam_from_reinit=1.96)
    assert rank(seen, [a_finding("saturation", 0.7)], [])[0].cause == "saturation"


@pytest.mark.one_precision
@pytest.mark.parametrize(
    ("there", "gain", "told"),
    [(0.002, 8.0, True), (0.002, 2.0, False), (0.006, 8.0, False)],
)
def test_a_small_loss_can_be_lower_where_that_is_seen_on_test_samples(there, gain, told):
    """Half a percent of the loss without inputs: it counts only where the test loss halves beyond doubt."""
    seen = Stub(value=0.01, best_seen=0.002, test_losses=(0.01, there), test_sign_score=gain)
    assert (rank(seen, [a_finding("ill_conditioned")], [])[0].cause == "ill_conditioned") == told


@pytest.mark.parametrize(
    ("sures", "told"), [((0.7, 0.0), "overfitting"), ((0.7, 0.6), "mismatch"), ((0.95, 0.0), "mismatch")]
)
def test_a_weak_sign_of_other_data_is_held_against_another_model(sures, told, monkeypatch):
    """Noise learnt by heart: the test loss is large, and the two ways to tell data apart may not agree."""
    ways = {"_input_classifier": sures[0], "_reference_model_gap": sures[1]}
    for name, sure in ways.items():
        kind = Sign(name, sure, "", 1.0, 0.1, 0.5, "")
        monkeypatch.setattr(generalisation, name, lambda *_, kind=kind: kind)
    train, test = ((normal(seed, 60, 2), normal(seed + 10, 60, 1)) for seed in (0, 1))

    def loss(p, batch):  # remembers the training inputs
        apart = jnp.sum((batch[0][:, None] - p["x"]) ** 2, axis=-1)
        known = jnp.min(apart, axis=1, keepdims=True) < 1e-6
        return jnp.mean(jnp.where(known, p["w"], (p["w"] - batch[1]) ** 2))

    seen = Experiments(loss, {"x": train[0], "w": jnp.zeros(1)}, train, test_data=test)
    found = [f for f in generalisation.check(seen) if isinstance(f, Finding) and f.confidence > 0.5]
    assert [f.cause for f in found] == [told]


@pytest.mark.one_precision
def test_units_at_a_loss_of_zero_do_not_hinder():
    seen = Stub(value=0.0, adam_from_reinit=0.0, adam_from_here=0.0, constant_predictor_loss=float("nan"))
    assert rank(seen, [a_finding("dead_units", 0.8)], [])[0].cause == "healthy"


def test_a_loss_whose_floor_is_not_known_proves_no_small_model():
    """Labels smoothed by 0.1: the loss stops at their entropy, with every sample right."""
    x, y = normal(0, 60, 4), np.arange(60) % 3
    smooth = np.eye(3, dtype=np.float32)[y] * 0.9 + np.float32(0.1 / 3)
    params = {"w": jnp.asarray(normal(1, 4, 64)), "v": jnp.zeros((64, 3))}

    def loss(p, batch):
        log = jax.nn.log_softmax(jax.nn.relu(batch[0] @ p["w"]) @ p["v"])
        return -jnp.mean(jnp.sum(batch[1] * log, axis=-1))

    best, end = AdamRunner(loss, 1500, Cost()).best(params, (x, smooth))
    assert best < 0.4
    told = [f for f in underfitting.check(case(loss, end, (x, smooth))) if isinstance(f, Finding)]
    assert all(f.confidence < 0.3 for f in told), told


def test_numbers_that_are_none_in_the_data_are_told_as_such():
    x = normal(0, 30, 4)
    x[3, 2] = np.nan
    found = hp.diagnose(
        lambda p, batch: jnp.mean((batch[0] @ p - batch[1]) ** 2), jnp.zeros((4, 1)), (x, x[:, :1])
    )
    assert (found.findings[0].reason, found.findings[0].number) == ("data_not_finite", 1.0)
    assert [f.cause for f in found.findings] == ["divergence"]


def without_last_column(p, inputs):
    return jax.nn.relu(inputs.at[:, 5].set(0.0) @ p["w"]) @ p["v"]


def squared_error(p, batch):
    return jnp.mean((without_last_column(p, batch[0]) - batch[1]) ** 2)


@cache
def memorised():
    """Training samples with noisy labels, and parameters that fit them all."""
    x, noise = normal(0, 120, 6), normal(5, 120, 1)
    batch = (x, np.sign(x[:, :1] + 0.5 * noise))
    params = {"w": jnp.asarray(normal(2, 6, 64)), "v": jnp.zeros((64, 1))}
    params["w"] = params["w"].at[5].set(0.0)
    best, end = AdamRunner(squared_error, 1500, Cost()).best(params, batch)
    assert best < 0.02
    return batch, end


@pytest.mark.parametrize("harmful", [False, True])
@pytest.mark.slow
def test_another_kind_of_inputs_is_the_cause_only_where_it_costs_this_model(harmful):
    """Samples learnt by heart; test inputs differ in a column that says nothing, or in one that does."""
    batch, end = memorised()
    u, other = normal(1, 120, 6), normal(6, 120, 1)
    v = np.sign(u[:, :1] + 0.5 * other)
    if harmful:
        u[:, 0] = -4 - u[:, 0]
    else:
        u[:, 5] += 4
    seen = Experiments(squared_error, end, batch, test_data=(u, v), apply=without_last_column)
    sure = {f.cause: f.confidence for f in generalisation.check(seen) if isinstance(f, Finding)}
    assert max(sure, key=sure.get) == ("mismatch" if harmful else "overfitting"), sure


@pytest.mark.slow
def test_a_loss_over_a_whole_graph_is_diagnosed_as_far_as_that_goes():
    """Neighbours are averaged by a matrix that is fixed: no part of the nodes can be taken alone."""
    x = normal(0, 40, 3)
    near = np.eye(40, dtype=np.float32) + np.roll(np.eye(40, dtype=np.float32), 1, axis=0)

    def loss(p, batch):
        return jnp.mean((near @ batch[0] @ p - batch[1]) ** 2)

    optimizer, params = optax.sgd(0.01), jnp.zeros((3, 1))
    found = hp.diagnose(loss, params, (x, x[:, :1]), optimizer=optimizer, opt_state=optimizer.init(params))
    assert any("samples along axis 0" in item.needs for item in found.not_checked)
    with pytest.raises(ValueError, match="apply must return the outputs alone, as one array; got tuple"):
        hp.diagnose(
            lambda p, batch: jnp.mean((batch[0] @ p - batch[1]) ** 2),
            params,
            (x, x[:, :1]),
            apply=lambda p, inputs: (inputs @ p, None),
        )
