"""Plans against what is known: shapes, traced programs, and the jobs themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.operators import memory
from hessian_probe.planning import cost_analysis
from hessian_probe.points.thresholds import DENSE_SIZE
from hessian_probe.spectrum import eigsh as eigsh_module

pytestmark = pytest.mark.one_precision

N = 300
CURVATURE = np.linspace(0.5, 1.5, N)


def smooth(x, batch):
    return jnp.mean(batch @ jnp.square(x)) + 0.5 * jnp.vdot(x, x)


def bowl(n=N):
    weights = jnp.asarray(np.linspace(0.5, 1.5, n))
    return lambda x: 0.5 * jnp.vdot(x * weights, x), jnp.zeros(n, weights.dtype)


def batches(*sizes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.uniform(0.1, 0.2, (size, N))) for size in sizes]


def start():
    return jnp.zeros(N, batches(1)[0].dtype)


def test_a_plan_says_its_verdict_first_and_counts_bytes():
    plan = hp.plan(*bowl())
    item = start().dtype.itemsize
    assert plan.fits
    assert str(plan).startswith("Plan: classify FITS")
    assert "products" in str(plan)
    assert plan._repr_html_().startswith("<table>")
    assert plan.dense_bytes == 8 * N * N
    assert plan.basis_bytes % (N * item) == 0
    assert plan.size == N
    assert plan.program_bytes >= 2 * N * item  # at least the vector and its product
    assert plan.peak_bytes >= plan.program_bytes + plan.basis_bytes
    assert plan.peak_bytes < plan.free_bytes
    assert plan.stored
    assert "linearised once" in plan.route
    assert 0 < plan.product_seconds < 1
    assert 0 < plan.seconds < plan.max_seconds
    assert plan.noticed == ()
    assert plan.temporaries_known


@pytest.mark.parametrize(
    ("job", "options", "run"),
    [
        ("eigsh", {"rtol": 1e-3}, lambda loss, x: hp.eigsh(hp.hessian(loss, x))),
        ("classify", {}, hp.classify),
        ("classify", {"count": True}, lambda loss, x: hp.classify(loss, x, count=True)),
    ],
)
def test_products_are_foreseen_within_a_factor_of_three(job, options, run):
    loss, x = bowl()
    plan, spent = hp.plan(loss, x, job=job, measure=False, **options), run(loss, x).num_hvps
    assert spent <= plan.max_hvps
    assert plan.num_hvps / 3 <= spent <= plan.num_hvps * 3


@pytest.mark.parametrize("n", [5, 100])
def test_dense_routes_are_foreseen_exactly(n):
    loss, x = bowl(n)
    plan, point = hp.plan(loss, x, measure=False), hp.classify(loss, x)
    assert point.certified
    assert plan.dense
    assert plan.num_hvps <= point.num_hvps <= plan.num_hvps + 6
    dense = hp.plan(loss, x, job="dense", measure=False)
    assert dense.num_hvps == dense.max_hvps == n
    pairs = hp.plan(loss, x, job="eigsh", lowest=n, highest=0, measure=False)
    assert (pairs.num_hvps, pairs.dense) == (n, True)


def test_what_options_cost_is_foreseen():
    """An escape evaluates a line beside its label; the noise of a sample takes a few products more."""
    loss, x = bowl()
    label, way_down = (hp.plan(loss, x, job=job) for job in ("classify", "escape"))
    assert way_down.num_hvps == label.num_hvps
    assert way_down.evidence == label.evidence
    spent = hp.escape(lambda p: loss(p) - jnp.vdot(p[:2], p[:2]), x)
    assert spent.point.num_hvps <= way_down.max_hvps
    data = batches(4, 4, 4, 4)
    sample, whole = (hp.plan(smooth, start(), data, sampled=flag, measure=False) for flag in (True, False))
    assert whole.num_hvps + 2 <= sample.num_hvps <= whole.num_hvps + 18


@pytest.mark.slow
def test_the_default_budget_covers_two_matrices_of_a_few_hundred_variables():
    """390 variables: the matrix is formed, and again beside the minimum."""
    loss, x = bowl(390)
    plan = hp.plan(loss, x, measure=False)
    assert plan.dense
    assert plan.max_hvps == 780
    for start in (x, x + 1e-3):
        spent = hp.classify(loss, start).num_hvps
        assert plan.num_hvps <= spent <= plan.max_hvps


def test_a_budget_of_one_product_for_each_variable_is_foreseen_to_form_the_matrix():
    size = 500
    weights = jnp.asarray(np.logspace(-6, 0, size))
    loss, x = lambda x: 0.5 * jnp.vdot(x * weights, x), jnp.zeros(size, weights.dtype)
    plan, point = hp.plan(loss, x, max_hvps=520, measure=False), hp.classify(loss, x, max_hvps=520)
    assert plan.dense
    assert 500 <= point.num_hvps <= plan.num_hvps == plan.max_hvps == 520
    assert not hp.plan(loss, x, measure=False).dense


def test_the_memory_of_a_compiled_program_is_read_from_its_own_analysis():
    """Outputs and arguments of a known program, and temporaries that cannot be avoided."""

    @jax.jit
    def outer(x):
        return jnp.sum(jnp.sort(jnp.outer(x, x).ravel())[::2])

    x = jnp.ones(200)
    program = cost_analysis.analyse(outer, x)
    item = x.dtype.itemsize
    assert program.arguments == 200 * item
    assert program.outputs == item
    assert program.temporaries >= 200 * 200 * item
    assert program.seconds > 0
    assert program.peak >= program.temporaries + program.arguments


def test_a_backend_that_reports_no_temporaries_is_named_as_such(monkeypatch):
    class Silent:
        def lower(self, *arguments):
            self.out_info = jax.ShapeDtypeStruct((7,), jnp.float32)
            return self

        def compile(self):
            return self

        def memory_analysis(self):
            raise NotImplementedError

    program = cost_analysis.analyse(Silent(), jnp.ones(3, jnp.float32))
    assert (program.arguments, program.outputs, program.temporaries) == (12, 28, None)
    silent = program._replace(seconds=0.0)
    monkeypatch.setattr("hessian_probe.planning.cost_analysis.analyse", lambda *_: silent)
    plan = hp.plan(*bowl(), measure=False)
    assert not plan.temporaries_known
    assert "temporaries" in str(plan)


def test_batches_are_counted_and_the_largest_is_measured():
    plan = hp.plan(smooth, start(), batches(4, 4, 9, 4))
    assert {"batches:4", "ragged"} <= set(plan.noticed)
    assert "on batch 2 of 4" in plan.measured
    whole = hp.plan(smooth, start(), batches(4, 4))
    assert "ragged" not in whole.noticed
    assert plan.residual_bytes > whole.residual_bytes > 0
    assert len(plan.noticed) == len(plan.remarks)


@pytest.mark.any_promotion
def test_what_the_loss_shows_comes_as_codes_and_sentences():
    @jax.custom_vjp
    def own(x):
        return jnp.sin(x)

    own.defvjp(lambda x: (own(x), x), lambda x, t: (t * jnp.cos(x),))

    def loss(p):
        low = p["w"].astype(jnp.bfloat16).astype(jnp.float32)
        draw = jax.random.normal(jax.random.key(0), (3,))
        return jnp.sum(jax.nn.relu(own(low) * draw)) * np.random.default_rng().random()

    params = {"w": jnp.ones(3), "unused": jnp.ones(2), "steps": jnp.arange(2)}
    plan = hp.plan(loss, params, measure=False)
    expected = {
        *("unrepeatable", "random", "precision:bfloat16", "custom_derivative:own", "kink:relu"),
        *("unused:params['unused']", "fixed:params['steps']"),
    }
    assert expected <= set(plan.noticed)
    assert all(any(name in text for text in plan.remarks) for name in ("relu", "bfloat16", "own"))


@pytest.mark.any_promotion
def test_a_loss_without_second_derivative_is_recomputed():
    @jax.custom_vjp
    def squares(x):
        return x**2

    squares.defvjp(lambda x: (x**2, x), lambda x, t: (2 * t * x,))

    @jax.custom_vjp
    def cubes(x):
        return jnp.sum(x**3)

    cubes.defvjp(lambda x: (jnp.sum(x**3), x), lambda x, t: (3 * t * squares(x),))
    plan = hp.plan(cubes, start())
    assert plan.route.startswith("reverse over reverse")
    assert not plan.stored
    assert plan.product_seconds > 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"job": "train"}, "expected one of 'classify', 'escape', 'eigsh', 'dense'"),
        ({"job": "eigsh", "confidence": 0.9}, "confidence=0.9 is no option of job='eigsh'"),
        ({"count": 1}, "count=1; expected True or False"),
        ({"job": "escape", "count": True}, "count=True is no option of job='escape'"),
        ({"job": "eigsh", "rtol": -1.0}, "rtol=-1.0; expected a positive"),
        ({"job": "eigsh", "lowest": 0, "highest": 0}, "ask for at least one pair"),
    ],
)
def test_misuse_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        hp.plan(*bowl(), **options)


def test_what_does_not_fit_says_so_and_runs_nothing(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 60_000)
    plan = hp.plan(*bowl(), job="eigsh", max_basis=100)
    assert not plan.fits
    assert "smaller max_basis" in " ".join(plan.advice)
    assert "DOES NOT FIT" in str(plan)
    assert hp.plan(*bowl(), job="eigsh").fits  # by itself it takes what there is
    monkeypatch.setattr(memory, "free_bytes", lambda: 2000)
    big = hp.plan(smooth, start(), batches(500)[0])
    assert not big.fits
    assert big.seconds is None
    assert "smaller batches" in " ".join(big.advice)
    dense = hp.plan(*bowl(), job="dense", measure=False)
    assert "hp.eigsh" in dense.advice[0]


def test_a_dense_matrix_that_does_not_fit_is_never_formed(monkeypatch):
    """Refused where asked for; where it was a choice, the other route is taken."""
    loss, x = bowl(100)
    op = hp.hessian(loss, x)
    expected = hp.eigsh(op, lowest=25, highest=2).eigenvalues
    monkeypatch.setattr(memory, "free_bytes", lambda: 100_000)
    with pytest.raises(
        MemoryError, match=r"100 variables needs 78.1 KiB; .* are allowed, 97.7 KiB are free: hp.eigsh"
    ):
        op.dense()
    with pytest.raises(MemoryError, match="whole spectrum of 100 variables needs 391 KiB"):
        eigsh_module.dense_eigh(op)
    found = hp.eigsh(op, lowest=25, highest=2, max_basis=60)
    assert found.method == "lanczos"
    np.testing.assert_allclose(found.eigenvalues, expected, atol=2e-3)
    assert DENSE_SIZE >= 100
    point = hp.classify(loss, x)
    assert point.label == "minimum"
    assert point.lowest.method == "lanczos"


def test_a_dense_matrix_is_the_symmetric_part_block_by_block(key):
    n = 150  # more than two blocks
    matrix = jax.random.normal(key, (n, n))
    op = hp.hessian(lambda x: 0.5 * jnp.vdot(x, matrix @ x), jnp.zeros(n))
    exact = 0.5 * np.asarray(matrix + matrix.T, np.float64)
    np.testing.assert_allclose(op.dense(), exact, atol=1e-5 * np.max(np.abs(exact)))
    np.testing.assert_array_equal(op.dense(), op.dense().T)
