#!/usr/bin/env bash
# What a machine with a GPU gives: samples/s, MFU and peak memory of each stage at full size, every ZeRO stage on NCCL,
# and the two engines of the adversarial stage against plain PyTorch. Prints a table, writes JSON.
#
#   benchmarks/gpu.sh [--out benchmarks/results/gpu.json] [gpu.py's options]
#
# Works from any folder. Without a GPU it says so and ends well. EMOHEAD_PYTHON names the Python where it is not in
# .venv/bin of this project.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "${EMOHEAD_PYTHON:-$root/.venv/bin/python}" "$root/benchmarks/gpu.py" "$@"
