"""What breaks during a long run: nothing is lost, nothing hangs, and one sentence says what to do.

Real processes throughout; tests/support/faulty.py breaks them at a given step. The runs are forked
from a
server (see there), two ranks as two such processes; test_torchrun_* start the real torchrun.
"""
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import av
from support import SAMPLES, faulty, torchrun
import pytest
import torch
from support.faulty import Run, Server, left
from support.waiting import PATIENCE, wait_for

from vicmae.run.folder import RunFolder
from vicmae.train.weights import read_tensors

SAME = ("step", "loss", "loss_recon", "loss_contrast", "grad_norm", "skipped", "lambda", "lr")
STEPS, EVERY, BAD = 8, 3, 5  # of a run; of its checkpoints; the step at which most faults happen
FREEZE = float(os.environ.get("VICMAE_TEST_FREEZE", "3"))  # seconds
TERM, INT, USR1 = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1


# ---- runs ----

@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    "Ten clips and six pictures."
    folder = tmp_path_factory.mktemp("few") / "data"
    files = (sorted(SAMPLES.glob("clips/*/*.mp4"))[::5][:10]
             + sorted(SAMPLES.glob("pictures/*/*"))[::9][:6])
    for file in files:
        target = folder / file.relative_to(SAMPLES)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("logs"), pictures=False) as it:
        yield it


@pytest.fixture(scope="module")
def go(server, few):
    "A function that runs some ranks to their end, which must come, and leaves no process behind."
    def run(out: Path, *args: object, ranks: int = 1, faults: dict | None = None, data: Path = few,
            seconds: float = PATIENCE, during=lambda runs: None) -> list[Run]:
        options = ["--recipe", "debug", "--data", data, "--out", out, "--batch-size", 8,
                   "--steps", STEPS, "--checkpoint-every", EVERY, "--precision", "fp32",
                   "--no-tensorboard", "--time-limit", 0, *args]
        if ranks == 1:
            runs = [server.start(*options, faults=faults)]
        else:
            runs = server.ranks(ranks, *options, faults=faults)
        during(runs)
        end = time.monotonic() + seconds
        for one in runs:
            one.wait(max(end - time.monotonic(), 0.1))
        while any(left(one.pid) for one in runs):  # its helpers notice within seconds
            assert time.monotonic() < end + PATIENCE, [left(one.pid) for one in runs]
            time.sleep(0.05)
        return runs
    return run


@pytest.fixture(scope="module")
def whole(go, tmp_path_factory):
    "A function to the undisturbed run on so many ranks; each is made once."
    made = {}

    def of(ranks: int, *args: object) -> Path:
        if (ranks, args) not in made:
            out = tmp_path_factory.mktemp("whole") / "run"
            assert codes(go(out, *args, ranks=ranks)) == [0] * ranks
            made[ranks, args] = out
        return made[ranks, args]
    return of


@pytest.fixture
def again(go, whole):
    "A function that resumes a run and compares its end with that of the undisturbed one."
    def check(out: Path, *args: object, ranks: int = 1, like: tuple = (), data: Path | None = None):
        data = {"data": data} if data else {}
        runs = go(out, "--resume", *args, ranks=ranks, **data)
        assert codes(runs) == [0] * ranks, runs[0].err
        assert status(out)["state"] == "finished"
        same(out, whole(ranks, *like))
        return runs[0]
    return check


def codes(runs: list[Run]) -> list[int]:
    return [run.poll() for run in runs]


def rows(out: Path) -> list[dict]:
    return RunFolder(out).metrics()


def curve(out: Path) -> list[tuple]:
    return [tuple(row[key] for key in SAME) for row in rows(out)]


def status(out: Path) -> dict:
    return json.loads((out / "status.json").read_text())


def steps_saved(out: Path) -> list[int]:
    "Steps of the checkpoints, newest first; each whole, with its moments; nothing else lies there."
    found = RunFolder(out).checkpoints()
    for path in found:
        read_tensors(path), read_tensors(path.with_suffix(".optim"))
    beside = {p.name for p in (out / "checkpoints").glob("*")}
    assert beside == {p.with_suffix(s).name for p in found for s in (".safetensors", ".optim")}
    return [int(path.stem.removeprefix("step_")) for path in found]


def same(out: Path, good: Path) -> None:
    "Metrics, weights and moments are equal, bit for bit."
    assert curve(out) == curve(good)
    for suffix in (".safetensors", ".optim"):
        newest = (RunFolder(run).checkpoints()[0] for run in (out, good))
        a, b = (read_tensors(path.with_suffix(suffix))[0] for path in newest)
        assert set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in b)


def sentences(runs: list[Run]) -> list[str]:
    "What the ranks complain about: no traceback, one line each at most."
    said = []
    for run in runs:
        assert "Traceback" not in run.err and "Error:" not in run.err, run.err
        mine = [line for line in run.err.splitlines() if line.startswith("vicmae pretrain: ")]
        assert len(mine) <= 1, mine
        said += mine
    return said


def stopped(runs: list[Run], out: Path, number: int, step: int) -> None:
    "All ranks have left because of a signal, after saving."
    state = "stopped" if number == INT else "preempted"
    assert codes(runs) == [128 + number] * len(runs), runs[0].err
    assert "--resume" in runs[0].out and not sentences(runs)
    found = status(out)
    assert (found["state"], found["step"], found["reason"]) == (state, step, f"signal {number}")
    assert len(rows(out)) == step and (steps_saved(out)[:1] == [step] or not step)


def failed(runs: list[Run], out: Path, word: str, saved: int | None) -> None:
    "Bad for one, the end for all: exit code 2 where it happened, one sentence, and a status."
    assert 2 in codes(runs) and not {0, None} & set(codes(runs)), codes(runs)
    assert sum(word in line for line in sentences(runs)) == 1, [run.err for run in runs]
    found = status(out)
    assert found["state"] == "failed" and word in found["reason"], found
    if saved is not None:
        assert found["step"] == saved == steps_saved(out)[0]


def at(step: int, do: str, **more: object) -> dict:
    "One fault before a step."
    return {"hit": [{"step": step, "do": do, **more}]}


# ---- 1. damaged checkpoints ----

@pytest.fixture(scope="module")
def half(go, tmp_path_factory) -> Path:
    "A run that was stopped at step 6 and has two checkpoints, 3 and 6."
    out = tmp_path_factory.mktemp("half") / "run"
    go(out, faults=at(6, "signal", number=TERM))
    assert steps_saved(out) == [6, 3]
    return out


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    else:  # one bit of one weight
        content[-len(content) // 3] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("suffix, how", [(".safetensors", "cut"), (".optim", "cut"),
                                         (".safetensors", "bit")])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(half, tmp_path, again, suffix,
                                                                  how):
    shutil.copytree(half, tmp_path / "run")
    newest = RunFolder(tmp_path / "run").checkpoints()[0].with_suffix(suffix)
    damage(newest, how)
    run = again(tmp_path / "run")
    assert f"passed over: {newest}" in run.out


def test_a_damaged_checkpoint_does_not_push_out_a_good_one(half, tmp_path, go, again):
    out = tmp_path / "run"
    shutil.copytree(half, out)
    damage(RunFolder(out).checkpoints()[0], "cut")
    go(out, "--resume", "--keep", 1, "--checkpoint-every", 100, faults=at(5, "signal", number=TERM))
    assert status(out)["step"] == 5
    again(out)
    assert rows(out)[4] and status(out)["step"] == STEPS


# ---- 2. no room ----

@pytest.fixture
def small(tmp_path):
    "A file system of 40 MB."
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(command).returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_full_disk(small, go, again, ranks):
    out = small / "run"
    runs = go(out, ranks=ranks, faults=at(BAD, "fill", rank=0, file=str(small / "big")))
    said = sentences(runs)
    assert len(said) == 1 and "No space left on device" in said[0]
    assert codes(runs) == [2, 1][:ranks] and steps_saved(out) == [3] and status(out)["step"] == 3
    assert [row["step"] for row in rows(out)][:4] == [1, 2, 3, 4]
    (small / "big").unlink()
    again(out, ranks=ranks)


@pytest.mark.parametrize("ranks, size, word", [(1, 3_000_000, ".optim"),
                                               (2, 1000, "could not be")])
def test_a_file_that_cannot_grow(tmp_path, go, again, ranks, size, word):
    out = tmp_path / "run"
    runs = go(out, ranks=ranks, faults={"limit": {"step": BAD, "bytes": size, "rank": 0}})
    failed(runs, out, word, 3)
    assert [row["step"] for row in rows(out)][:3] == [1, 2, 3]
    again(out, ranks=ranks)


# ---- 3. numbers that are not finite ----

@pytest.mark.parametrize("ranks", [1, 2])
def test_a_batch_that_is_not_finite_is_skipped_by_all(tmp_path, go, whole, ranks):
    out = tmp_path / "run"
    assert codes(go(out, ranks=ranks, faults=at(BAD, "nan", rank=ranks - 1))) == [0] * ranks
    good = rows(whole(ranks))
    assert [row["skipped"] for row in rows(out)] == [row["step"] == BAD for row in rows(out)]
    assert curve(out)[: BAD - 1] == [tuple(r[k] for k in SAME) for r in good[: BAD - 1]]
    noted = [json.loads(line) for line in (out / "nonfinite.jsonl").read_text().splitlines()]
    assert [note["step"] for note in noted] == [BAD]
    assert len(noted[0]["files"]) == 8 and all(Path(f).exists() for f in noted[0]["files"])
    for suffix in (".safetensors", ".optim"):  # BatchNorm's buffers are among them
        tensors = read_tensors(RunFolder(out).checkpoints()[0].with_suffix(suffix))[0]
        assert all(value.isfinite().all() for value in tensors.values())


@pytest.mark.parametrize("ranks", [1, 2])
def test_nothing_finite_any_more(tmp_path, go, ranks):
    out = tmp_path / "run"
    runs = go(out, "--max-skipped", 3, "--num-workers", 1, ranks=ranks,
              faults=at(4, "nan", last=99, rank=ranks - 1))
    failed(runs, out, "3 steps in a row", 3)
    assert len(rows(out)) == 6


# ---- 4. dead and frozen ranks ----

@pytest.mark.clocks
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_others(tmp_path, go, again, rank):
    out = tmp_path / "run"
    runs = go(out, ranks=2, faults=at(BAD, "kill", rank=rank))
    assert codes(runs)[rank] == -9 and codes(runs)[1 - rank] == 2
    assert runs[1 - rank].ended - runs[rank].ended < PATIENCE
    said = sentences(runs)
    assert len(said) == 1 and f"rank {1 - rank} lost another process" in said[0]
    assert status(out)["state"] == "failed" and "lost another process" in status(out)["reason"]
    assert "gloo" not in said[0] + status(out)["reason"]
    if rank:
        again(out, ranks=2)


@pytest.mark.clocks
def test_a_frozen_rank_is_waited_for(tmp_path, go, whole):
    def thaw(runs: list[Run]) -> None:
        state = lambda: Path(f"/proc/{runs[1].pid}/stat").read_text().rsplit(")")[1].split()[0]
        while runs[1].poll() is None and state() != "T":
            time.sleep(0.02)
        wait_for("step before the frozen one", lambda: len(rows(tmp_path / "run")) == BAD - 1)
        time.sleep(FREEZE)
        assert codes(runs) == [None, None] and len(rows(tmp_path / "run")) == BAD - 1
        runs[1].kill(signal.SIGCONT)

    stop = at(BAD, "signal", number=signal.SIGSTOP, rank=1)
    assert codes(go(tmp_path / "run", ranks=2, faults=stop, during=thaw)) == [0, 0]
    same(tmp_path / "run", whole(2))


@pytest.mark.clocks
def test_a_rank_that_stays_frozen_is_given_up(tmp_path, go):
    def kill(runs: list[Run]) -> None:
        runs[0].wait(PATIENCE)
        runs[1].kill(signal.SIGKILL)

    faults = at(BAD, "signal", number=signal.SIGSTOP, rank=1) | {"minutes": {"minutes": 0.1}}
    runs = go(tmp_path / "run", ranks=2, faults=faults, during=kill)
    assert codes(runs) == [2, -9] and "lost another process" in sentences(runs[:1])[0]


@pytest.mark.clocks
def test_torchrun_starts_again_and_hands_signals_on(few, tmp_path, whole, again):
    out = tmp_path / "run"
    faults = {"hit": [
        {"step": BAD, "rank": 1, "do": "kill"},
        {"step": BAD + 1, "rank": 1, "do": "signal", "number": USR1, "to": "parent", "again": True},
        {"step": BAD + 1, "rank": 1, "do": "sleep", "seconds": 5, "again": True}]}
    command = [*torchrun(2),
               "--max-restarts=1", "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
               faulty.__file__, json.dumps(faults), "pretrain", "--recipe", "debug", "--data", few,
               "--out", out, "--batch-size", 8, "--steps", STEPS, "--checkpoint-every", EVERY,
               "--precision", "fp32", "--no-tensorboard", "--time-limit", 0]
    done = subprocess.run(list(map(str, command)), env=faulty.ENV, capture_output=True, text=True,
                          timeout=PATIENCE)
    said = [line for line in done.stderr.splitlines() if "decoding" not in line]
    for words in ("lost another process", "stopping after this step"):
        assert any(words in line for line in said), "\n".join(said)
    assert status(out)["state"] == "preempted", done.stderr
    assert steps_saved(out)[0] == status(out)["step"] in (BAD + 1, BAD + 2)
    again(out, ranks=2)


# ---- 5. signals ----

@pytest.mark.parametrize("number, to, workers, ranks", [
    (TERM, "self", 0, 1), (INT, "self", 2, 1), (TERM, "group", 2, 1), (USR1, "self", 0, 2)])
def test_a_signal_saves_and_stops(tmp_path, go, again, number, to, workers, ranks):
    out = tmp_path / "run"
    faults = at(BAD, "signal", number=number, to=to, rank=ranks - 1)  # one rank of two
    stopped(go(out, "--num-workers", workers, ranks=ranks, faults=faults), out, number, BAD)
    again(out, ranks=ranks)


@pytest.mark.parametrize("number, to", [(TERM, "group"), (INT, "self")])
def test_a_signal_during_decoding(tmp_path, go, number, to):
    faults = {"decode": {"file": 3, "number": number, "to": to, "once": str(tmp_path / "sent")}}
    runs = go(tmp_path / "run", faults=faults)
    assert (tmp_path / "sent").exists()
    stopped(runs, tmp_path / "run", number, 0)


# ---- 6. data that goes away ----

@pytest.mark.parametrize("workers, ranks", [(0, 1), (2, 1), (0, 2)])
def test_the_data_goes_away(few, tmp_path, go, again, workers, ranks):
    data, away, out = tmp_path / "data", tmp_path / "away", tmp_path / "run"
    shutil.copytree(few, data)
    options = "--cache", "none", "--num-workers", workers
    faults = at(4, "rename", rank=0, old=str(data), new=str(away))
    runs = go(out, *options, ranks=ranks, data=data, faults=faults)
    failed(runs, out, "not one file", None)
    done = status(out)["step"]  # workers have some batches ready
    assert steps_saved(out)[0] == done == len(rows(out)) and 4 <= done < STEPS
    away.rename(data)
    again(out, *options, ranks=ranks, data=data, like=("--cache", "none"))


def test_one_rank_has_no_data_when_the_run_goes_on(half, tmp_path, go):
    out = tmp_path / "run"
    shutil.copytree(half, out)
    runs = go(out, "--resume", ranks=2, faults={"blind": {"rank": 1}})
    assert set(codes(runs)) <= {1, 2}
    assert sum("nowhere does not exist" in line for line in sentences(runs)) == 1
    assert steps_saved(out) == [6, 3]


@pytest.mark.parametrize("which", ["loads", "decodes"])
def test_a_helping_process_is_killed(tmp_path, go, again, which):
    out, options = tmp_path / "run", ("--num-workers", 2)
    if which == "loads":
        runs = go(out, *options, faults=at(BAD, "kill worker"))
        failed(runs, out, "killed", None)
        assert steps_saved(out)[0] in (3, BAD - 1, BAD)
    elif len(os.sched_getaffinity(0)) < 2:
        pytest.skip("on one core the run decodes by itself")
    else:
        faults = {"decode": {"file": 3, "number": signal.SIGKILL, "to": "worker",
                             "once": str(tmp_path / "sent")}}
        runs = go(out, *options, faults=faults)
        assert codes(runs) == [2] and len(sentences(runs)) == 1
    again(out, *options)


def test_a_clip_that_is_used_in_part_is_named(few, tmp_path, go):
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(few, data)
    cut = next(data.glob("clips/*/*.mp4"))
    with av.open(str(cut)) as source, av.open(str(cut.with_suffix(".mkv")), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    cut.unlink()
    cut = cut.with_suffix(".mkv")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 3 // 4])
    run = go(out, "--steps", 2, data=data)[0]
    assert run.wait() == 0 and "1 files are used in part" in run.out + run.err
    rows = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [(row["path"], row["used"]) for row in rows] == [(str(cut), True)]


# ---- 7. the clock ----

@pytest.mark.parametrize("jump", [365 * 86400, -365 * 86400])
def test_a_clock_that_jumps_changes_dates_only(tmp_path, go, whole, jump):
    out = tmp_path / "run"
    assert codes(go(out, faults={"clock": {"step": BAD, "jump": jump}})) == [0]
    same(out, whole(1))
    year = int(status(out)["time"][:4]) - time.gmtime().tm_year
    assert abs(year * 365 * 86400 - jump) <= 2 * 86400
    assert all(0 < row["seconds"] < PATIENCE and row["pairs_per_s"] > 0 for row in rows(out))


# ---- 8. another number of processes ----

def near(out: Path, good: Path) -> None:
    assert len(rows(out)) == STEPS
    for a, b in zip(curve(out), curve(good)):
        assert a == pytest.approx(b, rel=1e-3)


@pytest.mark.floats
def test_ranks_and_workers_may_change_the_batch_may_not(tmp_path, go, whole):
    out = tmp_path / "run"
    stopped(go(out, faults=at(2, "signal", number=TERM)), out, TERM, 2)
    runs = go(out, "--resume", ranks=2, faults=at(BAD, "signal", number=TERM, rank=1))
    stopped(runs, out, TERM, BAD)
    wrong = go(out, "--resume", ranks=3)
    assert set(codes(wrong)) <= {1, 2}
    assert all("has used batches of 8, " in line and "divides 8" in line
               for line in sentences(wrong) or [""])
    assert codes(go(out, "--resume", "--num-workers", 2)) == [0]
    near(out, whole(1))


@pytest.mark.floats
def test_sharded_on_two_then_whole_on_one(tmp_path, go, whole):
    out, fault = tmp_path / "run", at(BAD, "signal", number=USR1, rank=1)
    stopped(go(out, "--parallel", "fsdp", ranks=2, faults=fault), out, USR1, BAD)
    assert codes(go(out, "--resume")) == [0]
    near(out, whole(1))


# ---- 10. what is kept ----

def test_which_checkpoints_stay_and_what_is_swept(tmp_path, go):
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    for name in (".status.json.0.tmp", "checkpoints/.step_00000001.optim.7.tmp",
                 "checkpoints/step_00000001.optim"):  # as killed processes leave them
        (out / name).write_bytes(b"half")
    go(out, "--checkpoint-every", 1, "--keep", 2, "--keep-every", 3)
    assert steps_saved(out) == [8, 7, 6, 3]
    assert not [p for p in out.rglob("*.tmp")]
