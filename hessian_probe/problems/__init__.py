"""Functions and networks with known critical points, for tests, notebooks and users alike.

Everything is handed out as a ``KnownPoint``: a loss, parameters and the truth about them.
``truth_points()`` lists them all; the other functions build one family each.
"""

from hessian_probe.problems.certificates import certificate_points as certificate_points
from hessian_probe.problems.clusters import cluster_points as cluster_points
from hessian_probe.problems.clusters import lennard_jones as lennard_jones
from hessian_probe.problems.degenerate import degenerate_points as degenerate_points
from hessian_probe.problems.degenerate import trap_points as trap_points
from hessian_probe.problems.flat_forms import flat_form_points as flat_form_points
from hessian_probe.problems.flat_forms import peano_points as peano_points
from hessian_probe.problems.flat_valleys import flat_valley_points as flat_valley_points
from hessian_probe.problems.kinked import kink_points as kink_points
from hessian_probe.problems.known_point import KnownPoint as KnownPoint
from hessian_probe.problems.linear_networks import deep_linear_loss as deep_linear_loss
from hessian_probe.problems.linear_networks import deep_linear_point as deep_linear_point
from hessian_probe.problems.linear_tables import linear_network_points as linear_network_points
from hessian_probe.problems.low_precision import precision_points as precision_points
from hessian_probe.problems.networks import digits as digits
from hessian_probe.problems.networks import digits_mlp_85k as digits_mlp_85k
from hessian_probe.problems.networks import lecture_loss as lecture_loss
from hessian_probe.problems.networks import lecture_points as lecture_points
from hessian_probe.problems.networks import mlp_apply as mlp_apply
from hessian_probe.problems.networks import mlp_init as mlp_init
from hessian_probe.problems.networks import mlp_loss as mlp_loss
from hessian_probe.problems.networks import zero_mlp_point as zero_mlp_point
from hessian_probe.problems.octopus import octopus as octopus
from hessian_probe.problems.plane import PLANE_FUNCTIONS as PLANE_FUNCTIONS
from hessian_probe.problems.plane import dixon_price as dixon_price
from hessian_probe.problems.plane import styblinski_tang as styblinski_tang
from hessian_probe.problems.plane_tables import closed_form_points as closed_form_points
from hessian_probe.problems.plane_tables import styblinski_tang_points as styblinski_tang_points
from hessian_probe.problems.plateaus import PLATEAU_ACTIVATIONS as PLATEAU_ACTIVATIONS
from hessian_probe.problems.plateaus import PLATEAU_STATES as PLATEAU_STATES
from hessian_probe.problems.plateaus import descend as descend
from hessian_probe.problems.plateaus import plateau_points as plateau_points
from hessian_probe.problems.polynomials import axis_aligned_saddles as axis_aligned_saddles
from hessian_probe.problems.polynomials import quadratic as quadratic
from hessian_probe.problems.polynomials import random_polynomial as random_polynomial
from hessian_probe.problems.polynomials import ridge_gradient as ridge_gradient
from hessian_probe.problems.polynomials import ridge_hessian as ridge_hessian
from hessian_probe.problems.polynomials import ridge_polynomial as ridge_polynomial
from hessian_probe.problems.sampled import sampled_points as sampled_points
from hessian_probe.problems.scales import scale_points as scale_points
from hessian_probe.problems.slopes import slope_points as slope_points
from hessian_probe.problems.truth import TRUTH_KINDS as TRUTH_KINDS
from hessian_probe.problems.truth import truth_points as truth_points
