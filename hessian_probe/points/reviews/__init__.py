"""Reviews that confirm, replace or withdraw a verdict: degenerate, badly scaled, nonsmooth, sampled."""
