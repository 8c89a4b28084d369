"""A plan, as it is read before a long job."""

from __future__ import annotations

from hessian_probe.operators.memory import readable
from hessian_probe.results import number, result


@result(leaves=())
class Plan:
    """What a job would take, and what its loss shows; made by `plan`.

    Attributes:
        job: "classify", "escape", "eigsh" or "dense".
        fits: whether it fits in the free memory.
        num_hvps: Hessian-vector products expected.
        max_hvps: products at most.
        why: what the expectation rests on.
        seconds: time expected for products and gradients; None if nothing was run.  Left out are compilation,
            what the host does between them (a tenth of a second, measured on small problems), and the
            evaluations where second order is silent (see `hp.classify`).
        max_seconds: the same with the most products.
        gradient_seconds: one gradient over all the data; None if nothing was run.
        product_seconds: one product; None if nothing was run.
        compile_seconds: compilation of gradient and product; a search compiles a few small ones beside.
        measured: what was measured.
        peak_bytes: memory at once: parameters, program, stored linearisation, basis, dense matrices.
        free_bytes: memory free when asked.
        program_bytes: peak of the product's compiled program, by its own analysis.
        temporaries_known: False where the backend does not tell what a program takes in between: then
            `program_bytes` and `peak_bytes` leave that out.
        residual_bytes: the linearised gradient, of all batches; 0 where the route has none.
        basis_bytes: Krylov basis, at most.
        dense_bytes: the Hessian as a float64 matrix.
        dense: whether the job forms it.
        dense_fits: whether `op.dense()` would.
        route: derivative route, and whether it is linearised once or recomputed.
        stored: whether the linearisation is stored.
        noticed: codes for programs: "unrepeatable", "random", "callback", "precision:bfloat16",
            "reduced_matmul", "custom_derivative:NAME", "kink:NAME", "loop:NAME", "unused:LEAF",
            "fixed:LEAF", "batches:COUNT", "ragged".
        remarks: the same as sentences, in the same order.
        advice: what to do instead where it does not fit.
        size: number of variables.
        dtype: precision of the parameters.
        device: where it would run.
    """

    job: str
    fits: bool
    num_hvps: int
    max_hvps: int
    why: str
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

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        verdict = "FITS" if self.fits else "DOES NOT FIT"
        title = f"Plan: {self.job} {verdict}   {self.size} variables, {self.dtype}, {self.device}"
        rows = [("instead", text) for text in self.advice]
        rows.append(("products", f"about {self.num_hvps}, at most {self.max_hvps}: {self.why}"))
        if self.seconds is not None and self.max_seconds is not None:
            most = f"at most {number(self.max_seconds, 2)} s"
            rows.append(("time", f"about {number(self.seconds, 2)} s, {most}; {self.measured}"))
            rows.append(("", "of products and gradients; the host's own work comes on top"))
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
        unknown = "" if self.temporaries_known else " and its temporaries, which the backend does not tell"
        parts = [f"product {readable(self.program_bytes)}{unknown}"]
        if self.stored:
            parts.append(f"linearisation {readable(self.residual_bytes)}")
        if self.basis_bytes:
            parts.append(f"basis up to {readable(self.basis_bytes)}")
        return ", ".join(parts)
