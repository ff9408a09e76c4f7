"""Spoilt and strange files in CI, sixty of the thousands of tests/tools/fuzz.py; and: its judge
can fail.

Everything happens in one process of its own, which forks one for each input.
"""
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `support`
from support.once import once

COUNT, SEED = 60, 1
PICTURE = 3  # the number of one


def key_error(path, time_limit=None):
    raise KeyError("tag")


def nameless(path, time_limit=None):
    raise ValueError("invalid literal for int() with base 10: 'x'")


def library(path, time_limit=None):
    raise OSError(f"{path}: UnidentifiedImageError while reading")


def painted(path, time_limit=None):
    raise OSError(f"{path} is \x1b[31mbad\x1b[0m")


def half(path, time_limit=None):
    import numpy as np

    return np.zeros((4, 4), np.float16)


def slow(path, time_limit=None):
    time.sleep(60)


def parent(path, time_limit=None):
    subprocess.Popen(["sleep", "60"], start_new_session=True)
    raise OSError(f"{path} is bad")


def greedy(path, time_limit=None):
    import numpy as np

    np.ones(1200 << 20, np.uint8)
    raise OSError(f"{path} is bad")


def crash(path, time_limit=None):
    os.abort()


PLANTED = {key_error: "KeyError", nameless: "names no file", library: "UnidentifiedImageError",
           painted: "one line", half: "float16", slow: "hangs", parent: "leaves a process",
           greedy: "MB", crash: "status"}


def digest(stock, number: int, folder: Path) -> str:
    "One text for all files of an input and all that is known of it."
    from support import fuzz_inputs

    folder.mkdir(parents=True)
    item = fuzz_inputs.make_input(SEED, number, folder, stock)
    total = hashlib.sha256(repr((item.path, item.how, item.names, item.truth)).encode(
        errors="surrogatepass"))
    for file in sorted(f for f in folder.rglob("*") if f.is_file() and not f.is_symlink()):
        total.update(os.fsencode(file.name) + file.read_bytes())
    return total.hexdigest()


def everything(folder: Path) -> dict:
    "The lane, what was made twice, and what the judge said to planted faults."
    from tools import fuzz
    from support import fuzz_inputs

    import vicmae.media.files
    import vicmae.media.pictures

    stock = fuzz.prepare_stock(folder)
    def try_one(number: int) -> str:
        return fuzz.run([number], SEED, stock, folder / "planted", jobs=1, real=0)[0]["why"]

    told = {"lane": fuzz.run(range(COUNT), SEED, stock, folder / "lane", real=0)}
    told["made"] = [[digest(stock, n, folder / f"{turn}/{n}") for n in range(50)]
                    for turn in ("once", "again")]
    told["stock"] = fuzz_inputs.clip_stock() == stock.clips
    sound, told["planted"], told["sound"] = vicmae.media.pictures.read_picture, {}, try_one(PICTURE)
    for bad in PLANTED:
        fuzz.SECONDS, fuzz.PATIENCE = (1, 0.3) if bad in (slow, parent) else (120, 30)
        vicmae.media.pictures.read_picture = bad
        told["planted"][bad.__name__] = try_one(PICTURE)
    vicmae.media.pictures.read_picture, found = sound, vicmae.media.files.find_samples
    vicmae.media.files.find_samples = lambda data, *args, **options: found(
        data, *args, **options)[1:]
    told["drops"] = [row["why"] for row in fuzz.run(
        range(0, 50, 5), SEED, stock, folder / "drops", jobs=1, real=0)]
    return told


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict:
    "What the process of its own has found, once for all workers."
    base = tmp_path_factory.getbasetemp()
    return once(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base, "fuzz", ask)


def ask() -> dict:
    "Run this file."
    env, minutes = {**os.environ, "OMP_NUM_THREADS": "1"}, 20  # it takes a quarter of a minute
    try:
        done = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True,
                              timeout=60 * minutes)
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"{COUNT} inputs were not tried within {minutes} minutes: {late.stderr}")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_right_result_or_one_sentence(told):
    lane = told["lane"]
    assert {row["kind"] for row in lane} == {"lists", "checkpoints", "runs", "pictures", "clips"}
    assert sum(row["intact"] for row in lane) * 3 >= COUNT
    assert [(row["number"], row["how"], row["why"]) for row in lane if row["why"]] == []
    for kind in ("lists", "checkpoints", "pictures", "clips"):  # it's not all refused, nor taken
        refused = [row["refused"] for row in lane if row["kind"] == kind]
        assert 0 < sum(refused) < len(refused), kind


def test_the_same_inputs_each_time(told):
    once, again = told["made"]
    assert once == again and len(set(once)) == len(once)
    assert told["stock"]


def test_the_judge_can_fail(told):
    assert told["sound"] == ""
    for bad, word in PLANTED.items():
        assert word in told["planted"][bad.__name__], (bad.__name__, told["planted"])
    assert any("without a word" in why for why in told["drops"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        print(json.dumps(everything(Path(folder))))
