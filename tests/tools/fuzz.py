"""Thousands of spoilt and strange files through the commands: `python tests/tools/fuzz.py --count
2000`.

    python tests/tools/fuzz.py --count 2000 --seed 0 [--kind lists,clips] [--out LOG] [--keep
    FOLDER]
    python tests/tools/fuzz.py --only 1234 --keep FOLDER  one input again, its files kept to look at

tests/support/fuzz_inputs.py makes the inputs. Each is tried in a forked process of its own, as a
user's
command would; about one in forty by the real command line. It passes with a right result or with
one sentence that names the file. It fails with any other error, a hang, a process left over, more
memory than stated, or a result that cannot be right. No test is in this file.
"""
import argparse
import contextlib
import ctypes
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `support`
from support.fuzz_inputs import (
    FINETUNE,
    KINDS,
    NONE,
    PRETRAIN,
    Input,
    Stock,
    kind_of_number,
    make_input,
)

SECONDS = 120.0  # for one input; a command of its own process gets twice that
MEGABYTES = 1024  # beyond what the process had when it began
PIXELS = 20_000_000  # VICMAE_MAX_PIXELS, to which that memory belongs
PATIENCE = 30.0  # seconds in which helpers must have ended by themselves


class Wrong(Exception):
    "What fails an input."


# ---- what a refusal must look like ----

OURS = (ValueError, OSError, FloatingPointError)  # what the command line turns into a sentence
TABOO = re.compile(  # what says nothing to a user, or something dangerous
    r"weights_only|Traceback|<class |object at 0x|\[Errno|"
    r"\b(?:torch(?!\.save|\.load)|numpy|PIL|av)\.\w|"
    r"\b[A-Za-z_.]*[a-z](?:Error|Exception|Warning)\b(?! =)")


def plain(text: str) -> str:
    "The ASCII letters of a text: names are shown with one of several escapes."
    return re.sub(r"\\+(?:x\w\w|u\w{4}|U\w{8})|[^\x21-\x7e]|\\", "", text)


def check_sentence(text: str, names: Iterable[str]) -> None:
    "Raise Wrong unless a refusal is one sentence that names a file."
    short = text.strip()[-300:]
    if not any(plain(name) in plain(text) for name in names):
        raise Wrong(f"names no file: {short!r}")
    if len(text.strip().splitlines()) != 1 or re.search(r"[\x00-\x09\x0b-\x1f\x7f\x9b]", text):
        raise Wrong(f"is not one line of text: {short!r}")
    if taboo := TABOO.search(text):
        raise Wrong(f"says {taboo[0]!r}: {short!r}")
    if len(text) > 2000:
        raise Wrong(f"is {len(text)} characters long: {text[:100]!r}")


def attempt(call: Callable[[], Any], names: Iterable[str]) -> tuple[Any, str]:
    "The result of a call and what it warned of; (None, its sentence) where it refuses well."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            return call(), " ".join(str(w.message) for w in caught)
        except OURS as error:
            check_sentence(str(error), names)
            return None, str(error)
        except Exception as error:
            raise Wrong(f"{type(error).__name__}: {str(error)[:300]!r}") from error


# ---- commands ----

@contextlib.contextmanager
def captured(name: str):
    "Output of this process, and of those it starts, goes to files NAME.out and NAME.err."
    kept = [os.dup(1), os.dup(2)]
    files = [open(f"{name}.{end}", "wb") for end in ("out", "err")]
    try:
        for number, file in enumerate(files, 1):
            os.dup2(file.fileno(), number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, (old, file) in enumerate(zip(kept, files), 1):
            os.dup2(old, number)
            os.close(old)
            file.close()


def said(name: str) -> str:
    "What was captured, without progress bars."
    text = "".join(Path(f"{name}.{end}").read_bytes().decode("utf-8", "surrogateescape")
                   for end in ("out", "err"))
    return re.sub(r"[^\n\r]*(?:it|step|file|batch|picture|sample)s?/s[^\n\r]*|[^\n]*\r", "", text)


def command(args: Sequence[str], item: Input, real: bool = False) -> tuple[int, str]:
    "`vicmae ARGS`: its exit code, 0 or 2, and what it said. Raises Wrong."
    log = str(item.folder) + ".command"
    if real:
        root = os.path.dirname(import_module("vicmae").__path__[0])
        with captured(log):
            code = subprocess.run([sys.executable, "-m", "vicmae.cli", *args], timeout=SECONDS * 2,
                                  env={**os.environ, "PYTHONPATH": root}).returncode
    else:
        from vicmae import cli

        os.environ["VICMAE_TRACEBACK"] = "1"
        try:
            with captured(log):
                cli.main([*args])
        except SystemExit as end:
            code = end.code or 0
        except OURS as error:
            check_sentence(str(error), item.names)
            return 2, str(error)
        except Exception as error:
            raise Wrong(f"{args[0]}: {type(error).__name__}: {str(error)[:300]!r}") from error
    text = said(log)
    lines = [line for line in text.splitlines() if line.strip()]
    if code not in (0, 2) or "Traceback" in text:
        raise Wrong(f"{args[0]}: exit code {code}, {' | '.join(lines[-3:])[:300]!r}")
    if code:
        check_sentence(lines[-1] if lines else "", item.names)
    return code, text


# ---- a right result, by kind ----

def same(a: str | None, b: str) -> bool:
    "Whether a label was read as it stands, or as none where it says none; 3.0 may be read as 3."
    whole = re.sub(r"\.0*$", "", b.strip()) if re.fullmatch(r"[0-9]+\.0*", b.strip()) else b
    return (a or "") in (b.strip(), whole) or (a is None and b.strip().lower() in NONE)


def check_rows(item: Input, found: dict[str, str | None], notes: str) -> None:
    "Every row of a sound list gave its file and its label, or something was said."
    rows = {os.path.normpath(name): label for name, label in item.truth["rows"]}
    for path, label in found.items():
        if path not in rows:
            raise Wrong(f"reads the file {path!r}, which is not listed")
        if not same(label, rows[path]):
            raise Wrong(f"reads the label {rows[path]!r} of {path!r} as {label!r}")
    lost = [name for name in rows if name not in found]
    plain_sum = re.compile(r"\S+: (\d+) rows, \d+ files(?=[.,;]|\s|$)")
    for count in plain_sum.findall(notes):
        if int(count) != len(rows):
            raise Wrong(f"counts {count} rows of {len(rows)}")
    if lost and not re.search(r"\w", plain_sum.sub("", notes)):
        raise Wrong(f"drops {len(lost)} of {len(rows)} rows without a word: {lost[0]!r}")


def check_list(item: Input, rng: random.Random, real: bool) -> bool:
    "A list for training, for probing, and in a command."
    from vicmae.media.files import find_samples
    from vicmae.evaluation.labelled import open_labelled, splits_of

    def labelled() -> tuple:
        parts = [open_labelled(item.path, split) for split in splits_of(item.path)]
        return ([s for part in parts for s in part.samples], [n for p in parts for n in p.notes])

    def name(path: str) -> str:
        return os.path.normpath(os.path.relpath(path))

    answers = []
    for read in (labelled, lambda: (find_samples(item.path), [])):
        with captured(log := str(item.folder) + ".read"):
            got, notes = attempt(read, item.names)
        answers.append(got is not None)
        if got is not None and item.truth["clear"]:
            found = {name(s.path): s.label for s in got[0]}
            heard = [notes, said(log), *got[1], *getattr(got[0], "notes", ())]
            check_rows(item, found, " ".join(heard))
    do = rng.random()
    if real or do < 0.3:
        args = [["pretrain", "--data", item.path, "--dry-run"],
                ["evaluate", "knn", "model.safetensors", "--data", item.path, "--val-data",
                 item.path], ["finetune", "--init", "model.safetensors", "--img-size", "16",
                              "--data", item.path, "--val-data", item.path, "--dry-run"]]
        command(args[int(do * 10) % 3], item, real)
    return not any(answers)


def check_weights(item: Input, model: Any, notes: str) -> None:
    "Weights are finite or named, and those that were stored, as far as checksums tell."
    import torch

    state = model.state_dict()
    if any(not value.isfinite().all() for value in state.values()):
        if "finite" not in notes:
            raise Wrong("loads weights that are not finite without a word")
    elif item.truth["summed"] and "spliced" not in item.how:
        sound = torch.load(io.BytesIO(STOCK[0].checkpoints["weights"][1]), weights_only=True)
        if any(not torch.equal(sound[k], state[k]) for k in sound):
            raise Wrong("loads weights that are not those that were stored")


def check_checkpoint(item: Input, rng: random.Random, real: bool) -> bool:
    "A checkpoint as a backbone, as a classifier, and in a command."
    from vicmae.backbone.checkpoints import load_model
    from vicmae.finetuning.predict import load_classifier

    answers = []
    for load in (load_model, load_classifier):
        model, notes = attempt(lambda: load(item.path), item.names)
        answers.append(model is not None)
        if model is not None and load is load_model:
            check_weights(item, model, notes)
    args = [["reconstruct", item.path, "look.png", "--out", "shown"],
            ["predict", item.path, "look.png"],
            ["evaluate", "knn", item.path, "--data", "data/train", "--val-data", "data/val"],
            ["finetune", "--init", item.path, "--img-size", "16", "--data", "data/train",
             "--val-data", "data/val", "--dry-run"]]
    if (real or rng.random() < 0.5) and item.path[0] != "-":
        command(rng.choice(args), item, real)
    return not any(answers)


def lines_of(data: bytes) -> list[dict]:
    "The rows of a .jsonl that are objects."
    rows = []
    for line in data.decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def check_resumed(item: Input, text: str) -> None:
    "After a resume the run has all its rows, or what is lost was said, and it has ended well."
    def kept(name: str) -> list[dict]:
        path = Path("run", name)
        return lines_of(path.read_bytes()) if path.exists() else []

    steps = [row.get("step") for row in kept("metrics.jsonl")]
    if steps != [1, 2, 3] and "metrics.jsonl" not in text:
        raise Wrong(f"metrics.jsonl holds the steps {str(steps)[:60]}, and nothing was said")
    for name, key in (("evals.jsonl", "step"), ("skipped.jsonl", "path")):
        before = {str(row.get(key)) for row in lines_of(item.truth["files"][name])} - {"None"}
        lost = before - {str(row.get(key)) for row in kept(name)}
        if lost and name not in text and not any("step" in x and x > "2" for x in lost):
            raise Wrong(f"{name} lost {sorted(lost)[:2]}, and nothing was said")
    if kept("status.json")[0]["state"] != "finished":
        raise Wrong("status.json does not say that the run has ended")


def check_run(item: Input, rng: random.Random, real: bool) -> bool:
    "The folder of a run goes on, is watched, or is asked for its model."
    task = item.truth["task"]
    resume = [*(PRETRAIN if task == "pretrain" else FINETUNE), "--steps", "3", "--resume"]
    watch, look = ["watch", "run", "--once"], "data/val/ants/ants1.png"
    use = ["predict", "run", look] if task == "finetune" else [
        "evaluate", "knn", "run", "--data", "data/train", "--val-data", "data/val"]
    args = rng.choice((resume, resume, watch, watch, use))
    code, text = command(args, item, real)
    if code == 0 and args is resume:
        check_resumed(item, text)
    return code != 0


def check_picture(item: Input, rng: random.Random, real: bool) -> bool:
    "A picture is read here and in a helper, and shown by a command."
    from vicmae.media.pictures import read_picture

    limit = SECONDS if rng.random() < 0.1 else None
    got, notes = attempt(lambda: read_picture(item.path, limit), item.names)
    if got is not None:
        check_frames(item, got[None])
    elif item.truth.get("sound"):
        raise Wrong(f"refuses a sound picture: {notes}")
    if (real or rng.random() < 0.1) and item.path[0] != "-":
        args = ["reconstruct", "model.safetensors", item.path, "--out", "shown"]
        if item.path.endswith(".gif"):
            args = ["predict", "classifier.safetensors", item.path]
        code, text = command(args, item, real)
        if got is None and code == 0:
            raise Wrong(f"{args[0]} takes what read_picture refuses: {notes}")
    return got is None


def check_frames(item: Input, frames: Any) -> None:
    "Frames are frames, of the size and with the contrast that they must have."
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise Wrong(f"gives {frames.dtype} {frames.shape}")
    want = item.truth.get("shape")
    if want and list(frames.shape[1:3]) != want:
        raise Wrong(f"gives {frames.shape[1:3]} instead of {want}")
    if item.truth.get("contrast") and len(np.unique(frames)) < 20:
        raise Wrong(f"a ramp has become {np.unique(frames)[:9].tolist()}")


def check_clip(item: Input, rng: random.Random, real: bool) -> bool:
    "A clip is read in order and at random, here or in a helper, and shown by a command."
    from vicmae.media.video import open_video

    limit = SECONDS if rng.random() < 0.15 else None

    def read() -> tuple:
        with open_video(item.path, time_limit=limit) as video:
            count = video.num_frames
            order = [rng.randrange(count) for _ in range(4)]
            return video.times, video.frames(range(min(count, 30))), video.frames(order), count

    got, notes = attempt(read, item.names)
    if got is not None:
        times, frames, some, count = got
        check_frames(item, frames)
        if len(times) != count or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise Wrong(f"gives the times {times[:9].tolist()} for {count} frames")
        if some.shape[1:] != frames.shape[1:]:
            raise Wrong(f"gives frames {frames.shape[1:]}, then {some.shape[1:]}")
        if item.truth.get("frames", count) != count:
            raise Wrong(f"gives {count} frames instead of {item.truth['frames']}")
    elif item.truth.get("sound"):
        raise Wrong(f"refuses a sound clip: {notes}")
    if (real or rng.random() < 0.1) and item.path[0] != "-":
        args = rng.choice((["predict", "classifier.safetensors"],
                           ["reconstruct", "model.safetensors"], ["match", "model.safetensors"]))
        command([*args, item.path, *["--out", "shown"] * (args[0] != "predict")], item, real)
    return got is None


CHECKS = dict(zip(KINDS, (check_list, check_checkpoint, check_run, check_picture, check_clip)))


# ---- one input in a process of its own ----

STOCK: list[Stock] = []  # one
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "100",
               "VICMAE_MAX_PIXELS": str(PIXELS)}


def trial(item: Input, seed: int, real: bool) -> dict:
    "Try an input in this process: why it failed (empty: it passed), and whether it was refused."
    rng = random.Random(f"{seed}/{item.number}/trial")
    os.chdir(item.folder)
    try:
        return {"why": "", "refused": CHECKS[item.kind](item, rng, real)}
    except Wrong as wrong:
        return {"why": str(wrong), "refused": False}
    except BaseException as error:  # the trial itself fails where a result is not what it may be
        import traceback

        where = traceback.extract_tb(error.__traceback__)[-1]
        return {"why": f"{type(error).__name__}: {str(error)[:200]} ({where.name} {where.lineno})",
                "refused": False}


def resident() -> float:
    "Megabytes of memory that this process holds."
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def limit_memory() -> None:
    "A process that asks for terabytes gets a MemoryError, and the machine goes on."
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + 6 * MEGABYTES * 2**20,) * 2)


def adopt() -> None:
    "Orphans of this process's children become its own (Linux): what is left over can be seen."
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def children() -> list[tuple[int, str]]:
    "Processes below this one: number and command line."
    with contextlib.suppress(OSError):
        numbers = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        return [(int(n), Path(f"/proc/{n}/cmdline").read_text().replace("\0", " ").strip())
                for n in numbers]
    return []


def leftovers() -> str:
    "Wait until all processes of an input have ended; the command line of one that has not."
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not children():
            return ""
        time.sleep(0.02)
    left = children()
    for number, _ in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    return left[0][1] if left else ""


def forked(item: Input, seed: int, real: bool) -> dict:
    "Try an input in a forked process, watched: verdict, seconds, megabytes."
    answer, began, before = Path(f"{item.folder}.answer"), time.monotonic(), resident()
    seconds = SECONDS * (2 if real else 1)
    pid = os.fork()
    if not pid:
        try:
            os.setsid()
            settle()
            limit_memory()
            with captured(f"{item.folder}.trial"):
                verdict = trial(item, seed, real)
            answer.write_text(json.dumps(verdict), encoding="utf-8", errors="surrogatepass")
        finally:
            os._exit(0)
    usage, why = None, ""
    while usage is None:
        done, status, found = os.wait4(pid, os.WNOHANG)
        usage = found if done else None
        if not done and time.monotonic() > began + seconds:
            os.killpg(pid, signal.SIGKILL)
            status, usage = os.wait4(pid, 0)[1:]
            why = f"hangs: not done after {seconds:g} s"
        elif not done:
            time.sleep(0.003)
    spent, megabytes = time.monotonic() - began, usage.ru_maxrss / 1024 - before
    left = leftovers()
    verdict = {"why": f"ended without an answer, status {status}", "refused": False}
    with contextlib.suppress(FileNotFoundError):
        verdict = json.loads(answer.read_text(encoding="utf-8", errors="surrogatepass"))
    if why:
        verdict["why"] = why
    elif left:
        verdict["why"] = f"leaves a process: {left[:200]}"
    elif megabytes > MEGABYTES and not verdict["why"]:
        verdict["why"] = f"takes {megabytes:.0f} MB"
    elif Path(f"{item.folder}.gs").exists():
        verdict["why"] = "starts another program (gs)"
    return verdict | {"seconds": spent, "mb": max(megabytes, 0.0)}


def try_number(order: tuple[int, int, Path, str, float]) -> dict:
    "Make an input, try it, and clear it away, or keep it if it failed."
    (seed, number, work, keep, share), stock = order, STOCK[0]
    folder = work / f"{number}" / "in"
    folder.mkdir(parents=True)
    item = make_input(seed, number, folder, stock)
    for name in ("data", "model.safetensors", "classifier.safetensors"):
        if not (folder / name).exists():
            (folder / name).symlink_to(stock.folder / name)
    tools = work / f"{number}" / "bin"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\ntouch '{folder}.gs'\n")  # a stand-in for Ghostscript
    (tools / "gs").chmod(0o755)
    path, os.environ["PATH"] = os.environ["PATH"], f"{tools}:{os.environ['PATH']}"
    real = random.Random(f"{seed}/{number}/real").random() < share
    result = forked(item, seed, real)
    os.environ["PATH"] = path
    result |= {"number": number, "kind": item.kind, "how": item.how, "intact": item.intact,
               "path": item.path, "real": real}
    if keep and result["why"]:
        shutil.rmtree(Path(keep, str(number)), ignore_errors=True)
        shutil.copytree(folder.parent, Path(keep, str(number)),
                        ignore=lambda _, names: {"pipe.ts", "bin"} & set(names))
    shutil.rmtree(folder.parent)
    return result


# ---- many ----

def settle() -> None:
    "What a forked process has of its own: one thread, a limit of pixels, no figures on disk."
    import torch

    from vicmae.pretraining import build, job
    from vicmae.run import log

    os.environ |= ENVIRONMENT
    torch.set_num_threads(1)
    nothing = lambda *args, **options: None  # noqa: E731  # two thirds of the time of a short run
    job.draw_reconstruction = log.save_figure = build.save_figure = nothing


def command_in(args: list[str], place: Path) -> None:
    "`vicmae ARGS` in a folder and in a forked process, for the sound files."
    from vicmae import cli

    pid = os.fork()
    if not pid:
        try:
            settle()
            os.chdir(place)
            with captured(str(place / "log")):
                cli.main(args)
        finally:  # whatever has happened: the run's folder tells
            os._exit(0)
    os.waitpid(pid, 0)
    if not (place / "run/status.json").exists():
        raise RuntimeError(f"{args[0]} of sound files failed: {said(str(place / 'log'))[-2000:]}")


def prepare_stock(folder: Path) -> Stock:
    "Import everything once, and make the sound files, some with the commands themselves."
    os.environ.setdefault("MPLBACKEND", "Agg")
    for name in ("matplotlib.pyplot", "sklearn.linear_model", "tqdm", "uniplot", "vicmae.look.show",
                 "vicmae.finetuning.job", "vicmae.cluster.slurm", "vicmae.look.reconstruct",
                 "vicmae.cluster.watch"):
        import_module(name)
    os.environ["SVT_LOG"] = "1"  # an encoder that talks
    stock = Stock(folder, command_in)
    (folder / "classifier.safetensors").write_bytes(stock.checkpoints["classifier"][1])
    return stock


def run(numbers: Sequence[int], seed: int, stock: Stock, work: Path, keep: str = "",
        jobs: int = 2, real: float = 1 / 40, tell: Callable[[dict], None] = lambda row: None,
        ) -> list[dict]:
    "Try inputs, a share of them by the real command line; results in the order of the numbers."
    STOCK[:] = [stock]  # forked processes find it there
    results, begin = [], get_context("fork")
    with ProcessPoolExecutor(jobs, begin, adopt) as pool:
        orders = [(seed, number, work, keep, real) for number in numbers]
        for result in pool.map(try_number, orders):
            results.append(result)
            tell(result)
    return results


def table(results: list[dict]) -> str:
    "Inputs by kind, and the closing line."
    rows = defaultdict(list)
    for result in results:
        rows[result["kind"]].append(result)
    lines = [f"{'kind':12s} inputs  intact  refused  real  passed  failed  seconds  peak MB"]
    for kind, some in rows.items():
        failed = sum(bool(r["why"]) for r in some)
        lines.append(
            f"{kind:12s} {len(some):6d}  {sum(r['intact'] for r in some):6d}  "
            f"{sum(r['refused'] for r in some):7d}  {sum(r['real'] for r in some):4d}  "
            f"{len(some) - failed:6d}  {failed:6d}  {sum(r['seconds'] for r in some):7.0f}  "
            f"{max(r['mb'] for r in some):7.0f}")
    failed = sum(bool(r["why"]) for r in results)
    return "\n".join([*lines, f"{len(results) - failed} passed, {failed} failed"])


def main() -> int:
    "Options, progress, and the table."
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=2000, help="inputs, of all kinds in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", default=",".join(KINDS), help="only these of the inputs")
    parser.add_argument("--only", type=int, help="the number of one input")
    parser.add_argument("--out", help="a file for all results, one JSON object a line")
    parser.add_argument("--keep", default="", help="folder for the files of inputs that failed")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    kinds, numbers = options.kind.split(","), range(options.count)
    numbers = [options.only] if options.only is not None else [
        n for n in numbers if kind_of_number(n) in kinds]
    began, log = time.monotonic(), open(options.out, "w") if options.out else io.StringIO()
    count = [0]

    def tell(row: dict) -> None:
        count[0] += 1
        log.write(json.dumps(row) + "\n")
        log.flush()
        if row["why"] or options.only is not None:
            print(f"{row['number']} {row['kind']}: {row['how'][:150]!a}\n    {row['path'][:60]!a} "
                  f"{row['why'] or ('refused' if row['refused'] else 'passed')}", flush=True)
        if count[0] % 100 == 0:
            print(f"-- {count[0]} of {len(numbers)}, {time.monotonic() - began:.0f} s", flush=True)

    with tempfile.TemporaryDirectory(prefix="fuzz") as folder, log:
        stock = prepare_stock(Path(folder))
        print(f"{len(stock.pictures)} sorts of pictures, {len(stock.clips)} of clips, "
              f"{len(stock.checkpoints)} of checkpoints", flush=True)
        results = run(numbers, options.seed, stock, Path(folder, "work"), options.keep,
                      options.jobs, tell=tell)
    print(f"limits: {SECONDS:g} s, {MEGABYTES} MB beyond the start at {PIXELS:,} pixels")
    print(table(results))
    return int(any(r["why"] for r in results))


if __name__ == "__main__":
    sys.exit(main())
