"""Array types with shapes for signatures: jaxtyping's `Float` and `Bool`, or a stand-in without it.

`Float[Array, "k n"]` is an array of real numbers with k rows of n entries; `Float[Array, ""]` is a scalar.
Nothing is checked at run time unless jaxtyping's import hook is installed before the package is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jax import Array

if TYPE_CHECKING:
    from typing import Annotated as Bool
    from typing import Annotated as Float

    Leaf = Array
else:
    Leaf = Array | np.ndarray  # NumPy's arrays are accepted wherever JAX's are
    try:
        from jaxtyping import Bool, Float
    except ImportError:

        class Bool:
            """Stands for jaxtyping's: the type of the array alone."""

            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                """Leave the shape out."""
                return item[0]

        Float = Bool


__all__ = ("Array", "Basis", "Bool", "Float", "Leaf", "PyTree", "Vector")

PyTree = Any
# One array for each variable.
Vector = tuple[Float[Leaf, "..."], ...]
# The same with a leading axis: vectors as rows.
Basis = tuple[Float[Leaf, "_ ..."], ...]
