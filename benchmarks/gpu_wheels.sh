#!/usr/bin/env bash
# Collects in benchmarks/wheels what gpu.sh needs on a machine that reaches nothing and has only Python 3.12 on x86, torch
# and pytorch-lightning: wheels of the pinned versions, and a tiny data set. Run it where `make` has been.
#
#   benchmarks/gpu_wheels.sh [VERSION of torchvision]     the one that fits that machine's torch; 0.26.0 fits torch 2.11
#
# Not among them: OpenCV, PyAV, SciPy and wandb, which are large and which training does without.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root=$(dirname "$here")
python=${EMOHEAD_PYTHON:-$root/.venv/bin/python}
wheels=$here/wheels
names=(
  einops rich markdown-it-py mdurl pygments safetensors simplejpeg soundfile cffi pycparser pillow threadpoolctl typer
  click shellingham annotated-doc urllib3 omegaconf webdataset braceexpand open-clip-torch ftfy
  wcwidth regex huggingface-hub timm deepspeed hjson msgpack psutil py-cpuinfo pydantic pydantic-core annotated-types
  typing-inspection ninja httpx2 httpcore2 h11 anyio sniffio idna certifi truststore pytest pluggy iniconfig
)
pins=()
for name in "${names[@]}"; do
  pin=$(grep -m1 -oE "^$name==[^ ]+" "$root/requirements/lock.txt") || { echo "$name is not in the lock" >&2; exit 1; }
  pins+=("$pin")
done
rm -rf "$wheels"
mkdir -p "$wheels"
get=("$python" -m pip --disable-pip-version-check --quiet)
sources=()  # those that are published without a wheel
for pin in "${pins[@]}" "torchvision==${1:-0.26.0}"; do
  "${get[@]}" download --no-deps --only-binary :all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform any --dest "$wheels" "$pin" 2>/dev/null ||
    sources+=("$pin")
done
for pin in "${sources[@]}"; do
  "${get[@]}" wheel --no-deps --no-build-isolation --wheel-dir "$wheels" "$pin"
done
"$python" -c "
from pathlib import Path
from emohead.apps.demo_plan import TINY
from emohead.datamodules.synthetic.corpus import SyntheticConfig, prepare_synthetic
prepare_synthetic(Path('$wheels/data'), SyntheticConfig(seed=0, workers=2, **TINY.corpus), codec='mjpeg')
"
size=$(du -sm "$wheels" | cut -f1)
echo "$wheels: $size MiB"
[ "$size" -le 60 ] || { echo "more than the 60 MiB that may travel" >&2; exit 1; }
