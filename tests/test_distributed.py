"""The contrastive loss on 1, 2 and 4 real processes equals that of the whole batch."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

RANKS = Path(__file__).with_name("ranks.py")


def on_ranks(ranks: int, *args: str) -> dict[str, float]:
    "Run tests/ranks.py on so many gloo processes; the errors that rank 0 printed, by name."
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               f"--nproc_per_node={ranks}", str(RANKS), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: float(value) for name, value in
            (line.split() for line in done.stdout.splitlines() if line.strip())}


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_loss_and_gradients_equal_the_whole_batch(ranks):
    errors = on_ranks(ranks)
    print(ranks, errors)
    for name in ("loss_contrast", "features", "head", "model"):
        assert errors[name] < 1e-5, (ranks, name, errors)
    wrong = errors["rank_local_loss"], errors["rank_local_features"], errors["rank_local_model"]
    if ranks > 1:
        assert min(wrong) > 1e-2, errors    # the same check catches the authors' labelling
