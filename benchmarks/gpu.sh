#!/usr/bin/env bash
# The check on one GPU, at most 8 minutes on an H200: does the character GPT reach nanoGPT's loss and
# a better one, and how fast are its steps and GPT-2's, beside torch.compile in the same run?
#
#   benchmarks/gpu.sh           needs the packages of `make peers`, and ZOO_DATA or network
#   OUT=DIR PY=PYTHON           where the run goes (runs/gpu), and the interpreter (.venv/bin/python)
#   BENCH_TINY=1                small shapes, for a machine without a GPU
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/gpu} PY=${PY:-.venv/bin/python} GOAL=1.43
settings=()
if [[ -n ${BENCH_TINY:-} ]]; then
  settings=(--set=steps=4 --set=evaluate_every=2 --set=batch_size=4 --set=precision=auto
    --set=sample_tokens=5 '--set=model={"num_layers":1,"hidden_dim":64,"num_heads":2,"context_length":32}')
fi
command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=name,memory.total --format=csv,noheader
timeout 250 "$PY" -m trainers --recipe=shakespeare_gpt --workdir="$OUT/shakespeare" \
  --set=baseline=false "${settings[@]}" || echo "shakespeare_gpt ended with $?"
"$PY" - "$OUT/shakespeare/metrics.jsonl" "$GOAL" <<'PYTHON'
import json, sys
records = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
best = min(records, key=lambda record: record["val_loss"])
reached = "reached" if best["val_loss"] <= float(sys.argv[2]) else "not reached"
print(f"shakespeare_gpt: validation loss {best['val_loss']:.4f} at step {best['step']} of "
      f"{records[-1]['step']}, {records[-1]['seconds']:.0f} s; goal {sys.argv[2]}: {reached}")
PYTHON
timeout 230 "$PY" -m benchmarks.gpu_steps
