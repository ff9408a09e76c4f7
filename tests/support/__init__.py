"""What tests share: where things lie, and how a command is started on several ranks.

clips: small media files. waiting: patience. faulty: runs that break. ranks: a layout against the
whole. browser: JupyterLab and a Chromium. fuzz_inputs: spoilt files.
"""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "data_samples"


def torchrun(ranks: int | str) -> list[str]:
    """The beginning of a command that runs a module or a script on so many ranks."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={ranks}"]
