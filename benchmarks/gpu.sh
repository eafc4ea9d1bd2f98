#!/usr/bin/env bash
# What a machine with a GPU gives: whether it computes what a CPU does, samples/s, MFU and memory of each stage at full
# size, every ZeRO stage on NCCL, runs that are killed, what holds a step up. Prints and writes JSON after each row.
#
#   benchmarks/gpu.sh [--out benchmarks/results/gpu.json] [--seconds 540] [--only face] [gpu.py's options]
#
# Works from any folder. Without a GPU it says so and ends well. EMOHEAD_PYTHON names the Python where it is not in
# .venv/bin of this project; the project itself need not be installed there. Wheels that lie in benchmarks/wheels
# (benchmarks/gpu_wheels.sh) are unpacked beside it first: so a machine that reaches nothing has what torch lacks.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python=${EMOHEAD_PYTHON:-$root/.venv/bin/python}
beside=$(mktemp -d)
trap 'rm -rf "$beside"' EXIT
ln -s "$root" "$beside/emohead"
mkdir "$beside/wheels"
for wheel in "$root"/benchmarks/wheels/*.whl; do
  [ -e "$wheel" ] || continue
  "$python" -m zipfile -e "$wheel" "$beside/wheels"
done
# What the machine has itself comes first: torch is to be its own.
echo "import sys; sys.path.append('$beside/wheels')" >"$beside/sitecustomize.py"
PYTHONPATH="$root:$beside${PYTHONPATH:+:$PYTHONPATH}" "$python" "$root/benchmarks/gpu.py" "$@"
