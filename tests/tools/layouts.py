"""Rows and weights of small runs in every layout, as short hashes: equal before and after a change.

    OMP_NUM_THREADS=1 python tests/tools/layouts.py --out before.json
    OMP_NUM_THREADS=1 python tests/tools/layouts.py --against before.json  (of the tree on
    PYTHONPATH)
    OMP_NUM_THREADS=1 python tests/tools/layouts.py --old FOLDER  (resume what --keep kept)

By hand; not part of `make test`. The debug recipe at seed 0, and a fine-tuning, each with 0 and 2
workers, on 1 and 2 ranks, whole and resumed from the last checkpoint but one. Hashed are the rows
of metrics.jsonl without their clocks, the weights, and the optimiser's moments. Exit code 1 if one
differs. Equal hashes are expected on one machine, with one set of versions, within each layout.
"""
import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `support`
from support import torchrun

ROOT, SAMPLES = Path(__file__).parents[2], "data_samples"
ROW = ("step", "loss", "loss_recon", "loss_contrast", "grad_norm", "skipped", "lambda", "lr",
       "val_loss", "acc1", "accuracy", "top1")
RUNS = {
    "pretrain": ["--recipe", "debug", "--batch-size", 8],
    "finetune": ["--recipe", "finetune_tiny_objects", "--batch-size", 8, "--ema", 0.9,
                 "--erase", 0.5],
}
COMMON = ["--data", SAMPLES, "--seed", 0, "--steps", 8, "--checkpoint-every", 3, "--precision",
          "fp32", "--no-tensorboard", "--device", "cpu"]


def vicmae(*args: object, ranks: int = 1) -> None:
    """`vicmae ARGS`, under torchrun where there are several ranks; its errors end this program."""
    start = [sys.executable]
    if ranks > 1:
        start += torchrun(ranks)[1:]
    done = subprocess.run([*start, "-m", "vicmae.cli", *map(str, args)], capture_output=True,
                          text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=ROOT,
                          check=False)
    if done.returncode:
        raise SystemExit(f"vicmae {' '.join(map(str, args))}\n{done.stderr[-3000:]}")


def short(data: bytes) -> str:
    """The first twelve digits of a SHA-256."""
    return hashlib.sha256(data).hexdigest()[:12]


def digest(run: Path) -> dict[str, str]:
    """Short hashes of a run's rows, weights and moments."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [{key: row[key] for key in ROW if key in row} for row in map(json.loads, lines)]
    found = {"rows": short(json.dumps(rows).encode())}
    newest = max(run.glob("checkpoints/step_*.safetensors"))
    for name, path in (("weights", newest), ("moments", newest.with_suffix(".optim"))):
        tensors = load_file(path)
        parts = [f"{key} {t.dtype} {tuple(t.shape)}".encode() + t.numpy().tobytes()
                 for key, t in sorted(tensors.items())]
        found[name] = short(b"".join(parts))
    return found


def forget_last(run: Path) -> None:
    """Take a finished run back to the checkpoint before its last one."""
    last = max(run.glob("checkpoints/step_*.safetensors"))
    last.with_suffix(".optim").unlink()
    last.unlink()
    (run / "status.json").unlink()


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--out", type=Path, help="write the hashes there")
    ask.add_argument("--against", type=Path, help="compare with these hashes")
    ask.add_argument("--only", default="", help="layouts whose name holds this")
    ask.add_argument("--keep", type=Path, help="leave the runs here, and the data they name")
    ask.add_argument("--old", type=Path, help="resume the runs kept there, by another tree perhaps")
    given = ask.parse_args()
    folder = (given.keep and given.keep.absolute()) or Path(tempfile.mkdtemp(prefix="layouts-"))
    before = json.loads(given.against.read_text()) if given.against else {}
    found, wrong = {}, 0
    for kind, workers, ranks in product(RUNS, (0, 2), (1, 2)):
        name = f"{kind} workers={workers} ranks={ranks}"
        if given.only not in name:
            continue
        out = folder / name.replace(" ", "_")
        args = [kind, *RUNS[kind], *COMMON, "--out", out, "--num-workers", workers]
        if given.old:
            shutil.copytree(given.old / out.name, out)
        else:
            vicmae(*args, ranks=ranks)
            found[name] = digest(out)
        if given.keep:
            shutil.copytree(out, folder / "resumed" / out.name)
            out = folder / "resumed" / out.name
            args[args.index("--out") + 1] = out
        forget_last(out)
        vicmae(*args, "--resume", ranks=ranks)
        found[f"{name} resumed"] = digest(out)
        for each in (name, f"{name} resumed"):
            if each in found:
                same = before.get(each, found[each]) == found[each]
                wrong += not same
                print(each, found[each], "" if same else f"DIFFERS: was {before[each]}", flush=True)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1))
    print(f"{len(found)} layouts, {wrong} differ")
    if not given.keep:
        shutil.rmtree(folder)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
