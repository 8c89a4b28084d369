"""`python -m hessian_probe.cli`, for where the program is not on the path."""

import sys

from hessian_probe.cli.program import main

sys.exit(main())
