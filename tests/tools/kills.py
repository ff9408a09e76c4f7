"""Kill runs of `vicmae pretrain` at random moments, resume them, and compare with a run left alone.

    OMP_NUM_THREADS=1 python tests/tools/kills.py --kills 100
    OMP_NUM_THREADS=1 python tests/tools/kills.py --kills 20 --ranks 2

By hand; not part of `make test`. One process: kill -9, then --resume, until the run is done; then a
new run. With --ranks N: under torchrun --max-restarts, which starts all ranks again when a random
one of them is killed. Evidence that a kill fell into the writing of a checkpoint: a temporary file,
or moments (.optim) without their weights. At the end metrics, weights and moments of each run must
be those of the undisturbed run, bit for bit. Exit code 1 if one is not.
"""
import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `support`
from support import SAMPLES, faulty, torchrun
import torch

from vicmae.run.folder import RunFolder
from vicmae.train.weights import read_tensors

SAME = ("step", "loss", "loss_recon", "loss_contrast", "grad_norm", "skipped", "lambda", "lr")


def few(folder: Path) -> Path:
    "Sixteen files of the samples."
    files = (sorted(SAMPLES.glob("clips/*/*.mp4"))[::5][:10]
             + sorted(SAMPLES.glob("pictures/*/*"))[::9][:6])
    for file in files:
        target = folder / file.relative_to(SAMPLES)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return folder


def rows(run: Path) -> list[dict]:
    "What is in metrics.jsonl; a last line that was cut off is left out."
    found = []
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        for line in (run / "metrics.jsonl").read_text().splitlines():
            found.append(json.loads(line))
    return found


def evidence(run: Path) -> str:
    "What a kill has left half done; empty: nothing."
    left = [p.name for p in [*run.glob(".*.tmp"), *run.glob("checkpoints/.*.tmp")]]
    left += [f"{p.name} alone" for p in run.glob("checkpoints/*.optim")
             if not p.with_suffix(".safetensors").exists()]
    return ", ".join(left)


def differences(run: Path, whole: Path) -> list[str]:
    "What is not bit for bit as in the undisturbed run."
    wrong = []
    mine, good = ([tuple(row[k] for k in SAME) for row in rows(r)] for r in (run, whole))
    if mine != good:
        wrong.append(f"metrics: {sum(a != b for a, b in zip(mine, good))} rows of {len(mine)}")
    for suffix in (".safetensors", ".optim"):
        newest = (RunFolder(r).checkpoints()[0] for r in (run, whole))
        a, b = (read_tensors(path.with_suffix(suffix))[0] for path in newest)
        bad = [n for n in b if n not in a or not torch.equal(a[n], b[n])]
        wrong += [f"{suffix}: {len(bad)} of {len(b)} tensors"] * bool(bad or set(a) - set(b))
    return wrong


def moment(run: Path, alive, chance: random.Random, start: float) -> bool:
    "Wait until a random moment: anywhere, or a little after a new step. False: it has ended."
    anywhere, low = chance.random() < 0.25, len(rows(run))
    late = time.monotonic() + chance.uniform(0, start) if anywhere else None
    while alive():
        now = len(rows(run))
        low = min(low, now)  # a run that goes on cuts the steps off that it does again
        if late is None and now > low:
            late = time.monotonic() + chance.uniform(0, 0.5)
        if late is not None and time.monotonic() >= late:
            return True
        time.sleep(0.001)
    return False


class Count:
    "Kills so far, and how many of them fell into writing."

    def __init__(self, wanted: int):
        self.wanted, self.kills, self.writing = wanted, 0, 0

    def note(self, run: Path, what: str) -> None:
        left = evidence(run)
        self.kills += 1
        self.writing += bool(left)
        print(f"  kill {self.kills}: {what} after step {len(rows(run))}"
              f"{'; left: ' + left if left else ''}", flush=True)


def alone(server: faulty.Server, args: list, run: Path, count: Count, chance) -> None:
    "One run, killed and resumed until it is done."
    while True:
        process = server.start(*args, "--out", run, "--resume")
        if count.kills < count.wanted and moment(run, lambda: process.poll() is None, chance, 2):
            process.kill(signal.SIGKILL)
            process.wait()
            count.note(run, "the process")
        elif process.wait(300) == 0:
            return
        else:
            raise SystemExit(f"{run}: {process.err}")


def ranks_of(agent: subprocess.Popen) -> list[int]:
    "The processes that torchrun has started now, by rank."
    found = {}
    for task in Path(f"/proc/{agent.pid}/task").glob("*/children"):
        for pid in task.read_text().split():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                found |= {int(w[5:]): int(pid) for w in words if w.startswith(b"RANK=")}
    return [found[i] for i in sorted(found)]


def under_torchrun(args: list, run: Path, ranks: int, count: Count, chance) -> None:
    "One run under torchrun, ranks of which are killed until it is done."
    command = [*torchrun(ranks), f"--max-restarts={count.wanted + 1}",
               faulty.__file__, "{}", "pretrain", *args, "--out", run, "--resume"]
    log = open(f"{run}.log", "w")
    agent = subprocess.Popen(list(map(str, command)), env=faulty.ENV, stdout=log, stderr=log)
    alive = lambda: agent.poll() is None
    while count.kills < count.wanted and alive():
        while alive() and len(ranks_of(agent)) < ranks:
            time.sleep(0.01)
        now = ranks_of(agent)
        if len(now) == ranks and moment(run, lambda: alive() and ranks_of(agent) == now, chance, 8):
            place = chance.randrange(ranks)
            with contextlib.suppress(ProcessLookupError):
                os.kill(now[place], signal.SIGKILL)
                count.note(run, f"rank {place}")
            while alive() and ranks_of(agent) and set(ranks_of(agent)) & set(now):
                time.sleep(0.01)
    if agent.wait(600):
        raise SystemExit(f"{run}: torchrun ended with {agent.returncode}, see {run}.log")


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--kills", type=int, default=100)
    ask.add_argument("--ranks", type=int, default=1)
    ask.add_argument("--steps", type=int, default=24)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--folder", type=Path, help="where the runs go; kept")
    given = ask.parse_args()
    chance, count = random.Random(given.seed), Count(given.kills)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    data, equal, done = few(folder / "few"), 0, 0
    args = ["--recipe", "debug", "--data", data, "--batch-size", "8", "--steps", given.steps,
            "--no-tensorboard"]
    with faulty.Server(folder / "logs") as server:
        left_alone = folder / "undisturbed"
        processes = server.ranks(given.ranks, *args, "--out", left_alone) if given.ranks > 1 else [
            server.start(*args, "--out", left_alone)]
        if any(p.wait(300) for p in processes):
            raise SystemExit(processes[0].err)
        while count.kills < count.wanted:
            every, run, before = chance.choice((1, 2)), folder / f"run{done}", count.kills
            options = [*args, "--checkpoint-every", every]
            if given.ranks > 1:
                under_torchrun(options, run, given.ranks, count, chance)
            else:
                alone(server, options, run, count, chance)
            wrong, done = differences(run, left_alone), done + 1
            equal += not wrong
            print(f"run {done}: {count.kills - before} kills, checkpoint every {every}: "
                  f"{'; '.join(wrong) or 'bit-equal'}", flush=True)
    print(f"kills: {count.kills}, during checkpoint writing: {count.writing}, "
          f"runs bit-equal: {equal} of {done}")
    if not given.folder and equal == done:
        shutil.rmtree(folder)
    return int(equal < done)


if __name__ == "__main__":
    sys.exit(main())
