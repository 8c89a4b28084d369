"""hessian_probe: classify critical points, escape saddles, watch training, diagnose why it is stuck."""

from hessian_probe import problems as problems
from hessian_probe import training as training
from hessian_probe.diagnosis.diagnose import diagnose as diagnose
from hessian_probe.diagnosis.result import Diagnosis as Diagnosis
from hessian_probe.diagnosis.result import Finding as Finding
from hessian_probe.diagnosis.result import NotChecked as NotChecked
from hessian_probe.escapes.escape import escape as escape
from hessian_probe.escapes.result import Escape as Escape
from hessian_probe.flatness.result import Sharpness as Sharpness
from hessian_probe.flatness.result import SharpnessMeasure as SharpnessMeasure
from hessian_probe.flatness.sharpness import sharpness as sharpness
from hessian_probe.jobs.state import CheckpointError as CheckpointError
from hessian_probe.operators.data import Batches as Batches
from hessian_probe.operators.data import DataChangedError as DataChangedError
from hessian_probe.operators.gauss_newton import GaussNewtonOperator as GaussNewtonOperator
from hessian_probe.operators.gauss_newton import gauss_newton as gauss_newton
from hessian_probe.operators.hessian import HessianOperator as HessianOperator
from hessian_probe.operators.hessian import hessian as hessian
from hessian_probe.operators.linear_map import LinearMap as LinearMap
from hessian_probe.operators.linear_map import linear_map as linear_map
from hessian_probe.operators.self_check import OperatorCheck as OperatorCheck
from hessian_probe.operators.self_check import OperatorCheckError as OperatorCheckError
from hessian_probe.operators.symmetric import LinearCombination as LinearCombination
from hessian_probe.operators.symmetric import SymmetricOperator as SymmetricOperator
from hessian_probe.optimizers.propose_rate import RateProposal as RateProposal
from hessian_probe.optimizers.propose_rate import propose_rate as propose_rate
from hessian_probe.optimizers.stability import Stability as Stability
from hessian_probe.optimizers.stability import stability as stability
from hessian_probe.planning.plan import plan as plan
from hessian_probe.planning.result import Plan as Plan
from hessian_probe.points.classify import classify as classify
from hessian_probe.points.result import CriticalPoint as CriticalPoint
from hessian_probe.spectrum.density import spectral_density as spectral_density
from hessian_probe.spectrum.density_result import SpectralDensity as SpectralDensity
from hessian_probe.spectrum.diagonal import diagonal as diagonal
from hessian_probe.spectrum.eigsh import eigsh as eigsh
from hessian_probe.spectrum.result import DiagonalEstimate as DiagonalEstimate
from hessian_probe.spectrum.result import EigenResult as EigenResult
from hessian_probe.spectrum.result import IndexEstimate as IndexEstimate
from hessian_probe.spectrum.result import Multiplicity as Multiplicity
from hessian_probe.spectrum.result import NotConvergedError as NotConvergedError
from hessian_probe.spectrum.result import SpectralSum as SpectralSum
from hessian_probe.spectrum.sums import frobenius_norm as frobenius_norm
from hessian_probe.spectrum.sums import trace as trace

__version__ = "0.1.0"
