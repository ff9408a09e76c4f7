#!/bin/bash
# What only a graphics card can show, in two or three minutes: bash tests/gpu.sh [FILE]
# FILE gets a line of JSON for each check. PYTHON says with which Python (default: .venv, or python3).
cd "$(dirname "$0")/.." || exit
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
"$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || {
  echo "no graphics card that PyTorch can use: nothing to check here" >&2; exit 2; }
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" "$python" tests/tools/gpu.py "$@"
