#!/usr/bin/env bash
# All that is to be known of a GPU, in one call of less than nine minutes, on a machine with torch 2.11 or later and nothing to reach.
# It has not run on a GPU yet. Before: `python -m benchmarks.gpu_pack` where packages can be had; then take the repository and
# .limoe/gpu there (together at most 64 MiB). Results: gpu.jsonl and gpu.md in $OUT, or in .limoe/bench. `--tiny`: on a processor.
set -euo pipefail
cd "$(dirname "$0")/.."
pack=${PACK:-.limoe/gpu}
out=${OUT:-.limoe/bench}
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
"$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$pack"/wheels/*.whl
export PYTHONPATH="$site:$PWD" PYTHONUNBUFFERED=1
mkdir -p "$out"
rm -f "$out/gpu.jsonl"
status=0
timeout --kill-after=5 510 "$python" -m benchmarks.gpu --data "$pack/prepared" --json "$out/gpu.jsonl" "$@" || status=$?
if [ -e "$out/gpu.jsonl" ]; then
  "$python" -m benchmarks.gpu_report "$out/gpu.jsonl" | tee "$out/gpu.md"
fi
exit "$status"
