"""Loss and gradients on 1, 2 and 4 real processes, in one piece and in parts, are those of one."""
import subprocess
from pathlib import Path

import pytest
from support.waiting import PATIENCE
from support import torchrun

pytestmark = pytest.mark.floats

RANKS = Path(__file__).resolve().parents[1] / "support/ranks.py"


def on_ranks(ranks: int, *args: str) -> dict[str, tuple]:
    "Run tests/support/ranks.py on so many gloo processes; (loss, worst, which) by name."
    command = [*torchrun(ranks), str(RANKS), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-3000:]
    print(f"{ranks} ranks, {args[0]}\n{done.stdout}")
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
    return {name: (*map(float, numbers), which) for name, *numbers, which in rows}


@pytest.mark.parametrize("ranks, dtype", [(1, "float32"), (2, "float32"), (4, "float32"),
                                         (2, "float64")])
def test_loss_and_gradients_equal_the_whole_batch(ranks, dtype):
    tolerance = {"float64": 1e-7, "float32": 1e-4}[dtype]
    errors = on_ranks(ranks, dtype)
    assert len(errors) == (5 if ranks == 1 else 15)
    for name, (loss, worst, which) in errors.items():
        if name.startswith("control"):          # the same check catches what is wrong
            assert worst > 1e-2, (name, worst)
        else:
            assert loss < tolerance, (name, loss)
            assert worst < tolerance, (name, worst, which)
