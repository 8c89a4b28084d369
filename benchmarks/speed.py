"""Speed of products and of both spectrum ends on an 85,002-parameter network; prints one table.

Run as `python -m benchmarks.speed` (or `make bench`).  Gradient, product and searches take turns in
one process, so that ratios hold even where the machine's speed wanders; medians are printed with the
quartiles' spread.  Compilation is measured apart, in this process's first calls.
"""

import os
import platform
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import hessian_probe as hp
from benchmarks.report import command_line, seconds
from hessian_probe.arrays import generator, random_normal
from hessian_probe.problems import KnownPoint, digits, mlp_loss

# What `make bench` must show; the last column of the table says whether it does.
BARS = {"ratio": 1.4, "products_1e-3": 45, "wall_1e-3": 1.25, "products_1e-5": 100}


def digits_mlp_85k() -> KnownPoint:
    """Load a 64-256-256-10 tanh network, 85,002 parameters, after 60 steps of Adam on the digits.

    Computed in float64: loss 0.114163508, gradient norm 0.0554938, lowest eigenvalues −0.01638593,
    −0.01557427, −0.01541035, −0.01531253, highest 2.88197401, 2.30781933, 2.22624115, 1.55745896.
    """
    with np.load(Path(__file__).parent / "data" / "digits_mlp_85k.npz") as arrays:
        layers = [[np.asarray(arrays[f"{letter}{i}"], np.float64) for letter in "WB"] for i in range(3)]
    params = tuple({"weight": weight, "bias": bias} for weight, bias in layers)
    loss, data = mlp_loss("tanh", "cross_entropy"), digits(one_hot=False)
    return KnownPoint("digits_mlp_85k", loss, params, "not_critical", data=data)


def spread(samples: list[float]) -> str:
    """Median in milliseconds with the distance between the quartiles."""
    low, middle, high = statistics.quantiles(samples, n=4)
    return f"{1e3 * middle:8.2f} ms  (quartiles {1e3 * low:.2f} … {1e3 * high:.2f})"


def main() -> int:
    """Measure and print."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="searches timed for each tolerance")
    rounds = parser.parse_args().rounds
    known = digits_mlp_85k().astype(np.float32)
    params, batch = jax.tree.map(jnp.asarray, known.args)
    gradient = jax.jit(jax.grad(known.loss))

    compile_gradient = seconds(lambda: gradient(params, batch))
    op = hp.hessian(known.loss, params, batch)
    vector = random_normal(generator(), op.layout)
    compile_product = seconds(lambda: op.apply(vector))
    compile_search = seconds(lambda: hp.eigsh(op, rtol=1e-5).eigenvalues)

    where = f"{jax.devices()[0].device_kind} ({platform.machine()}, {os.cpu_count()} cores)"
    print(
        f"{op.size} variables, {op.dtype}, jax {jax.__version__}, {where}\nroute: {op.route}\n"
        f"first calls, compilation included: gradient {compile_gradient:.1f} s, operator with its "
        f"self-check {compile_product:.1f} s, search {compile_search:.1f} s"
    )

    times: dict[str, list[float]] = {"gradient": [], "product": [], "1e-3": [], "1e-5": []}
    found: dict[str, hp.EigenResult] = {}
    for _ in range(rounds):
        for _ in range(10):  # alternate, so that both see the same machine
            times["gradient"].append(seconds(lambda: gradient(params, batch)))
            times["product"].append(seconds(lambda: op.apply(vector)))
        for name in ("1e-3", "1e-5"):
            began = time.perf_counter()
            found[name] = hp.eigsh(op, rtol=float(name))
            times[name].append(time.perf_counter() - began)

    product = statistics.median(times["product"])
    print(f"gradient           {spread(times['gradient'])}")
    print(f"product            {spread(times['product'])}")
    results = [("product ÷ gradient", product / statistics.median(times["gradient"]), BARS["ratio"])]
    for name in ("1e-3", "1e-5"):
        eig = found[name]
        (low, high), errors = eig.eigenvalues, eig.residual_norms
        print(f"both ends to {name}  {spread(times[name])}")
        print(f"    λ {low:+.6f} ± {errors[0]:.1e}, {high:+.6f} ± {errors[1]:.1e}, {eig.status}")
        wall = statistics.median(times[name]) / (eig.num_hvps * product)
        results.append((f"products, {name}", eig.num_hvps, BARS[f"products_{name}"]))
        results.append((f"wall ÷ products, {name}", wall, BARS.get(f"wall_{name}")))
    for name, value, bar in results:
        verdict = "" if bar is None else f"   bar {bar:g}: {'met' if value <= bar else 'MISSED'}"
        print(f"{name:<24}{value:8.3g}{verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
