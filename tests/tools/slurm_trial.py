"""The script of `vicmae slurm` under a real SLURM on this machine: warned, queued again, finished.

    python tests/tools/slurm_trial.py [CASE ...] [--steps 400] [--nodes 1] [--folder DIR]
    python tests/tools/slurm_trial.py limit --steps 1600

By hand, as root, where Debian's slurm-wlm and munge are installed; not part of `make test`. It
starts munged, slurmctld and slurmd of its own in a temporary folder (its own ports and key; a
cluster that runs here already is not touched), and stops them at the end. Each case runs the debug
recipe on data_samples with two processes and compares the losses with those of a run that nobody
disturbed. With --nodes 2 two slurmd play two nodes, with one process each.
"""
import argparse
import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from vicmae.cluster.slurm import SlurmOptions, write_slurm
from vicmae.pretraining.job import pretrain
from vicmae.pretraining.recipes import get_recipe

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `support`
from support import ROOT, torchrun

CONF = """
ClusterName=trial
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/slurmd-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""  # no cgroups: task/none and linuxproc do without


def run(*command: object, check: bool = True, **options: object) -> str:
    """A command's output."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if check and done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stdout}{done.stderr}")
    return done.stdout


def wait(what: str, ready: Callable[[], object], seconds: float) -> object:
    """Ask ten times a second until there is an answer."""
    end = time.time() + seconds
    while time.time() < end:
        if answer := ready():
            return answer
        time.sleep(0.1)
    raise SystemExit(f"after {seconds:.0f} s there is still no {what}")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("", 0))
        return [s.getsockname()[1] for s in sockets]


@contextlib.contextmanager
def cluster(folder: Path, nodes: int) -> Iterator[None]:
    """A SLURM of this machine alone, as long as the block lasts."""
    host, ports = socket.gethostname().split(".")[0], free_ports(1 + nodes)
    names = [host] if nodes == 1 else [f"node{i}" for i in range(nodes)]
    lines = [f"NodeName={name} NodeHostname={host} NodeAddr={host} Port={port} "
             f"CPUs={os.cpu_count()}" for name, port in zip(names, ports[1:])]
    for name in ("munge", "ctld", *(f"slurmd-{n}" for n in names)):
        (folder / name).mkdir(mode=0o755)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, ports=ports, folder=folder) + "\n".join(lines) + "\n")
    os.environ["SLURM_CONF"] = str(conf)
    try:
        run("munged", "--force", f"--key-file={key}", f"--socket={folder}/munge/socket",
            f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log",
            f"--seed-file={folder}/munge/seed")
        run("slurmctld", "-c")
        for name in names:
            run("slurmd", "-c", "-N", name)
        wait("idle node", lambda: run("sinfo", "-h", "-t", "idle", "-o", "%D",
                                      check=False).strip() == str(nodes), 60)
        yield
    finally:
        run("scancel", "--user=root", check=False)
        time.sleep(2)
        for pid in folder.glob("*.pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(pid.read_text()), signal.SIGTERM)


class Trial:
    """One job, what happens to it, and when."""

    def __init__(self, folder: Path, name: str, nodes: int, steps: int, **options: object):
        self.run, self.began = folder / f"{name} run", time.time()  # a path with a space
        self.nodes = nodes
        given = {"recipe": "debug", "data": ROOT / "data_samples", "out": self.run,
                 "steps": steps, "checkpoint_every": 40}
        self.arguments = [str(w) for k, v in given.items()
                          for w in (f"--{k.replace('_', '-')}", v)]
        config = replace(get_recipe("debug"), **{**given, "data": str(given["data"]),
                                                 "out": str(self.run)})
        options = SlurmOptions(nodes=nodes, processes_per_node=2 // nodes,
                               cpus_per_task=2 // nodes, job_name=name, **options)
        with contextlib.redirect_stdout(None):
            write_slurm(options, self.arguments, config, pretrain)

    def note(self, text: str) -> None:
        """Say what happened, and when."""
        print(f"{time.time() - self.began:7.1f} s  {text}", flush=True)

    def submit(self) -> None:
        self.began = time.time()
        self.job = run("sbatch", "--parsable", self.run / "job.sbatch").strip()
        self.note(f"submitted as job {self.job}")

    def show(self, field: str) -> str:
        """A field of `scontrol show job`."""
        found = re.search(rf"\b{field}=(\S+)", run("scontrol", "show", "job", self.job))
        return found[1] if found else ""

    def log(self) -> str:
        files = list(self.run.glob("slurm-*.log"))
        return files[0].read_text(errors="replace") if files else ""

    def status(self) -> dict:
        with contextlib.suppress(OSError, json.JSONDecodeError):
            return json.loads((self.run / "status.json").read_text())
        return {}

    def rows(self) -> list[dict]:
        path = self.run / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def until_step(self, step: int) -> None:
        wait(f"step {step}", lambda: len(self.rows()) >= step or self.over(), 300)
        self.note(f"step {len(self.rows())} is done")

    def over(self) -> bool:
        return self.show("JobState") in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")

    def until_requeued(self, seconds: float) -> None:
        wait("status preempted", lambda: self.status().get("state") == "preempted", seconds)
        self.note(f"saved: status.json says preempted at step {self.status()['step']}")
        wait("requeue", lambda: self.show("Restarts") == "1", 60)
        wait("end of the first start", lambda: self.show("JobState") == "PENDING", 60)
        self.note(f"back in the queue ({self.show('Reason')}), free at {self.show('StartTime')}")

    def until_over(self, hurry: bool = True) -> None:
        if hurry:  # SLURM lets a job that was queued again wait for two minutes; ten seconds do
            time.sleep(10)
            run("scontrol", "update", f"JobId={self.job}", "StartTime=now", check=False)
        wait("second start", lambda: self.show("JobState") == "RUNNING" or self.over(), 300)
        self.note("started again")
        wait("end of the job", self.over, 1800)
        self.note(f"{self.show('JobState')}, exit code {self.show('ExitCode')}, "
                  f"restarts {self.show('Restarts')}, run {self.status().get('state')}")


def left_over(trial: Trial) -> list[int]:
    """Processes that still work for a run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(trial.run).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def undisturbed(folder: Path, steps: int) -> Trial:
    """The same command under torchrun alone."""
    trial = Trial(folder, "undisturbed", 1, steps)
    began, env = time.time(), {**os.environ, "OMP_NUM_THREADS": "1"}
    run(*torchrun(2),
        "-m", "vicmae.cli", "pretrain", *trial.arguments, env=env)
    print(f"undisturbed: {len(trial.rows())} steps in {time.time() - began:.0f} s")
    return trial


def compare(trial: Trial, reference: Trial) -> bool:
    """Step by step: the same numbers, bit for bit?"""
    names = ("step", "loss", "loss_recon", "loss_contrast", "grad_norm", "lr", "lambda")
    left, right = ([[row[n] for n in names] for row in t.rows()] for t in (trial, reference))
    apart = [a[0] for a, b in zip(left, right) if a != b]
    good = len(left) == len(right) and not apart
    print(f"  {len(left)} rows against {len(right)}: "
          + ("bit for bit the same" if good else f"they differ, first at step {apart[:1]}"))
    return good


def case_scancel(trial: Trial) -> bool:
    """Warned by hand in the middle of the run: as a preemption does."""
    trial.submit()
    trial.until_step(100)
    run("scancel", "--batch", "--signal=USR1", trial.job)
    trial.note("USR1 to the batch shell")
    trial.until_requeued(60)
    trial.until_over()
    return trial.status().get("state") == "finished" and trial.show("ExitCode") == "0:0"


def case_limit(trial: Trial) -> bool:
    """Warned by SLURM itself, 30 s to 90 s before a time limit of 3 minutes."""
    trial.submit()
    trial.until_step(1)
    wait("warning", lambda: "warned" in trial.log(), 240)
    trial.note("SLURM has warned the batch shell")
    trial.until_requeued(60)
    trial.until_over(hurry=False)
    return trial.status().get("state") == "finished" and trial.show("ExitCode") == "0:0"


def preempted(trial: Trial) -> bool:
    """A job of a partition with more weight takes the nodes away for five seconds."""
    trial.submit()
    trial.until_step(100)
    other = run("sbatch", "--parsable", "--partition=urgent", f"--nodes={trial.nodes}",
                "--exclusive", "--output=/dev/null", "--wrap=sleep 5").strip()
    trial.note(f"job {other} wants all nodes")
    trial.until_requeued(90)
    wait("end of the other job", lambda: "COMPLETED" in run("scontrol", "show", "job", other), 120)
    trial.note(f"job {other} has had them")
    trial.until_over()
    return trial.status().get("state") == "finished" and trial.show("ExitCode") == "0:0"


def case_preempt(trial: Trial) -> bool:
    """Preempted, on a cluster that then sends the signal that a job has asked for."""
    return preempted(trial)


def case_grace(trial: Trial) -> bool:
    """Preempted, on a cluster that then sends SIGTERM to the step, and a minute later SIGKILL."""
    conf = Path(os.environ["SLURM_CONF"])
    text = conf.read_text()
    conf.write_text(text.replace("SlurmctldParameters=preempt_send_user_signal\n", ""))
    run("scontrol", "reconfigure")
    try:
        return preempted(trial)
    finally:
        conf.write_text(text)
        run("scontrol", "reconfigure")


def case_early(trial: Trial) -> bool:
    """Warned while Python still starts: nothing is lost, nobody is left behind."""
    trial.submit()
    wait("step", lambda: "trains" in trial.log() or "saving" in trial.log(), 60)
    time.sleep(1.5)
    run("scancel", "--batch", "--signal=USR1", trial.job)
    trial.note("USR1 to the batch shell while Python starts")
    wait("requeue", lambda: trial.show("Restarts") == "1", 60)
    wait("end of the first start", lambda: trial.show("JobState") == "PENDING", 60)
    trial.note(f"back in the queue; left over: {left_over(trial)}")
    alone = not left_over(trial)
    trial.until_over()
    return alone and trial.status().get("state") == "finished"


def case_cancel(trial: Trial) -> bool:
    """Cancelled by its owner: it saves, and stays cancelled."""
    trial.submit()
    trial.until_step(100)
    run("scancel", trial.job)
    trial.note("scancel")
    wait("end of the job", trial.over, 60)
    wait("end of the ranks", lambda: not left_over(trial), 60)
    trial.note(f"{trial.show('JobState')}, restarts {trial.show('Restarts')}, run "
               f"{trial.status()['state']} at step {trial.status()['step']} of {len(trial.rows())}")
    return (trial.show("JobState") == "CANCELLED" and trial.show("Restarts") == "0"
            and trial.status()["state"] == "preempted")


def case_killed(trial: Trial) -> bool:
    """A rank is killed: torchrun starts all again from the newest checkpoint, in the same job."""
    trial.submit()
    trial.until_step(100)
    ranks = [pid for pid in left_over(trial)
             if b"torch.distributed.run" not in Path(f"/proc/{pid}/cmdline").read_bytes()
             and b"LOCAL_RANK=" in Path(f"/proc/{pid}/environ").read_bytes()]
    os.kill(ranks[0], signal.SIGKILL)
    trial.note("one rank killed (SIGKILL)")
    wait("restart", lambda: trial.log().count(" M parameters on ") == 2, 120)
    trial.note("torchrun has started all ranks again")
    wait("end of the job", trial.over, 300)
    trial.note(f"{trial.show('JobState')}, exit code {trial.show('ExitCode')}, restarts by SLURM "
               f"{trial.show('Restarts')}")
    return trial.status().get("state") == "finished" and trial.show("ExitCode") == "0:0"


def case_wrong(trial: Trial) -> bool:
    """A wrong argument ends the job before anything starts, with its exit code."""
    script = trial.run / "job.sbatch"
    script.write_text(script.read_text().replace("--recipe debug", "--recipe nonsense"))
    trial.submit()
    wait("end of the job", trial.over, 60)
    trial.note(f"{trial.show('JobState')}, exit code {trial.show('ExitCode')}")
    return trial.show("ExitCode") == "2:0" and "srun" not in trial.log()


CASES = {name[5:]: f for name, f in globals().copy().items() if name.startswith("case_")}
FINISHES = ("scancel", "limit", "preempt", "grace", "early", "killed")  # with a curve to compare


def main() -> None:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--nodes", type=int, default=1, choices=(1, 2))
    parser.add_argument("--folder", type=Path, help="default: a temporary one, which stays")
    given = parser.parse_args()
    if unknown := set(given.cases) - set(CASES):
        parser.error(f"unknown case {', '.join(unknown)}")
    folder = given.folder or Path(tempfile.mkdtemp(prefix="slurm_trial_"))
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    os.chdir(folder)
    print(f"everything is in {folder}", flush=True)
    cases, good = given.cases or list(CASES), {}
    reference = undisturbed(folder, given.steps) if set(cases) & set(FINISHES) else None
    with cluster(folder, given.nodes):
        for name in cases:
            print(f"\n{name}: {CASES[name].__doc__}", flush=True)
            options = {"time": "3", "warn": 30} if name == "limit" else {"time": "30"}
            trial = Trial(folder, name, given.nodes, given.steps, **options)
            good[name] = CASES[name](trial)
            if name in FINISHES:
                good[name] &= compare(trial, reference)
    print("\n" + "\n".join(f"{name:8s} {'good' if ok else 'FAILED'}" for name, ok in good.items()))
    sys.exit(not all(good.values()))


if __name__ == "__main__":
    main()
