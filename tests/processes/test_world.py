"""The world on disk: the same pixels everywhere, whole files after kill -9, honest manifests."""

import csv
import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import SAMPLES
from support.faulty import left
from support.waiting import wait_for

from vicmae.data.world import (
    INSTANCES,
    MOTIONS,
    OBJECTS,
    WorldConfig,
    correspond,
    make_clip,
    make_picture,
)
from vicmae.data.worldfiles import plan_world, write_world

SMALL = dict(num_frames=8, size=32, progress=False)


def contents(out):
    """Every file under a folder, by its bytes."""
    return {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in Path(out).rglob("*")
        if p.is_file()
    }


def decode(path):
    import av

    with av.open(str(path)) as box:
        return np.stack([f.to_ndarray(format="rgb24") for f in box.decode(video=0)])


def check_manifest(out):
    """Each row has its file and each file its row; returns the rows."""
    rows = list(csv.DictReader(open(Path(out) / "manifest.csv")))
    assert list(rows[0]) == ["path", "kind", "label", "motion", "split", "seed"]
    files = {
        p.relative_to(out).as_posix()
        for p in Path(out).rglob("*.*")
        if p.suffix in (".mp4", ".jpg", ".part")
    }
    assert files == {row["path"] for row in rows} and len(files) == len(rows)
    assert len({(row["kind"], row["seed"]) for row in rows}) == len(rows)
    for row in rows:
        assert row["path"].split("/")[:2] == [row["kind"] + "s", row["label"]]
        assert row["motion"] in (MOTIONS if row["kind"] == "clip" else [""])
    return rows


@pytest.mark.floats
def test_pixels_are_the_same_in_another_process():
    code = (
        "import hashlib, numpy as np; np.random.seed(3)\n"
        "from vicmae.data.world import make_clip, make_picture\n"
        "c, p = make_clip(11, num_frames=6, size=32), make_picture(11, size=32)\n"
        "parts = (c.frames, c.masks, c.poses, p.frames)\n"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in parts)).hexdigest())"
    )
    ends = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    clip, picture = make_clip(11, num_frames=6, size=32), make_picture(11, size=32)
    parts = (clip.frames, clip.masks, clip.poses, picture.frames)
    here = hashlib.sha256(b"".join(a.tobytes() for a in parts)).hexdigest()
    assert {here} == {end.stdout.strip() for end in ends}


def test_no_global_random_state_is_touched():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    make_clip(1, num_frames=2, size=16)
    assert (before == np.random.get_state()[1]).all()


def test_files_do_not_depend_on_the_number_of_workers(tmp_path):
    write_world(tmp_path / "one", 11, 3, workers=1, **SMALL)
    write_world(tmp_path / "two", 11, 3, workers=2, **SMALL)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(check_manifest(tmp_path / "two")) == 14


@pytest.mark.clocks
def test_a_killed_write_leaves_whole_files_and_is_finished_by_a_second_call(tmp_path):
    written = lambda: len(list(tmp_path.rglob("*.mp4")))
    args = f"{str(tmp_path / 'cut')!r}, 150, 10, num_frames=24, size=64, workers=2, progress=False"
    code = "from vicmae.data.worldfiles import write_world\n"
    code += f"if __name__ == '__main__': write_world({args})"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    wait_for("twentieth clip", lambda: child.poll() is not None or written() >= 20, pause=0.01)
    assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = written()
    wait_for("end of the workers", lambda: not left(child.pid))  # nothing is written any more
    later = sorted(tmp_path.rglob("*.mp4"))
    assert done <= len(later) < 150
    assert not (tmp_path / "cut/manifest.csv").exists()
    assert all(len(decode(path)) == 24 for path in later)
    stamps = {path: path.stat().st_mtime_ns for path in later}
    write_world(tmp_path / "cut", 150, 10, num_frames=24, size=64, workers=2, progress=False)
    assert stamps == {path: path.stat().st_mtime_ns for path in later}  # not written again
    assert len(check_manifest(tmp_path / "cut")) == 160


def test_a_world_can_grow_but_not_change(tmp_path):
    write_world(tmp_path, 3, 1, workers=1, **SMALL)
    before = contents(tmp_path)
    write_world(tmp_path, 5, 2, workers=1, **SMALL)
    after = contents(tmp_path)
    assert {k: v for k, v in before.items() if k != "manifest.csv"}.items() <= after.items()
    for change in (
        dict(seed=1),
        dict(split="val"),
        dict(size=64),
        dict(config=WorldConfig(light=9.0)),
    ):
        with pytest.raises(ValueError, match=f"another {[*change][0]}: name another folder"):
            write_world(tmp_path, 5, 2, workers=1, **(SMALL | change))
    assert contents(tmp_path) == after


def test_bad_arguments_get_a_sentence(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/manifest.csv").write_text("path,label\n")
    (tmp_path / "file").write_text("")
    for bad, word in (
        (dict(out="theirs"), "another maker"),
        (dict(out="file"), "is a file"),
        (dict(size=33), "even size"),
        (dict(clips=-1), "0 or more"),
        (dict(split="test"), "train, val"),
        (dict(num_frames=0), "1 frame or more"),
    ):
        args = dict(out="new", clips=1, pictures=0, workers=1) | SMALL | bad
        with pytest.raises(ValueError, match=word):
            write_world(**(args | {"out": tmp_path / args["out"]}))
    for bad in (dict(object="dog"), dict(motion="fly"), dict(object=99), dict(seed=-1)):
        with pytest.raises(ValueError, match="\\w"):
            make_clip(**(dict(seed=0, num_frames=1) | bad))


def test_train_and_val_share_no_individual():
    assert not set(INSTANCES["train"]) & set(INSTANCES["val"])
    for split in INSTANCES:
        drawn = {make_clip(i, split, num_frames=1, size=8).instance for i in range(300)}
        assert drawn <= set(INSTANCES[split]) and len(drawn) > 40
    assert (make_clip(5, "train", 2, 32).frames != make_clip(5, "val", 2, 32).frames).any()


def test_classes_and_motions_are_balanced_and_independent():
    rows = plan_world(7000, 100)
    clips = [(r["label"], r["motion"]) for r in rows if r["kind"] == "clip"]
    assert all(clips.count((o, m)) == 100 for o in OBJECTS for m in MOTIONS)
    pictures = [r["label"] for r in rows if r["kind"] == "picture"]
    assert all(pictures.count(o) == 10 for o in OBJECTS)


def test_objects_fill_the_frame_and_masks_follow_the_pose():
    shares, kept = [], []
    for seed in range(40):
        clip = make_clip(seed, num_frames=6, size=48, config=WorldConfig(occluders=0))
        shares.append(clip.masks.mean())
        rows, columns = np.nonzero(clip.masks[0])
        x, y = np.rint(correspond(clip.poses[0], clip.poses[4], np.stack([columns, rows], 1))).T
        inside = (x >= 0) & (y >= 0) & (x < 48) & (y < 48)
        kept.append(clip.masks[4][y[inside].astype(int), x[inside].astype(int)].mean())
    assert 0.12 < np.mean(shares) < 0.5 and min(shares) > 0.03
    assert np.mean(kept) > 0.95 and min(kept) > 0.8


def test_the_committed_samples_are_what_the_manifest_says():
    rows = check_manifest(SAMPLES)
    assert sum(p.stat().st_size for p in SAMPLES.rglob("*") if p.is_file()) <= 8e6
    clips = [row for row in rows if row["kind"] == "clip"]
    assert len(clips) >= 60 and len(rows) - len(clips) >= 60
    assert {row["label"] for row in clips} == set(OBJECTS) == {row["label"] for row in rows}
    assert {row["motion"] for row in clips} == set(MOTIONS)
    for row in clips[::13]:
        frames = decode(SAMPLES / row["path"])
        assert len(frames) >= 64
        made = make_clip(
            int(row["seed"]),
            row["split"],
            len(frames),
            frames.shape[1],
            object=row["label"],
            motion=row["motion"],
        ).frames
        assert np.abs(frames.astype(int) - made).mean() < 10  # the codec's loss, and no more
