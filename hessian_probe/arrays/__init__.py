"""The vector space of a parameter pytree.

A parameter pytree is split into *variables* (its real floating-point arrays, unless a framework does not
train them) and the rest (integers, Python numbers, random keys, strings, functions).  A vector of the
space is a tuple with one array per variable, in at least float32.  `Layout` remembers how to go back and
forth; everything else here is linear algebra on such tuples and on bases (the same with a leading axis).
"""

from hessian_probe.arrays.algebra import accumulator as accumulator
from hessian_probe.arrays.algebra import add_scaled as add_scaled
from hessian_probe.arrays.algebra import as_basis as as_basis
from hessian_probe.arrays.algebra import cast as cast
from hessian_probe.arrays.algebra import coefficients as coefficients
from hessian_probe.arrays.algebra import combine as combine
from hessian_probe.arrays.algebra import dot as dot
from hessian_probe.arrays.algebra import first_nonfinite as first_nonfinite
from hessian_probe.arrays.algebra import host_norm as host_norm
from hessian_probe.arrays.algebra import norm as norm
from hessian_probe.arrays.algebra import row as row
from hessian_probe.arrays.algebra import scale as scale
from hessian_probe.arrays.algebra import select as select
from hessian_probe.arrays.layout import Identity as Identity
from hessian_probe.arrays.layout import Layout as Layout
from hessian_probe.arrays.layout import at_least_float32 as at_least_float32
from hessian_probe.arrays.layout import chosen_variables as chosen_variables
from hessian_probe.arrays.layout import flatten as flatten
from hessian_probe.arrays.layout import flatten_rows as flatten_rows
from hessian_probe.arrays.layout import from_tangent as from_tangent
from hessian_probe.arrays.layout import hashable as hashable
from hessian_probe.arrays.layout import hold_others as hold_others
from hessian_probe.arrays.layout import leaf_name as leaf_name
from hessian_probe.arrays.layout import merge as merge
from hessian_probe.arrays.layout import split as split
from hessian_probe.arrays.layout import tangent as tangent
from hessian_probe.arrays.layout import unflatten as unflatten
from hessian_probe.arrays.layout import unflatten_rows as unflatten_rows
from hessian_probe.arrays.layout import widest as widest
from hessian_probe.arrays.random import generator as generator
from hessian_probe.arrays.random import random_normal as random_normal
from hessian_probe.arrays.types import Array as Array
from hessian_probe.arrays.types import Basis as Basis
from hessian_probe.arrays.types import Bool as Bool
from hessian_probe.arrays.types import Float as Float
from hessian_probe.arrays.types import PyTree as PyTree
from hessian_probe.arrays.types import Vector as Vector
