"""The main job on real input: stuck, classified, escaped, trained on; what `hessian-probe demo` runs."""
