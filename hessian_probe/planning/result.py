"""The plan of a long job, and how it prints."""

from __future__ import annotations

from hessian_probe.operators.memory import readable
from hessian_probe.results import number, result


@result(leaves=())
class Plan:
    """Cost and memory of a job, and what its loss's program shows; made by `plan`.

    Attributes:
        job: "classify", "escape", "eigsh" or "dense".
        fits: whether it fits in the free memory.
        num_hvps: Hessian-vector products expected.
        max_hvps: products at most.
        evidence: the assumption behind `num_hvps`.
        seconds: time expected for products and gradients; None if nothing was run.  Not included:
            compilation, the host's work between products (a tenth of a second, measured on small problems),
            and the evaluations where second order is silent (see `hp.classify`).
        max_seconds: the same for `max_hvps` products.
        gradient_seconds: one gradient over all the data; None if nothing was run.
        product_seconds: one product; None if nothing was run.
        compile_seconds: compilation of gradient and product; a search compiles a few small programs besides.
        measured: what was timed.
        peak_bytes: memory in use at once: parameters, program, stored linearisation, basis, dense matrices.
        free_bytes: memory free when asked.
        program_bytes: peak of the product's compiled program, by the compiler's analysis.
        temporaries_known: False where the backend does not report a program's temporaries: then
            `program_bytes` and `peak_bytes` do not include them.
        residual_bytes: the linearised gradient, of all batches; 0 where the route does not linearise.
        basis_bytes: Krylov basis, at most.
        dense_bytes: the Hessian as a float64 matrix.
        dense: whether the job forms that matrix.
        dense_fits: whether it fits in the free memory.
        route: derivative route, and whether it is linearised once or recomputed.
        stored: whether the linearisation is stored.
        noticed: codes of what was noticed: "unrepeatable", "random", "callback", "precision:bfloat16",
            "reduced_matmul", "custom_derivative:NAME", "kink:NAME", "loop:NAME", "unused:LEAF",
            "fixed:LEAF", "batches:COUNT", "ragged", "stop_gradient"; where gradients were measured also
            "gradient_nonfinite", "derivative_not_of_loss".
        remarks: a sentence for each code, in the same order.
        advice: what to do instead where it does not fit.
        size: number of variables.
        dtype: precision of the parameters.
        device: where it would run.
        variables: which leaves are varied, and which are left out and why.
    """

    job: str
    fits: bool
    num_hvps: int
    max_hvps: int
    evidence: tuple[str, ...]
    seconds: float | None
    max_seconds: float | None
    gradient_seconds: float | None
    product_seconds: float | None
    compile_seconds: float
    measured: str
    peak_bytes: int
    free_bytes: int
    program_bytes: int
    temporaries_known: bool
    residual_bytes: int
    basis_bytes: int
    dense_bytes: int
    dense: bool
    dense_fits: bool
    route: str
    stored: bool
    noticed: tuple[str, ...]
    remarks: tuple[str, ...]
    advice: tuple[str, ...]
    size: int
    dtype: str
    device: str
    variables: str = ""

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        verdict = "FITS" if self.fits else "DOES NOT FIT"
        title = f"Plan: {self.job} {verdict}   {self.size} variables, {self.dtype}, {self.device}"
        rows = [("instead", text) for text in self.advice]
        rows.append(
            ("products", f"about {self.num_hvps}, at most {self.max_hvps}: {'; '.join(self.evidence)}")
        )
        if self.seconds is not None and self.max_seconds is not None:
            most = f"at most {number(self.max_seconds, 2)} s"
            rows.append(("time", f"about {number(self.seconds, 2)} s, {most}; {self.measured}"))
            rows.append(("", "for products and gradients, without the host's own work"))
        else:
            rows.append(("time", f"unknown: {self.measured}"))
        rows.append(("compiling", f"{number(self.compile_seconds, 2)} s for gradient and product"))
        rows.append(("memory", f"{readable(self.peak_bytes)} of {readable(self.free_bytes)} free"))
        rows.append(("", self._parts()))
        rows.append(("route", self.route))
        fits = "fits" if self.dense_fits else "does not fit"
        use = "is formed" if self.dense else "is not formed"
        rows.append(("matrix", f"{readable(self.dense_bytes)} dense {fits}; it {use}"))
        rows.extend(("noticed", text) for text in self.remarks)
        return title, rows

    def _parts(self) -> str:
        unknown = "" if self.temporaries_known else " and its temporaries, which the backend does not report"
        parts = [f"product {readable(self.program_bytes)}{unknown}"]
        if self.stored:
            parts.append(f"linearisation {readable(self.residual_bytes)}")
        if self.basis_bytes:
            parts.append(f"basis up to {readable(self.basis_bytes)}")
        return ", ".join(parts)
