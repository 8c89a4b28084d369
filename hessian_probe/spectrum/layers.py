"""The spectrum layer by layer: each diagonal block's, and which layers hold the extreme eigenvectors."""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from hessian_probe.arrays import Float, from_tangent
from hessian_probe.operators.blocks import BlockOperator, blocks_of
from hessian_probe.operators.symmetric import SymmetricOperator, require_operator
from hessian_probe.results import number, result, signed
from hessian_probe.spectrum.density import spectral_density
from hessian_probe.spectrum.eigsh import eigsh
from hessian_probe.spectrum.result import EigenResult
from hessian_probe.spectrum.sums import trace

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = ("sizes", "lowest", "highest", "trace", "trace_error", "negative_mass", "in_lowest", "in_highest")


@result(leaves=(*COLUMNS, "eigen"))
class LayerTable:
    """The spectrum of each diagonal block of a symmetric map; made by `layer_table`.

    Attributes:
        names: of the k blocks: the path that their leaves share.
        sizes: shape (k,): number of variables of each.
        lowest: shape (k,): smallest eigenvalue of each block, in loss / params² for a Hessian.
        highest: shape (k,): the largest.
        trace: shape (k,): its trace.
        trace_error: shape (k,): standard error of that; the rounding error where it is exact.
        negative_mass: shape (k,): share of the block's eigenvalues that are negative, in [0, 1].
        in_lowest: shape (k,): share of the squared norm of the whole map's lowest eigenvector that lies in
            the block; they add up to 1.
        in_highest: shape (k,): the same for the highest.
        eigen: EigenResult of the whole map, lowest and highest pair.
        statuses: for each block "converged", or the first other status that a part of its row has.
        num_hvps: products spent with the whole map.
        status: "converged", or the first other status of the whole map or a block.
        variables: which leaves were varied, and which were left out and why.
    """

    names: tuple[str, ...]
    sizes: Float[np.ndarray, " k"]
    lowest: Float[np.ndarray, " k"]
    highest: Float[np.ndarray, " k"]
    trace: Float[np.ndarray, " k"]
    trace_error: Float[np.ndarray, " k"]
    negative_mass: Float[np.ndarray, " k"]
    in_lowest: Float[np.ndarray, " k"]
    in_highest: Float[np.ndarray, " k"]
    eigen: EigenResult
    statuses: tuple[str, ...]
    num_hvps: int
    status: str
    variables: str = ""

    def to_pandas(self) -> DataFrame:
        """Return the table as a `pandas.DataFrame`, one row a block.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise ImportError("to_pandas needs pandas, which is not installed: pip install pandas") from error
        columns = {name: np.asarray(getattr(self, name)) for name in COLUMNS}
        return DataFrame({**columns, "status": self.statuses}, index=list(self.names))

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        rows = [
            (
                name,
                f"n {int(self.sizes[i])}, from {signed(self.lowest[i], 3)} to {signed(self.highest[i], 3)}, "
                f"trace {signed(self.trace[i], 3)} ± {number(self.trace_error[i], 1)}, "
                f"{number(100 * self.negative_mass[i], 2)} % negative; holds "
                f"{number(100 * self.in_lowest[i], 2)} % of the lowest eigenvector, "
                f"{number(100 * self.in_highest[i], 2)} % of the highest",
            )
            for i, name in enumerate(self.names)
        ]
        return f"LayerTable: {self.status.upper()}", [*rows, ("cost", f"{self.num_hvps} HVPs")]


def layer_table(
    op: SymmetricOperator,
    *,
    by: str | Callable[[str], Any] = "layer",
    rtol: float = 1e-3,
    max_hvps: int | None = None,
    key: jax.Array | None = None,
    progress: Callable[[str], None] | None = None,
) -> LayerTable:
    """Tabulate the spectrum of each layer, and which layers hold the extreme eigenvectors of the whole.

    Args:
        op: an operator of this package.
        by: what a block is, as for `hp.block_diagonal`: "layer", "leaf" or a function of a leaf's path.
        rtol: accuracy of eigenpairs, as for `hp.eigsh`.
        max_hvps: products allowed for each figure of a block, and for the whole; None means 1000.
        key: random key; None means `jax.random.key(0)`.
        progress: called with a line of text after every block.

    Returns:
        LayerTable.  A block with at most `max_hvps` and 2,048 variables is computed, a larger one is
        estimated; its share of negative curvature then has the error of `hp.spectral_density`.

    Raises:
        TypeError: `op` is no operator.
        ValueError: `by` is another word; rtol is not positive; max_hvps is below 4.

    Cost:
        As many products as a block has variables where that is computed; else those of `hp.eigsh`, `hp.trace`
        and `hp.spectral_density`.

    Source:
        Y. Zhang et al., Why transformers need Adam: a Hessian perspective, 2024, arXiv:2402.16788.

    Examples:
        >>> import hessian_probe as hp, jax.numpy as jnp
        >>> params = {"a": jnp.ones(2), "b": jnp.ones(3)}
        >>> op = hp.hessian(lambda p: jnp.sum(p["a"] ** 2) - jnp.sum(p["b"] ** 2) ** 2, params)
        >>> found = layer_table(op)
        >>> found.names, found.highest.round(3).tolist(), found.negative_mass.tolist()
        (("params['a']", "params['b']"), [2.0, -12.0], [0.0, 1.0])
    """
    require_operator(op)
    budget, before = 1000 if max_hvps is None else max_hvps, op.num_hvps
    blocks = blocks_of(op.layout, by)
    eigen = eigsh(op, rtol=rtol, max_hvps=budget, key=key)
    rows, statuses = [], []
    for name, chosen in blocks.items():
        figures, status = _figures(BlockOperator(op, chosen), rtol, budget, key)
        rows.append((*figures, _share(op, eigen, 0, chosen), _share(op, eigen, -1, chosen)))
        statuses.append(status)
        if progress is not None:
            progress(f"{name}: from {signed(figures[1], 3)} to {signed(figures[2], 3)}")
    columns = np.array(rows, np.float64).T
    return LayerTable(
        names=tuple(blocks),
        **dict(zip(COLUMNS, columns, strict=True)),
        eigen=eigen,
        statuses=tuple(statuses),
        num_hvps=op.num_hvps - before,
        status=_first_other([eigen.status, *statuses]),
        variables=str(op.layout),
    )


def _figures(
    block: BlockOperator, rtol: float, budget: int, key: jax.Array | None
) -> tuple[tuple[float, ...], str]:
    """Size, both ends, trace with its error and share of negative curvature of one block; its status."""
    if not any(block.active):
        return (block.size, 0.0, 0.0, 0.0, 0.0, 0.0), "converged"
    density = spectral_density(block, max_hvps=budget, key=key)
    if density.method == "exact":
        values = np.concatenate([density.nodes, density.outliers])
        total = float(np.sum(values))
        ends = (np.min(values), np.max(values)) if len(values) else (np.nan, np.nan)
        rounding = block.eps * np.sqrt(block.size) * float(np.sum(np.abs(values)))
        return (block.size, *ends, total, rounding, density.negative_mass), density.status
    eigen = eigsh(block, rtol=rtol, max_hvps=budget, key=key)
    found = trace(block, max_hvps=budget, key=key)
    low, high = eigen.eigenvalues[[0, -1]] if len(eigen.eigenvalues) else (np.nan, np.nan)
    figures = (block.size, low, high, found.value, found.standard_error, density.negative_mass)
    return figures, _first_other([eigen.status, found.status, density.status])


def _first_other(statuses: list[str]) -> str:
    return next((status for status in statuses if status != "converged"), "converged")


def _share(op: SymmetricOperator, eigen: EigenResult, index: int, chosen: tuple[bool, ...]) -> float:
    """Share of an eigenvector's squared norm that lies in a block; NaN where there is none."""
    if not len(eigen.eigenvalues):
        return float("nan")
    vector = from_tangent(op.layout, eigen.vector(index % len(eigen.eigenvalues)), "an eigenvector")
    squares = [float(np.sum(np.square(np.asarray(leaf, np.float64)))) for leaf in vector]
    return sum(compress(squares, chosen)) / sum(squares)
