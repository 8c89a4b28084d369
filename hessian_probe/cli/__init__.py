"""The program `hessian-probe`."""

from hessian_probe.cli.program import main as main
