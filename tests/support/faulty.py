"""Runs of `vicmae pretrain` that break at a given step: by hand, under torchrun, or forked.

    python tests/support/faulty.py '{"hit": [{"step": 5, "do": "kill"}]}' pretrain --recipe debug
    ...

One run in this process, with faults. `Server` keeps a Python that has imported everything and forks
it for every run: a real process each, in a session of its own, that starts in a hundredth of a
second and ends as any other. No test is in this file.

Faults (a dict): what each one does stands at its function below.
    hit     a list of {"step", "rank" (None: all), "do", ...}: before that step of the engine
    decode  {"file", "number", "to", "once"}: a signal when a process has decoded so many files
    limit   {"step", "bytes"}: files cannot grow beyond so many bytes, from that step on
    clock   {"step", "jump"}: time.time and strftime are off by so many seconds from that step on
    minutes {"minutes"}: patience of the ranks with each other
    blind   {"rank"}: the data is not there for one rank
"""
import contextlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ENV = {**os.environ, "OMP_NUM_THREADS": "1",
       "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # a restart meets dead addresses otherwise


# ---- what breaks, inside the run ----

def rank() -> int:
    "This process's place; 0 alone."
    return int(os.environ.get("RANK", "0"))


def send(number: int, to: str) -> None:
    "A signal to oneself, to one's process group, or to the parent (torchrun)."
    if to == "group":
        os.killpg(0, number)
    else:
        os.kill({"self": os.getpid(), "parent": os.getppid()}[to], number)


HOOKS: list[Any] = []  # on the model, until the step is over


def act(fault: dict, batch: dict, trainer: Any) -> None:
    "Do what a fault says."
    do = fault["do"]
    if do == "signal":
        send(fault["number"], fault.get("to", "self"))
    elif do == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif do == "nan":
        spoil = lambda part, given, made: made * float("nan")
        HOOKS.append(trainer.model.blocks[0].register_forward_hook(spoil))
    elif do == "rename":
        os.rename(fault["old"], fault["new"])
    elif do == "fill":  # take all room that is left on a file system
        with contextlib.suppress(OSError), open(fault["file"], "wb", 0) as f:
            while f.write(bytes(1 << 12)):
                pass
    elif do == "kill worker":  # as the kernel does when memory runs out
        os.kill(children()[0], signal.SIGKILL)
    elif do == "sleep":
        time.sleep(fault["seconds"])
    else:
        raise KeyError(do)


def children() -> list[int]:
    "Processes that this one has started, oldest first."
    path = f"/proc/self/task/{os.getpid()}/children"
    return [int(word) for word in Path(path).read_text().split()]


def watch(before_step: Callable[[dict, int, Any], None]) -> None:
    "Have a function called with each batch, its step (from 0) and the trainer, before it is used."
    from vicmae.run.trainer import CALLBACKS, Callback

    class Watch(Callback):
        def before_step(self, trainer, batch, step):
            before_step(batch, step, trainer)

        def on_step(self, trainer, row):
            while HOOKS:
                HOOKS.pop().remove()

    CALLBACKS.append(Watch())


def hit(faults: list[dict]) -> None:
    "Faults before a step; in a process that torchrun has started anew only those with 'again'."
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))

    def before_step(batch: dict, step: int, trainer: Any) -> None:
        for fault in faults:
            last = fault.get("last", fault["step"])
            mine = fault.get("rank") in (None, rank()) and (not restarts or fault.get("again"))
            if mine and fault["step"] <= step + 1 <= last:
                act(fault, batch, trainer)

    watch(before_step)


def decode(fault: dict) -> None:
    "A signal, sent once, while the cache is being filled: to the run, its group, or a decoder."
    import vicmae.media.frames as module

    real, seen, main = module.decode_small, [], os.getpid()

    def decode_small(sample, *settings):
        seen.append(sample)
        if len(seen) == fault["file"]:
            with contextlib.suppress(FileExistsError), open(fault["once"], "x"):
                if fault["to"] == "group":
                    os.killpg(0, fault["number"])
                else:
                    os.kill(main if fault["to"] == "self" else os.getpid(), fault["number"])
                time.sleep(0.2)
        return real(sample, *settings)

    module.decode_small = decode_small


def limit(fault: dict) -> None:
    "Files cannot grow beyond a size: writing more gives EFBIG, as a full disk gives ENOSPC."
    if not fault.get("step"):
        return resource.setrlimit(resource.RLIMIT_FSIZE, (fault["bytes"],) * 2)

    def before_step(batch: dict, step: int, trainer: Any) -> None:
        if step + 1 == fault["step"] and fault.get("rank") in (None, rank()):
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault["bytes"],) * 2)

    watch(before_step)


def clock(fault: dict) -> None:
    "The wall clock jumps; the monotonic one does not, as on a real machine."
    now, date, jump = time.time, time.strftime, [0]

    def before_step(batch: dict, step: int, trainer: Any) -> None:
        jump[0] = fault["jump"] * (step + 1 >= fault["step"])

    watch(before_step)
    time.time = lambda: now() + jump[0]
    time.strftime = lambda form, at=None: date(form, at or time.localtime(now() + jump[0]))


def minutes(fault: dict) -> None:
    "Another patience between ranks than ten minutes."
    import vicmae.run.session as module

    real = module.setup
    module.setup = lambda device: real(device, fault["minutes"])


def blind(fault: dict) -> None:
    "One rank does not see the data, as a node on which a folder is not mounted."
    import vicmae.pretraining.build as module

    real = module.find_samples
    if rank() == fault["rank"]:
        module.find_samples = lambda data, split, **more: real("nowhere", split, **more)


FAULTS = {f.__name__: f for f in (hit, decode, limit, clock, minutes, blind)}


def main(faults: dict, args: list[str]) -> None:
    "`vicmae ARGS` with faults."
    from vicmae import cli

    for name, settings in faults.items():
        FAULTS[name](settings)
    cli.main(args)


# ---- a server that forks runs ----

def serve(pictures: bool) -> None:
    "Read one run a line, fork it, say its number; say its end when it comes."
    import av  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import PIL.JpegImagePlugin  # noqa: F401
    import torch.distributed.fsdp  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401
    import tqdm  # noqa: F401
    import tyro.constructors  # noqa: F401

    from vicmae.pretraining import job
    from vicmae.run import trainer

    if not pictures:
        trainer.draw_losses = job.draw_reconstruction = lambda *args: None
    reader = os.fdopen(os.dup(0), "rb", 0)
    print(json.dumps({"ready": os.getpid()}), flush=True)
    while True:
        with contextlib.suppress(ChildProcessError):
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                print(json.dumps({"ended": pid, "code": os.waitstatus_to_exitcode(status)}),
                      flush=True)
                continue
        if not select.select([reader], [], [], 0.01)[0]:
            continue
        line = reader.readline()
        if not line:
            return
        order = json.loads(line)
        if pid := os.fork():
            print(json.dumps({"started": pid}), flush=True)
            continue
        os.setsid()
        with open(os.devnull) as null, open(order["log"] + ".out", "w") as out, \
                open(order["log"] + ".err", "w") as err:
            for file, number in ((null, 0), (out, 1), (err, 2)):
                os.dup2(file.fileno(), number)
        os.environ.update(order["env"])
        return main(order["faults"], order["args"])  # and on to a usual end of the interpreter


@dataclass
class Run:
    "A run that the server has forked."

    server: "Server"
    pid: int
    log: str
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0

    def poll(self) -> int | None:
        "Its exit code; negative: the signal that killed it; None: it runs."
        self.server.listen(0)
        code = self.server.codes.get(self.pid)
        if code is not None and not self.ended:
            self.ended = time.monotonic()
        return code

    def wait(self, seconds: float = 300) -> int:
        "Wait for its end; kill it, with all that it has started, and fail if that takes too long."
        end = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                os.killpg(self.pid, signal.SIGKILL)
                raise TimeoutError(f"run {self.pid} hangs\n{self.out}\n{self.err}")
            time.sleep(0.01)
        return code

    def kill(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    out = property(lambda self: Path(self.log + ".out").read_text(errors="replace"))
    err = property(lambda self: Path(self.log + ".err").read_text(errors="replace"))


class Server:
    "Starts runs; a context manager."

    def __init__(self, logs: Path, pictures: bool = True):  # two thirds of the time of a short run
        self.logs, self.count, self.codes, self.started, self.rest = logs, 0, {}, [], b""
        self.command = [sys.executable, __file__, "serve", *["pictures"] * pictures]
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Server":
        self.process = subprocess.Popen(self.command, env=ENV, bufsize=0, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.ready = False
        while not self.ready:
            self.listen(300)
        return self

    def __exit__(self, *error: object) -> None:
        self.process.stdin.close()
        self.process.wait(300)

    def listen(self, seconds: float) -> None:
        "Take in what the server has said."
        while select.select([self.process.stdout], [], [], seconds)[0]:
            seconds, said = 0, os.read(self.process.stdout.fileno(), 1 << 16)
            if not said:
                raise ConnectionError("the server of forked runs is gone")
            *lines, self.rest = (self.rest + said).split(b"\n")
            for word in map(json.loads, lines):
                if "ended" in word:
                    self.codes[word["ended"]] = word["code"]
                elif "started" in word:
                    self.started.append(word["started"])
                else:
                    self.ready = True

    def start(self, *args: object, faults: dict | None = None, env: dict | None = None,
              ) -> Run:
        "Begin `vicmae pretrain ARGS`."
        self.count += 1
        log = str(self.logs / f"{self.count:03d}")
        order = {"args": ["pretrain", *map(str, args)], "faults": faults or {}, "env": env or {},
                 "log": log}
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        while not self.started:
            self.listen(300)
        return Run(self, self.started.pop(0), log)

    def ranks(self, count: int, *args: object, faults: dict | None = None) -> list[Run]:
        "Begin so many ranks of one run, as torchrun or srun would."
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count),
               "LOCAL_WORLD_SIZE": str(count)}
        return [self.start(*args, faults=faults, env=job | {"RANK": str(i), "LOCAL_RANK": str(i)})
                for i in range(count)]


def left(session: int) -> list[str]:
    "Command lines of what still runs in a session, zombies aside."
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, own = folder.joinpath("stat").read_text().rsplit(")", 1)[1].split()[:4]
            if int(own) == session and state != "Z":
                found.append(folder.joinpath("cmdline").read_text().replace("\0", " "))
    return found


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve("pictures" in sys.argv)
    else:
        main(json.loads(sys.argv[1]), sys.argv[2:])
