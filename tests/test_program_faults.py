"""Faults of the program: each beside its twin, the same program without the fault."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.diagnosis.checks import divergence, lookups, loop, mixing, outputs
from hessian_probe.diagnosis.experiments import Experiments

optax = pytest.importorskip("optax")
pytestmark = [pytest.mark.any_promotion, pytest.mark.one_precision]
N, CLASSES, WORDS = 24, 3, 20
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, 4)).astype(np.float32)
LABELS = RNG.integers(0, CLASSES, N).astype(np.int32)
ONE_HOT = np.eye(CLASSES, dtype=np.float32)[LABELS]
TOKENS = RNG.integers(0, WORDS, (N, 5)).astype(np.int32)
SERIES = RNG.standard_normal((N, 5, 4)).astype(np.float32)


def weights(*shape):
    """The same whatever tests ran before."""
    return jnp.asarray(np.random.default_rng(shape).standard_normal(shape) / 2, jnp.float32)


PARAMS = {
    "table": weights(WORDS, 4),
    "a": weights(4, 4),
    "out": weights(4, CLASSES),
    "long": weights(20, CLASSES),
}


def found(check, loss, data, params=PARAMS):
    items = check.check(Experiments(loss, params, data))
    return [item for item in items if getattr(item, "confidence", 0) >= 0.5]


# Indices


def picked(logits, labels):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def flat(p, d):
    return picked(d[0] @ p["out"], d[1])


def moving(p, d):
    return jnp.mean((jnp.cumsum(d[0] @ p["out"], 0) - d[1]) ** 2)


def words(p, d):
    return picked(p["table"][d[0]].mean(1) @ p["out"], d[1])


def words_taken(p, d):
    return picked(jnp.take(p["table"], d[0], axis=0).mean(1) @ p["out"], d[1])


def words_one_by_one(p, d):
    return picked(jax.vmap(jax.vmap(lambda t: p["table"][t]))(d[0]).mean(1) @ p["out"], d[1])


def words_in_a_scan(p, d):
    def turn(h, token):
        return jnp.tanh(h @ p["a"] + p["table"][token]), None

    return picked(jax.lax.scan(turn, jnp.zeros((len(d[0]), 4)), d[0].T)[0] @ p["out"], d[1])


def words_masked(p, d):
    inside = (d[0] < WORDS)[..., None]
    return picked(jnp.where(inside, p["table"][d[0]], 0.0).sum(1) @ p["out"], d[1])


def rows_of_labels(p, d):
    return -jnp.mean(jnp.sum(jax.nn.one_hot(d[1], CLASSES) * jax.nn.log_softmax(d[0] @ p["out"]), 1))


def labels_by_index(p, d):
    return -jnp.mean(jax.nn.log_softmax(d[0] @ p["out"])[jnp.arange(len(d[1])), d[1]])


def masked_labels(p, d):
    each = optax.softmax_cross_entropy_with_integer_labels(d[0] @ p["out"], jnp.clip(d[1], 0, CLASSES - 1))
    return jnp.sum(jnp.where(d[1] < CLASSES, each, 0.0)) / jnp.sum(d[1] < CLASSES)


def places(p, d):
    return picked((SERIES[: len(d[0])] + p["table"][jnp.arange(d[0].shape[1])]).mean(1) @ p["out"], d[1])


def put(array, index, value):
    array = array.copy()
    array[index] = value
    return array


BAD_TOKENS = put(put(TOKENS, (7, 2), 45), (9, 0), 21)
BAD_LABELS = put(LABELS, 5, 3)
# A loss, its data, the code, what the place says; and the data or the loss of its twin.
OUTSIDE = {
    "index": (words, (BAD_TOKENS, LABELS), "index_outside", "data[0][7, 2]", "params['table']"),
    "take": (words_taken, (BAD_TOKENS, LABELS), "index_outside", "data[0][7, 2]", "params['table']"),
    "vmap": (words_one_by_one, (BAD_TOKENS, LABELS), "index_outside", "data[0][7, 2]", "params['table']"),
    "scan": (words_in_a_scan, (BAD_TOKENS, LABELS), "index_outside", "data[0][9, 0]", "params['table']"),
    "from the end": (
        words, (put(TOKENS, (3, 1), -21), LABELS), "index_outside", "data[0][3, 1]", "index -21"
    ),
    "one hot": (rows_of_labels, (X, BAD_LABELS), "label_outside", "data[1][5]", "label 3"),
    "optax": (flat, (X, BAD_LABELS), "label_outside", "data[1][5]", "label 3"),
    "by index": (labels_by_index, (X, BAD_LABELS), "label_outside", "data[1][5]", "label 3"),
    "from one": (rows_of_labels, (X, LABELS + 1), "label_outside", "data[1]", "one of"),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_indices_outside_are_named_with_their_place(name):
    loss, data, code, place, said = OUTSIDE[name]
    [fault] = found(lookups, loss, data)
    assert (fault.cause, fault.code) == ("program", code)
    assert place in fault.place
    assert "test_program_faults.py:" in fault.place
    assert said in fault.claim
    inside = (data[0] % WORDS if data[0].dtype.kind == "i" else data[0], data[1] % CLASSES)
    assert not found(lookups, loss, inside)


INSIDE = {
    "the last entry": (words, (put(TOKENS, (3, 1), WORDS - 1), LABELS)),
    "from the end": (words, (put(TOKENS, (3, 1), -1), LABELS)),
    "masked tokens": (words_masked, (BAD_TOKENS, LABELS)),
    "clipped on purpose": (
        lambda p, d: picked(p["table"][jnp.clip(d[0], 0, WORDS - 1)].mean(1) @ p["out"], d[1]),
        (BAD_TOKENS, LABELS),
    ),
    "masked labels": (masked_labels, (X, BAD_LABELS)),
    "no class": (rows_of_labels, (X, put(LABELS, 4, -1))),
    "void": (rows_of_labels, (X, put(LABELS, 4, 255))),
    "filled on purpose": (
        lambda p, d: picked(p["table"].at[d[0]].get(mode="fill", fill_value=0.0).mean(1) @ p["out"], d[1]),
        (BAD_TOKENS, LABELS),
    ),
    "places": (places, (TOKENS, LABELS)),
    "no index": (lambda p, d: jnp.mean((d[0] @ p["out"] - d[1]) ** 2), (X, ONE_HOT)),
}


@pytest.mark.parametrize("name", INSIDE)
def test_indices_that_are_meant_are_no_fault(name):
    assert not found(lookups, *INSIDE[name])


def test_positions_beyond_their_table_are_outside():
    [fault] = found(lookups, places, (np.zeros((N, 5), np.int32), LABELS), PARAMS | {"table": weights(4, 4)})
    assert "counts positions" in fault.place
    assert "params['table']" in fault.claim


def test_the_batch_is_named_and_a_ragged_one_is_read():
    batches = [(TOKENS[:10], LABELS[:10]), (TOKENS[10:20], LABELS[10:20]), (BAD_TOKENS[6:10], LABELS[6:10])]
    [fault] = found(lookups, words, batches)
    assert "data[0][1, 2] of batch 2" in fault.place


def test_a_token_beyond_the_table_is_told_first_in_a_diagnosis():
    told = hp.diagnose(words, PARAMS, (BAD_TOKENS, LABELS))
    assert [f.cause for f in told.findings] == ["program"]
    assert told.findings[0].confidence > 0.9
    assert "place" in str(told)
    gone = hp.diagnose(words_taken, PARAMS, (BAD_TOKENS, LABELS))  # reads NaN
    assert (gone.findings[0].cause, gone.findings[0].code) == ("program", "index_outside")


# Samples


def crossed_softmax(axis):
    def loss(p, d):
        return -jnp.mean(jnp.sum(d[1] * jax.nn.log_softmax(d[0] @ p["out"], axis=axis), 1))

    return loss


def shares(axis):
    def loss(p, d):
        e = jnp.exp(d[0] @ p["out"])
        return jnp.mean((e / e.sum(axis, keepdims=True) - d[1]) ** 2)

    return loss


def time_first(wrong):
    def loss(p, d):
        h = jnp.swapaxes(jnp.tanh(d[0] @ p["a"]), 0, 1)  # time first, as a loop over time leaves it
        h = h if wrong else jnp.swapaxes(h, 0, 1)
        return picked(h.reshape(len(d[0]), -1) @ p["long"], d[1])

    return loss


MIXED = {
    "log softmax": (crossed_softmax(0), crossed_softmax(1), (X, ONE_HOT), "softmax"),
    "shares": (shares(0), shares(1), (X, ONE_HOT), "softmax"),
    "shares of all": (shares(None), shares(-1), (X, ONE_HOT), "softmax"),
    "reshape": (time_first(True), time_first(False), (SERIES, LABELS), "reshape"),
}


@pytest.mark.parametrize("name", MIXED)
def test_samples_that_mix_are_told_with_the_operation(name):
    loss, twin, data, operation = MIXED[name]
    [fault] = found(mixing, loss, data)
    assert (fault.cause, fault.code) == ("program", "samples_mix")
    assert fault.place.startswith(f"`{operation}` (test_program_faults.py:")
    assert not found(mixing, twin, data)


def normalised(p, d):
    h = d[0] @ p["a"]
    return picked(jnp.tanh((h - h.mean(0)) / (h.std(0) + 0.1)) @ p["out"], d[1])


def contrast(p, d):
    z = d[0] @ p["a"]
    return -jnp.mean(jnp.diag(jax.nn.log_softmax(z @ z.T, axis=0)))


def ranked(p, d):
    return -jnp.sum(jax.nn.softmax(d[1].astype(float)) * jax.nn.log_softmax((d[0] @ p["out"])[:, 0]))


def pooled(p, d):
    weight = jax.nn.softmax(d[0] @ p["a"][:, :2], axis=0)  # two heads, over the elements of one set
    return jnp.mean((weight.T @ d[0]) ** 2) + jnp.mean((d[0] @ p["out"]) ** 2)


def prototypes(p, d):
    scores = d[0] @ p["out"]
    return -jnp.mean(jax.lax.stop_gradient(jax.nn.softmax(scores, axis=0)) * jax.nn.log_softmax(scores))


def worst(p, d):
    return jax.nn.logsumexp(jnp.mean((d[0] @ p["out"] - d[1]) ** 2, axis=1))


MEANT = {
    "normalised": (normalised, (X, LABELS)),
    "contrast": (contrast, (X, LABELS)),
    "ranked": (ranked, (X, LABELS)),
    "pooled": (pooled, (X, LABELS)),
    "prototypes": (prototypes, (X, LABELS)),
    "worst": (worst, (X, ONE_HOT)),
    "penalty": (lambda p, d: picked(d[0] @ p["out"], d[1]) + jnp.sum(p["out"] ** 2), (X, LABELS)),
    "sum over outputs": (lambda p, d: jnp.mean(jnp.sum((d[0] @ p["out"] - d[1]) ** 2, 1)), (X, ONE_HOT)),
    "moving sum of one series": (moving, (X, ONE_HOT)),
    "windows": (lambda p, d: jnp.mean((d[0] @ p["a"]).reshape(-1, 2, 4) ** 2), (X, LABELS)),
}  # fmt: skip


@pytest.mark.parametrize("name", MEANT)
def test_samples_that_meet_on_purpose_are_no_fault(name):
    assert not found(mixing, *MEANT[name])


@pytest.mark.parametrize("penalty", [0.0, 0.1])
def test_a_sum_is_told_from_a_mean_by_doubling(penalty):
    def loss(reduce, p, d):
        return reduce((d[0] @ p["out"] - d[1]) ** 2) + penalty * jnp.sum(p["out"] ** 2)

    [fault] = found(mixing, lambda p, d: loss(jnp.sum, p, d), (X, ONE_HOT))
    assert (fault.cause, fault.code) == ("program", "sum_for_mean")
    assert not found(mixing, lambda p, d: loss(jnp.mean, p, d), (X, ONE_HOT))


# Outputs and targets

PIXELS = RNG.integers(0, 256, (60, 6)).astype(np.float32)
ROWS = RNG.standard_normal((60, 6)).astype(np.float32)
THREE = (np.arange(60) % 3).astype(np.int32)
TWO = (np.arange(60) % 2).astype(np.float32)
ROWS3, ROWS2 = np.eye(3, dtype=np.float32)[THREE], np.eye(2, dtype=np.float32)[TWO.astype(int)]
REAL = np.sin(ROWS.sum(1, keepdims=True))
SOME = np.abs(RNG.standard_normal((60, 3))).astype(np.float32)


def layers(width):
    return {"a": weights(6, 8), "b": jnp.zeros(8), "c": weights(8, width)}


def network(last=lambda z: z):
    return lambda p, x: last(jnp.tanh(x @ p["a"] / 4 + p["b"]) @ p["c"])


def blind(p, x):
    return network()(p, jnp.zeros_like(x)) + p["c"][0]


def by(apply, of):
    return lambda p, d: of(apply(p, d[0]), d[1])


def squared(out, y):
    return jnp.mean((out - y) ** 2)


def of_labels(out, y):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(out, y.astype(int)))


def of_rows(out, y):
    return jnp.mean(optax.softmax_cross_entropy(out, y))


def of_probabilities(out, y):
    return -jnp.mean(jnp.sum(y * jnp.log(jnp.clip(out, 1e-7, 1 - 1e-7)), axis=-1))


def of_parts(out, y):
    return of_probabilities(out / (out.sum(-1, keepdims=True) + 1e-7), y)


def binary(out, y):
    return jnp.mean(optax.sigmoid_binary_cross_entropy(out[:, 0], y.astype(float)))


def of_shares(out, y):
    p = jnp.clip(out[:, 0], 1e-7, 1 - 1e-7)
    return -jnp.mean(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))


def of_real_shares(out, y):
    return of_shares(out, y[:, 0])


def of_logarithms(out, y):
    return -jnp.mean(jnp.sum(out * y, axis=1))


def of_numbers(out, y):
    return squared(out[:, 0], y)


# Width, last activation, loss, data; the code; and what the twin changes of the first four.
UNFIT = {
    "softmax of one unit": (1, jax.nn.softmax, squared, (ROWS, REAL), "constant_loss", {1: lambda z: z}),
    "categorical over one unit": (1, None, of_rows, (ROWS, TWO[:, None]), "constant_loss",
                                  {2: binary, 3: (ROWS, TWO)}),
    "inputs never used": (3, "zero", of_labels, (ROWS, THREE), "inputs_ignored", {1: None}),
    "inputs alike": (3, None, of_labels, (ROWS[:1].repeat(60, 0), THREE), "inputs_alike", {3: (ROWS, THREE)}),
    "labels scaled": (1, None, squared, (PIXELS, THREE[:, None] / np.float32(255)), "labels_scaled",
                      {3: (PIXELS / 255, THREE[:, None].astype(np.float32))}),
    "tied": (3, jax.nn.softmax, squared, (ROWS, SOME), "tied_outputs", {1: None}),
    "rectified targets": (1, jax.nn.relu, squared, (ROWS, REAL), "targets_out_of_reach", {1: jnp.tanh}),
    "large targets": (1, jax.nn.sigmoid, squared, (ROWS, 30 + 5 * REAL), "targets_out_of_reach",
                      {3: (ROWS, 0.5 + 0.4 * REAL)}),
    "softmax twice": (3, jax.nn.softmax, of_labels, (ROWS, THREE), "bounded_logits", {1: None}),
    "sigmoid twice": (1, jax.nn.sigmoid, binary, (ROWS, TWO), "bounded_logits", {2: of_shares}),
    "rectified logits": (3, jax.nn.relu, of_labels, (ROWS, THREE), "rectified_logits", {1: None}),
    "one unit for three": (1, None, binary, (ROWS, THREE), "binary_loss_beyond_targets", {3: (ROWS, TWO)}),
    "binary of reals": (1, jax.nn.sigmoid, of_real_shares, (ROWS, REAL), "binary_loss_beyond_targets",
                        {3: (ROWS, 0.5 + 0.4 * REAL)}),
    "no softmax": (3, None, of_probabilities, (ROWS, ROWS3), "logits_as_probabilities", {1: jax.nn.softmax}),
    "divided by their sum": (3, jax.nn.relu, of_parts, (ROWS, ROWS3), "logits_as_probabilities",
                             {1: jax.nn.softmax}),
    "no sigmoid": (1, None, of_shares, (ROWS, TWO), "logits_as_probabilities", {1: jax.nn.sigmoid}),
    "no logarithm": (3, None, of_logarithms, (ROWS, ROWS3), "logits_as_probabilities",
                     {1: jax.nn.log_softmax}),
    "squared error of classes": (3, jax.nn.softmax, squared, (ROWS, ROWS3), "squared_error_of_classes",
                                 {2: of_probabilities}),
    "classes as numbers": (1, None, of_numbers, (ROWS, THREE), "squared_error_of_classes",
                           {0: 3, 2: of_labels}),
    "thousands": (1, None, squared, (ROWS, 4000 + 900 * REAL), "target_scale", {3: (ROWS, REAL)}),
}  # fmt: skip


def told(width, last, of, data):
    apply = blind if last == "zero" else network(last or (lambda z: z))
    case = Experiments(by(apply, of), layers(width), data, apply=apply)
    return [item.code for item in outputs.check(case) if getattr(item, "confidence", 0) >= 0.5]


@pytest.mark.parametrize("name", UNFIT)
def test_outputs_that_cannot_reach_their_targets(name):
    *given, code, change = UNFIT[name]
    assert told(*given) == [code]
    assert not told(*(change.get(place, value) for place, value in enumerate(given)))


def test_batches_of_one_class_each():
    order = np.argsort(THREE, kind="stable")
    for rows, wrong in ((order, True), (np.arange(60), False)):
        data = [(ROWS[part], THREE[part]) for part in np.split(rows, 12)]
        case = Experiments(by(network(), of_labels), layers(3), data, apply=network())
        assert [item.code for item in outputs.check(case) if hasattr(item, "code")] == [
            "one_class_batches"
        ] * wrong
    alone = [(ROWS[:30], np.zeros(30, np.int32)), (ROWS[30:], np.zeros(30, np.int32))]
    case = Experiments(by(network(), of_labels), layers(3), alone, apply=network())
    assert not [item for item in outputs.check(case) if hasattr(item, "code")]


def test_a_dead_network_still_has_outputs_that_may_depend_on_inputs():
    """Constant here, by its parameters; not by its program."""

    def apply(p, x):
        return jax.nn.relu(x @ p["a"] + p["b"]) @ p["c"]

    dead = layers(3) | {"b": jnp.full(8, -1e3)}
    case = Experiments(by(apply, of_labels), dead, (ROWS, THREE), apply=apply)
    assert not [item for item in outputs.check(case) if hasattr(item, "code")]


def test_a_loss_that_clips_all_outputs_is_not_constant():
    """No gradient here nor at two other sets of usual weights: the outputs are far above 1 there."""

    def apply(p, x):
        return jnp.abs(x * p["c"][:6, 0]).sum(1, keepdims=True)

    params = {"c": layers(1)["c"]}
    for size, codes in ((100.0, ["logits_as_probabilities"]), (1e-3, [])):
        data = (size * (1.0 + np.abs(ROWS)), TWO)
        case = Experiments(by(apply, of_shares), params, data, apply=apply)
        assert [item.code for item in outputs.check(case) if hasattr(item, "code")] == codes


def test_a_softmax_of_one_unit_is_told_first_with_its_place():
    apply = network(jax.nn.softmax)
    found = hp.diagnose(by(apply, squared), layers(1), (ROWS, REAL))  # without apply
    assert [f.code for f in found.findings] == ["constant_loss"]
    assert "test_program_faults.py:" in found.findings[0].place


def test_a_loss_of_zero_from_the_first_step_on():
    """Categorical cross-entropy of one unit, with the losses that were recorded."""
    given = {"apply": network(), "history": {"loss": np.zeros(40)}}
    found = hp.diagnose(by(network(), of_rows), layers(1), (ROWS, TWO[:, None]), **given)
    assert [f.code for f in found.findings] == ["constant_loss"]


def test_a_step_that_killed_the_units_is_no_recovery():
    """The loss comes back from 500, to that of a constant output; or to what was learnt."""

    def apply(p, x):
        return jax.nn.relu(x @ p["a"] + p["b"]) @ p["c"]

    history = {"loss": np.array([2.0, 500.0, 60.0, 8.0, *np.linspace(1.11, 1.10, 40)])}
    for offset, told in ((-1e3, ["first_step"]), (0.0, [])):
        params = layers(3) | {"b": jnp.full(8, offset)}
        y = np.asarray(apply(params, ROWS).argmax(1)) if offset == 0 else THREE
        params["c"] = params["c"] * (30 if offset == 0 else 0)
        case = Experiments(by(apply, of_labels), params, (ROWS, y), apply=apply, history=history)
        items = [item for item in divergence.check(case) if getattr(item, "confidence", 0) >= 0.5]
        assert [item.code for item in items] == told


# The training loop

DATA = [(ROWS[:30], THREE[:30]), (ROWS[30:], THREE[30:])]
LOSS = by(network(), of_labels)
ADAM = optax.adam(1e-2)


def kept(params, state, batch):
    updates, state = ADAM.update(jax.grad(LOSS)(params, batch), state, params)
    return optax.apply_updates(params, updates), state, 0.0


def not_applied(params, state, batch):
    return params, kept(params, state, batch)[1]


def one_layer(params, state, batch):
    moved, state, _ = kept(params, state, batch)
    return params | {"c": moved["c"]}, state


def new_state(params, state, batch):
    return kept(params, ADAM.init(params), batch)[0], state


def new_params(params, state, batch):
    start = jax.tree.map(lambda x: 1.0 + jnp.zeros_like(x), params)
    return kept(start, state, batch)[:2]


def subtracted(params, state, batch):
    updates, state = ADAM.update(jax.grad(LOSS)(params, batch), state, params)
    return jax.tree.map(jnp.subtract, params, updates), state


def one_batch(params, state, batch):
    return kept(params, state, DATA[0])


def with_noise(params, state, batch):
    noise = 0.3 * np.random.default_rng(1).standard_normal(batch[0].shape).astype(np.float32)
    return kept(params, state, (batch[0] + noise, batch[1]))


TRAINERS = {
    kept: None, with_noise: None, not_applied: "never_moved", one_layer: "leaves_not_moved",
    new_state: "state_not_kept", new_params: "overwritten", subtracted: "update_subtracted",
    one_batch: "batch_ignored",
}  # fmt: skip


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda trainer: trainer.__name__)
def test_a_step_of_the_trainer_is_held_against_the_optimiser(trainer):
    params = layers(3)
    before = jax.tree.map(np.array, params)
    given = {"optimizer": ADAM, "opt_state": ADAM.init(params), "trainer": trainer}
    faults = [item for item in loop.check(Experiments(LOSS, params, DATA, **given)) if hasattr(item, "code")]
    assert [item.code for item in faults] == [TRAINERS[trainer]] * (TRAINERS[trainer] is not None)
    assert all(np.array_equal(before[name], params[name]) for name in before)
    if trainer is one_layer:
        assert "params['a']" in faults[0].place


def looped(optimizer, losses=None):
    params = layers(3)
    given = {"optimizer": optimizer, "opt_state": optimizer.init(params)} if optimizer else {}
    history = None if losses is None else {"loss": np.asarray(losses)}
    case = Experiments(LOSS, params, DATA, history=history, **given)
    return [item.code for item in loop.check(case) if hasattr(item, "code")]


@pytest.mark.parametrize(
    ("optimizer", "code"),
    [
        (optax.sgd(0.0), "rate_of_zero"),
        (optax.sgd(optax.piecewise_constant_schedule(0.0, {1000: 1.0})), "rate_of_zero"),
        (optax.masked(optax.set_to_zero(), True), "rate_of_zero"),
        (optax.sgd(optax.warmup_constant_schedule(0.0, 0.1, 1000)), None),
        (optax.MultiSteps(optax.sgd(0.1), 8), None),
        (optax.adamw(1e-6), None),
    ],
)
def test_a_rate_that_stays_at_zero(optimizer, code):
    assert looped(optimizer) == [code] * (code is not None)


@pytest.mark.parametrize(
    ("dtype", "rate", "lost"),
    [(jnp.bfloat16, 1e-4, True), (jnp.bfloat16, 1e-1, False), (jnp.float32, 1e-4, False)],
)
def test_updates_that_low_precision_loses(dtype, rate, lost):
    params = jax.tree.map(lambda x: (x + 0.5).astype(dtype), layers(3))
    optimizer = optax.adam(rate)
    given = {"optimizer": optimizer, "opt_state": optimizer.init(params), "apply": network()}
    case = Experiments(LOSS, params, (ROWS, THREE), **given)
    faults = [item for item in loop.check(case) if hasattr(item, "code")]
    assert [item.code for item in faults] == ["updates_lost"] * lost


def test_recorded_losses_that_repeat_to_the_last_digit():
    assert looped(ADAM, [1.25, 1.5] * 10) == ["never_moved"]
    assert looped(None, [1.25] * 12) == ["never_moved"]
    assert not looped(ADAM, [1.25, 1.5] * 9 + [1.25, 1.4999])
    assert not looped(optax.sgd(1e-9), [1.25] * 12), "slow, and not lost"


HELD_BACK = {
    "warm-up": (lambda steps: optax.sgd(optax.linear_schedule(0.0, 0.5, steps)), 1_000_000, 20,
                "warm_up_too_long"),
    "clipped": (lambda norm: optax.chain(optax.clip_by_global_norm(norm), optax.sgd(0.5)), 1e-4, 1.0,
                "clipped_away"),
    "slow alone": (optax.sgd, 1e-5, 0.5, None),
    "slow Adam": (optax.adam, 1e-6, 1e-2, None),
}  # fmt: skip


@pytest.mark.parametrize("name", HELD_BACK)
def test_steps_that_a_warm_up_or_clipping_holds_back(name):
    make, wrong, right, code = HELD_BACK[name]
    for value in (wrong, right):
        optimizer, params = make(value), layers(1)
        state, data = optimizer.init(params), (ROWS, ROWS[:, :1])
        if name == "warm-up":
            state = optax.tree_utils.tree_set(state, count=jnp.asarray(300))
        given = {"optimizer": optimizer, "opt_state": state, "apply": network()}
        case = Experiments(by(network(), squared), params, data, **given)
        faults = [item.code for item in loop.check_held_back(case)]
        assert faults == [code] * (code is not None and value == wrong)


def test_leaves_that_the_training_needs_are_not_held():
    """Features of small random weights tell little: the first layer must move."""
    x = np.random.default_rng(4).standard_normal((60, 6)).astype(np.float32)
    data, apply = (x, np.sin(3 * x[:, :1])), network()
    first = np.random.default_rng(4).standard_normal((6, 8)) / 200
    params = {**layers(1), "a": jnp.asarray(first, jnp.float32)}
    for held, wrong in ((("a", "b"), True), (("b",), False)):
        labels = {name: "held" if name in held else "moves" for name in params}
        optimizer = optax.partition({"held": optax.set_to_zero(), "moves": optax.adam(1e-2)}, labels)
        given = {"optimizer": optimizer, "opt_state": optimizer.init(params)}
        case = Experiments(by(apply, squared), params, data, apply=apply, trial_factor=3, **given)
        faults = [item for item in loop.check_frozen(case) if item.confidence >= 0.5]
        assert [item.code for item in faults] == ["frozen_leaves"] * wrong
