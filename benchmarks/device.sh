#!/bin/sh
# Measures on the machine's accelerator within ten minutes: sh benchmarks/device.sh [folder for the results].
# Installs this project and JAX for CUDA into .device-venv (JAX_EXTRA= takes what is there, such as on a CPU).
set -eu
out=${1:-benchmarks/results}
mkdir -p "$out"
if [ ! -x .device-venv/bin/python ]; then
    python3 -m venv --system-site-packages .device-venv
    .device-venv/bin/pip install --quiet ".[demo]" ${JAX_EXTRA-"jax[cuda12]"}
fi
python=.device-venv/bin/python
$python -c "import jax; print(jax.devices())"
timeout 120 $python -m benchmarks.speed | tee "$out/speed.txt" || true
timeout 400 $python -m benchmarks.verdict --rounds 3 --large --json "$out/verdict.json" | tee "$out/verdict.txt"
