"""Functions and networks with known critical points, for tests, notebooks and users alike.

Every point is handed out as a ``KnownPoint``: a loss, parameters and the truth about them.
"""

from hessian_probe.problems.known_point import KnownPoint as KnownPoint
from hessian_probe.problems.linear_networks import deep_linear_loss as deep_linear_loss
from hessian_probe.problems.linear_networks import deep_linear_point as deep_linear_point
from hessian_probe.problems.networks import digits as digits
from hessian_probe.problems.networks import lecture_loss as lecture_loss
from hessian_probe.problems.networks import lecture_points as lecture_points
from hessian_probe.problems.networks import mlp_apply as mlp_apply
from hessian_probe.problems.networks import mlp_init as mlp_init
from hessian_probe.problems.networks import mlp_loss as mlp_loss
from hessian_probe.problems.networks import zero_mlp_point as zero_mlp_point
from hessian_probe.problems.octopus import octopus as octopus
from hessian_probe.problems.polynomials import quadratic as quadratic
from hessian_probe.problems.polynomials import random_polynomial as random_polynomial
from hessian_probe.problems.polynomials import ridge_polynomial as ridge_polynomial
