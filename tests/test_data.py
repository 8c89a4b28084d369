"""Data in batches: one weighted mean, whatever it is handed over as, and refusals that name a cause."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp

FLOAT = np.asarray(jnp.zeros(())).dtype
EPS = float(np.finfo(FLOAT).eps)
RNG = np.random.default_rng(5)
INPUTS = RNG.standard_normal((22, 3)).astype(FLOAT)
TARGETS = RNG.standard_normal(22).astype(FLOAT)
INPUTS[21] *= 9  # an outlier in the ragged last batch
POINT = np.array([0.3, -0.2, 0.5], FLOAT)
V = np.array([1.0, -2.0, 0.5], FLOAT)


def padded(batch, size):
    x, y = batch
    rows = size - len(x)
    return {
        "x": np.pad(x, ((0, rows), (0, 0)), constant_values=7),
        "y": np.pad(y, (0, rows), constant_values=-3),
        "mask": np.arange(size) < len(x),
    }


def masked(p, batch):
    errors = (batch["x"] @ p - batch["y"]) ** 2
    return jnp.sum(jnp.where(batch["mask"], errors, 0)) / jnp.sum(batch["mask"])


def least_squares(p, batch):
    x, y = batch
    return jnp.mean((x @ p - y) ** 2)


def batches(size=7):
    """22 samples in batches of 7: the last one holds a single sample."""
    return [(INPUTS[i : i + size], TARGETS[i : i + size]) for i in range(0, 22, size)]


def exact():
    """Value, gradient and product of the mean over all samples, by hand."""
    x, y, p = (a.astype(np.float64) for a in (INPUTS, TARGETS, POINT))
    residual = x @ p - y
    return np.mean(residual**2), 2 * x.T @ residual / 22, 2 * x.T @ (x @ V) / 22


def assert_exact(op):
    value, gradient, product = exact()
    np.testing.assert_allclose(op.value, value, rtol=100 * EPS)
    np.testing.assert_allclose(op.gradient, gradient, rtol=100 * EPS, atol=100 * EPS)
    np.testing.assert_allclose(op(V), product, rtol=100 * EPS, atol=100 * EPS)


class Loader:
    """Iterable again and again, like a data loader of a training framework."""

    def __init__(self, passes):
        self.passes = passes
        self.count = 0

    def __iter__(self):
        found = self.passes(self.count)
        self.count += 1  # only when the pass has begun
        yield from found


class Samples(NamedTuple):
    x: np.ndarray
    y: np.ndarray


@pytest.mark.parametrize("stored", [None, 0])
@pytest.mark.parametrize(
    "data",
    [
        (INPUTS, TARGETS),
        Samples(INPUTS, TARGETS),
        batches(),
        [Samples(*b) for b in batches()],
        [list(b) for b in batches()],
        Loader(lambda _: batches()),
        hp.Batches(batches(), [7, 7, 7, 1]),
        hp.Batches(Loader(lambda _: batches()), [21, 21, 21, 3]),
    ],
    ids=[
        "tuple",
        "named",
        "list",
        "list-named",
        "list-list",
        "loader",
        "weights",
        "weights-loader",
    ],
)
def test_every_form_of_the_data_is_the_same_mean(data, stored):
    assert_exact(hp.hessian(least_squares, POINT, data, max_residual_bytes=stored))


def test_a_ragged_batch_is_not_counted_as_a_full_one():
    """The mean of batch means is another function, with another Hessian."""
    wrong = np.mean([2 * x.T.astype(np.float64) @ (x @ V) / len(x) for x, _ in batches()], axis=0)
    right = exact()[2]
    assert np.linalg.norm(wrong - right) > np.linalg.norm(right)
    assert_exact(hp.hessian(least_squares, POINT, batches()))


def test_a_dict_is_one_batch_and_its_other_leaves_are_passed_on():
    labels = np.arange(22) % 3
    mask = labels > 0

    def masked(p, batch):
        assert batch["kind"] == "masked"
        kept = jnp.where(batch["mask"], (batch["x"] @ p) ** 2, jnp.zeros_like(p[0]))
        return jnp.sum(kept) * batch["factor"]

    data = {"x": INPUTS, "mask": mask, "kind": "masked", "factor": FLOAT.type(0.5), "none": None}
    x = INPUTS[mask].astype(np.float64)
    np.testing.assert_allclose(
        hp.hessian(masked, POINT, data)(V), x.T @ (x @ V), rtol=100 * EPS, atol=100 * EPS
    )


def test_weights_override_the_counts():
    """Weights 1, 0.5, …: tokens, importance, whatever the user says."""
    weights = np.array([1.0, 0.5, 3.0, 2.0])
    op = hp.hessian(least_squares, POINT, hp.Batches(batches(), weights))
    each = [2 * x.T.astype(np.float64) @ (x @ V) / len(x) for x, _ in batches()]
    np.testing.assert_allclose(op(V), weights @ each / weights.sum(), rtol=100 * EPS)


def test_a_loader_may_shuffle_its_samples():
    """Another order is the same mean, up to rounding; four batches of sizes that differ too."""

    def shuffled(count):
        order = np.random.default_rng(count).permutation(22)
        return [(INPUTS[order[i : i + 7]], TARGETS[order[i : i + 7]]) for i in range(0, 22, 7)]

    op = hp.hessian(least_squares, POINT, Loader(shuffled), max_residual_bytes=0)
    for _ in range(3):
        assert_exact(op)


def test_random_keys_in_a_list_of_batches():
    data = [(x, y, jax.random.key(i)) for i, (x, y) in enumerate(batches())]
    assert_exact(hp.hessian(lambda p, b: least_squares(p, b[:2]), POINT, data))


def test_random_keys_in_the_batches_of_a_loader():
    data = [(x, y, jax.random.key(i)) for i, (x, y) in enumerate(batches())]
    assert_exact(hp.hessian(lambda p, b: least_squares(p, b[:2]), POINT, Loader(lambda _: data)))


@pytest.mark.parametrize(
    "once",
    [lambda: (b for b in batches()), lambda: iter(batches()), lambda: map(tuple, batches())],
    ids=["generator", "iterator", "map"],
)
def test_what_can_be_read_only_once_is_refused(once):
    for job in (hp.hessian, hp.classify, hp.escape):
        with pytest.raises(TypeError, match=r"only once.*list"):
            job(least_squares, POINT, once())
    with pytest.raises(TypeError, match="only once"):
        hp.Batches(once(), [1, 1, 1, 1])


@pytest.mark.parametrize("empty", [[], Loader(lambda _: [])], ids=["list", "loader"])
def test_empty_data_are_refused(empty):
    for job in (hp.hessian, hp.classify, hp.escape):
        with pytest.raises(ValueError, match="empty"):
            job(least_squares, POINT, empty)


@pytest.mark.parametrize(
    "data",
    [(INPUTS[:0], TARGETS[:0]), [*batches(), (INPUTS[:0], TARGETS[:0])]],
    ids=["whole", "last batch"],
)
def test_a_batch_without_samples_is_refused(data):
    with pytest.raises(ValueError, match="no samples"):
        hp.hessian(least_squares, POINT, data)


def test_a_loader_that_runs_dry_is_named():
    loader = Loader(lambda count: batches() if count == 0 else [])
    with pytest.raises(ValueError, match=r"ran dry.*list"):
        hp.hessian(least_squares, POINT, loader)(V)


CHANGES = {
    "fewer batches": lambda count: batches()[: 4 - count],
    "more batches": lambda count: batches() + batches()[:count],
    "rescaled": lambda count: [(x * FLOAT.type(1 + 0.1 * count), y) for x, y in batches()],
    "noise": lambda count: [
        (x + np.random.default_rng(count).normal(0, 0.3, x.shape).astype(FLOAT), y) for x, y in batches()
    ],
    "another sample": lambda count: batches() if count == 0 else [*batches()[:3], batches()[0]],
    "mirrored": lambda count: [
        (x[:, :: (-1 if (i + count) % 2 else 1)], y) for i, (x, y) in enumerate(batches())
    ],
}


@pytest.mark.parametrize("change", CHANGES)
def test_data_that_change_between_passes_are_named(change):
    """Augmentation and dropped samples make every pass another loss."""

    def three_products():
        op = hp.hessian(least_squares, POINT, Loader(CHANGES[change]), max_residual_bytes=0)
        return [op(V) for _ in range(3)]

    with pytest.raises(ValueError, match=r"changed between passes|differ from pass to pass|ran dry"):
        three_products()


def refusal_or_evidence(data):
    """What classify says: the text of its refusal, or its label and evidence."""
    try:
        point = hp.classify(least_squares, POINT, data)
    except ValueError as error:
        return "undetermined", str(error)
    return point.label, " ".join(point.evidence)


@pytest.mark.parametrize("change", CHANGES)
def test_no_label_rests_on_data_that_change_between_passes(change):
    label, told = refusal_or_evidence(Loader(CHANGES[change]))
    assert label == "undetermined"
    assert "data" in told


@pytest.mark.parametrize("what", ["targets", "signs"])
def test_no_label_rests_on_a_gradient_that_changes_between_passes(what):
    """Neither changes the Hessian of least squares, nor any sum of magnitudes."""

    def changing(count):
        rng = np.random.default_rng(count)
        if what == "targets":
            return [(x, rng.permutation(y)) for x, y in batches()]
        return [(FLOAT.type(1 - 2 * rng.integers(2)) * x, y) for x, y in batches()]

    label, told = refusal_or_evidence(Loader(changing))
    assert label == "undetermined"
    assert "data" in told


def test_a_list_of_leaves_taken_for_one_batch_is_explained():
    """`[x, y]` is two batches by the rule; the message must say how to hand over one."""
    with pytest.raises(ValueError, match=r"batch 1.*tuple or dict"):
        hp.hessian(least_squares, POINT, [INPUTS, TARGETS])


def test_a_list_of_leaves_of_one_shape_is_explained_too():
    """Here the batches look alike, and the loss fails on unpacking one of them."""

    def line(p, batch):
        x, y = batch
        return jnp.mean((p[0] * x - y) ** 2)

    with pytest.raises((ValueError, TypeError)) as caught:
        hp.hessian(line, POINT, [INPUTS[:, 0], TARGETS])
    told = str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    assert "list" in told, told
    assert "tuple" in told, told


def test_batches_that_cannot_be_counted_need_weights():
    scalars = [FLOAT.type(1.0), FLOAT.type(2.0)]

    def loss(p, factor):
        return factor * jnp.sum(p**2)

    with pytest.raises(ValueError, match="Batches"):
        hp.hessian(loss, POINT, scalars)
    op = hp.hessian(loss, POINT, hp.Batches(scalars, [3, 1]))
    np.testing.assert_allclose(op(V), 2 * (0.75 * 1 + 0.25 * 2) * V, rtol=10 * EPS)


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, np.nan]])
def test_wrong_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weight"):
        hp.hessian(least_squares, POINT, hp.Batches(batches(), weights))


@pytest.mark.parametrize("data", ["train.csv", {"kind": "nothing"}, ()])
def test_data_without_any_array_are_refused(data):
    with pytest.raises(ValueError, match="no array"):
        hp.hessian(least_squares, POINT, data)


def test_a_loss_with_data_but_none_given_says_so():
    with pytest.raises(TypeError) as caught:
        hp.hessian(least_squares, POINT)
    told = str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    assert "loss(params)" in told


def constant_first(size):
    return {"a": np.ones(3, FLOAT), "x": INPUTS[:size], "y": TARGETS[:size]}


def sparse(size):
    """Rows of a sparse matrix: as many non-zeros as it has, and a target a row."""
    kept = np.flatnonzero(np.abs(INPUTS[:7].ravel()) > 1.5 / size)
    return {"data": INPUTS[:7].ravel()[kept], "rows": kept // 3, "y": TARGETS[:7]}


def as_many_non_zeros_as_rows(size):
    """In the second batch alone."""
    count = 7 if size == 9 else 12
    return {"data": np.ones(count, FLOAT), "rows": np.arange(count) % 7, "y": TARGETS[:7]}


def graph(size):
    return {"edges": np.zeros((size + 4, 2), np.int32), "nodes": INPUTS[:size]}


@pytest.mark.parametrize("made", [constant_first, sparse, as_many_non_zeros_as_rows, graph])
def test_batches_whose_arrays_disagree_on_their_samples_are_refused(made):
    """Where the batches differ in size: then it matters which axis counts; weights say it."""

    def loss(p, batch):
        return jnp.sum(p**2) * jnp.mean(jnp.abs(batch[sorted(batch)[-1]]))

    data = [made(5), made(9)]
    with pytest.raises(ValueError, match=r"batch 0 .*leading axes .*batch 1 .*Batches\(batches, weights"):
        hp.classify(loss, POINT, data)
    assert hp.classify(loss, 0 * POINT, hp.Batches(data, [5, 9])).label == "minimum"
    assert hp.classify(loss, 0 * POINT, [made(5), made(5)]).label == "minimum"


class Endless:
    """A sampler that repeats."""

    def __iter__(self):
        while True:
            yield np.ones((2, 3), FLOAT)


class Infinite(Endless):
    """As tf.data says it of itself."""

    def cardinality(self):
        return -1


@pytest.mark.parametrize(
    ("data", "words"), [(Endless(), "100,000 batches and goes on"), (Infinite(), "no end")]
)
def test_data_without_end_are_refused(data, words):
    with pytest.raises(ValueError, match=words + r".*islice"):
        hp.classify(lambda p, x: jnp.sum(p**2) * jnp.mean(x), POINT, data)


@pytest.mark.any_promotion
@pytest.mark.parametrize(("cut", "size"), [(7, 7), (7, 9), (5, 8), (22, 30), (3, 3)])
def test_padding_and_how_samples_are_cut_change_nothing(cut, size):
    data = hp.Batches([padded(batch, size) for batch in batches(cut)], lambda batch: batch["mask"].sum())
    op, plain = hp.hessian(masked, POINT, data), hp.hessian(least_squares, POINT, batches())
    np.testing.assert_allclose(op.value, plain.value, rtol=16 * EPS)
    np.testing.assert_allclose(op.dense(), plain.dense(), rtol=64 * EPS, atol=64 * EPS)


def test_weights_by_a_function_of_data_without_end_are_refused(monkeypatch):
    monkeypatch.setattr("hessian_probe.operators.data.MOST_BATCHES", 20)

    class Endless:
        def __iter__(self):
            return iter(lambda: batches()[0], None)

    with pytest.raises(ValueError, match=r"gave 20 batches and goes on.*itertools\.islice"):
        hp.Batches(Endless(), lambda batch: len(batch[0]))


def test_a_first_pass_that_takes_long_says_so_once(monkeypatch):
    monkeypatch.setattr("hessian_probe.operators.data.SLOW_DATA", 0.0)

    class Slow:
        def __iter__(self):
            return iter(batches())

    with pytest.warns(UserWarning, match="data gave .* in 0 seconds, and goes on") as said:
        hp.hessian(least_squares, POINT, Slow())(V)
    assert len(said) == 1
