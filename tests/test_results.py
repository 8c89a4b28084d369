"""Results print verdict first, never raise while printing, and pass through JAX and pickle."""

import dataclasses
import io
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.results import number, result, signed

FLOAT = np.asarray(jnp.zeros(())).dtype


@result(leaves=("values",))
class Sample:
    """One array and two facts."""

    values: object
    name: str
    size: float = 1.0

    def _summary(self):
        return f"Sample: {self.name}", [
            ("first", signed(self.values[0])),
            ("note", "<b>&</b>"),
        ]


@pytest.fixture
def sample():
    return Sample(values=np.arange(3.0), name="<b>")


def test_a_report_is_a_title_and_aligned_rows(sample):
    assert repr(sample).splitlines() == ["Sample: <b>", "  first  +0", "  note   <b>&</b>"]


def test_a_notebook_gets_the_same_facts_escaped(sample):
    html = sample._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>&" not in html
    assert html.count("<tr>") == 2


def test_unflattening_does_not_validate():
    """Under jit and vmap leaves are tracers, which a constructor may refuse."""

    @result(leaves=("value",))
    class Checked:
        value: object

        def __post_init__(self):
            if not isinstance(self.value, float):
                raise TypeError("value must be a number")

    assert jax.tree.map(str, Checked(1.0)).value == "1.0"


@pytest.mark.parametrize("leaf", [None, object(), "text", np.zeros(0), jax.ShapeDtypeStruct((2,), FLOAT)])
def test_printing_never_raises(leaf):
    odd = Sample(values=leaf, name="odd")
    assert repr(odd).startswith("Sample")
    assert "Sample" in odd._repr_html_()


def test_a_leaf_whose_own_printing_fails_is_no_matter():
    class Broken:
        def __repr__(self):
            raise RuntimeError

        __str__ = __format__ = __repr__

    odd = Sample(values=[Broken()], name="odd")
    assert repr(odd).startswith("Sample")
    assert "Sample" in odd._repr_html_()


def test_printing_under_tracing(sample):
    seen = []

    def use(traced):
        seen.append(repr(traced) + traced._repr_html_())
        return jnp.sum(jnp.asarray(traced.values))

    assert float(jax.jit(use)(sample)) == 3.0
    assert float(jax.grad(use)(sample).values[0]) == 1.0
    batch = Sample(values=np.ones((2, 3), FLOAT), name="batch")
    np.testing.assert_array_equal(jax.vmap(use)(batch), [3.0, 3.0])
    assert all(text.startswith("Sample") for text in seen)


def test_trees_are_rebuilt_without_validation(sample):
    mapped = jax.tree.map(lambda leaf: leaf + 1, sample)
    assert isinstance(mapped, Sample)
    assert mapped.name == "<b>"
    np.testing.assert_array_equal(mapped.values, [1, 2, 3])
    assert jax.tree.map(lambda _: "leaf", sample).values == "leaf"
    leaves, treedef = jax.tree.flatten(sample)
    assert len(leaves) == 1
    assert jax.tree.unflatten(treedef, [None]).values is None


def test_results_are_frozen_and_compare_by_identity(sample):
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.name = "other"
    other = Sample(values=np.arange(3.0), name="<b>")
    assert sample != other  # arrays have no truth value
    assert sample == sample
    assert dataclasses.replace(sample, name="new").name == "new"


def test_pickling(sample):
    copy = pickle.loads(pickle.dumps(sample))
    assert repr(copy) == repr(sample)
    with pytest.raises(dataclasses.FrozenInstanceError):
        copy.name = "other"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (0.123456, "0.1235"),
        (-2.5e-7, "-2.500e-07"),
        (123456789, "1.235e+08"),
        (99999.0, "100000"),
        (np.float32(0.5), "0.5"),
        (np.nan, "nan"),
        (np.inf, "inf"),
        (-np.inf, "-inf"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_two_digits_of_a_hundred_are_no_power_of_ten():
    assert [number(value, 2) for value in (100, 1234.5, -123.4)] == ["100", "1200", "-120"]


def test_signs_are_shown():
    assert signed(1.5) == "+1.5"
    assert signed(-1.5) == "-1.5"
    assert signed(0) == "+0"


@pytest.fixture(scope="module")
def many():
    """Forty pairs."""
    values = np.linspace(-1, 1, 40).astype(FLOAT)
    op = hp.hessian(lambda p, d: 0.5 * jnp.sum(d * p["w"] ** 2), {"w": np.zeros(40, FLOAT)}, values)
    return hp.eigsh(op, lowest=20, highest=20)


def test_eigenpairs_print_their_ends_and_no_arrays(many):
    text = repr(many)
    assert text.startswith("EigenResult: CONVERGED")
    assert "λ[0]" in text
    assert "λ[39]" in text
    assert "λ[20]" not in text
    assert "rray" not in text
    assert len(text) < 1000


def test_one_eigenvector_is_like_the_parameters(many):
    vector = many.vector(-1)
    assert set(vector) == {"w"}
    np.testing.assert_allclose(np.abs(vector["w"][-1]), 1, atol=1e-5)


def test_require_passes_what_converged(many):
    assert many.require() is many


def test_pickled_eigenpairs_keep_everything(many):
    copy = pickle.loads(pickle.dumps(many))
    assert repr(copy) == repr(many)
    np.testing.assert_array_equal(copy.eigenvectors["w"], many.eigenvectors["w"])


def test_eigenpairs_pass_through_jit(many):
    double = jax.jit(lambda e: jax.tree.map(lambda leaf: 2 * leaf.astype(FLOAT), e))(many)
    np.testing.assert_allclose(double.eigenvalues, 2 * many.eigenvalues, atol=1e-6)
    assert "λ[0]" in repr(double)


def bowl_and_saddle(w):
    return (1 - w[0] * w[1]) ** 2


def everything(w):
    """One of each result that is printed."""
    yield hp.classify(bowl_and_saddle, w)
    yield hp.escape(bowl_and_saddle, w)
    yield hp.eigsh(hp.hessian(bowl_and_saddle, w))
    yield hp.sharpness(bowl_and_saddle, w)
    yield hp.plan(bowl_and_saddle, w)
    yield hp.diagnose(bowl_and_saddle, w)
    yield hp.training.Monitor(bowl_and_saddle).update(0, w, 1.0)


@pytest.fixture(scope="module")
def printed():
    return list(everything(jnp.zeros(2)))


@pytest.mark.one_precision
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "latin-1", "shift_jis", "koi8-r", "utf-8"])
def test_every_result_prints_under_every_encoding(printed, encoding, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    for each in printed:
        print(each)
    sys.stdout.flush()
    text = raw.getvalue().decode(encoding)
    monkeypatch.undo()
    assert text.count("?") <= str(printed).count("?")
    assert "λ" in text or "lambda" in text
    assert "→" in text or "->" in text
