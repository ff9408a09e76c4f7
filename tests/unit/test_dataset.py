"""Batches are the same everywhere, and a file that cannot be read stops nothing."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.waiting import PATIENCE

import vicmae.media.frames
from vicmae.media.batches import BatchPlan, PairBatches, hash_batch, join_ranks, make_loader
from vicmae.media.files import Sample, find_samples
from vicmae.media.records import ErrorReport
from vicmae.errors import DataError
from vicmae.media.frames import FrameCache, Frames, first_frame
from support.clips import write_clip, write_picture

SIZE, PATCH, BATCH = 32, 8, 16


def add_bad_files(folder, clip, picture):
    """One of each kind that cannot be read; returns their names."""
    movie, photo = clip.read_bytes(), picture.read_bytes()
    (folder / "cut.mp4").write_bytes(movie[: len(movie) // 3])
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is no video\n" * 20)
    (folder / "zeros.mp4").write_bytes(bytes(5000))
    (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    (folder / "picture.mp4").write_bytes(photo[:60])
    (folder / "cut.jpg").write_bytes(photo[:200])
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("this is no picture")
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """24 clips and 16 pictures, and 13 files that cannot be read."""
    home = tmp_path_factory.mktemp("home")
    for i in range(24):
        (home / f"class{i % 3}").mkdir(exist_ok=True)
        write_clip(home / f"class{i % 3}" / f"clip{i}.mp4", i)
        if i < 16:
            write_picture(home / f"class{i % 3}" / f"picture{i}.png", i)
    (home / "bad").mkdir()
    add_bad_files(home / "bad", home / "class0" / "clip0.mp4", home / "class0" / "picture0.png")
    return home


@pytest.fixture(scope="module")
def samples(home):
    return find_samples(home)


def dataset(samples, rank=0, world=1, **options):
    options = {
        "batch_size": BATCH,
        "img_size": SIZE,
        "patch_size": PATCH,
        "seed": 3,
        "time_limit": 20.0,
        **options,
    }
    return PairBatches(samples, rank=rank, world=world, **options)


def hashes(samples, world, workers, start, stop, **options):
    loaders = [
        make_loader(dataset(samples, rank, world, **options), start, stop, workers)
        for rank in range(world)
    ]
    return [hash_batch(join_ranks(shares)) for shares in zip(*loaders)]


# --- the same batches everywhere -----------------------------------------------------------------


def test_same_batches_for_workers_and_ranks_and_after_a_resume(samples):
    reference = hashes(samples, 1, 0, 0, 6)
    assert len(set(reference)) == 6
    for world, workers in ((1, 1), (1, 2), (2, 0), (4, 0), (2, 1)):
        assert hashes(samples, world, workers, 0, 6) == reference, (world, workers)
    assert hashes(samples, 1, 0, 3, 6) == reference[3:]  # resumed from the middle
    assert hashes(samples, 2, 1, 4, 6) == reference[4:]


def test_same_batches_with_several_pairs_a_video(samples):
    options = {"pairs_per_video": 2, "rule": "distant:6"}
    reference = hashes(samples, 1, 0, 0, 3, **options)
    assert hashes(samples, 2, 1, 0, 3, **options) == reference
    assert hashes(samples, 4, 0, 0, 3, **options) == reference
    batch = dataset(samples, **options)[0]
    pairs = batch["video"].view(-1, 2)
    clips = batch["kind"].view(-1, 2)[:, 0] == 1
    assert (pairs[clips, 0] == pairs[clips, 1]).all() and (
        pairs[~clips, 0] != pairs[~clips, 1]
    ).all()
    assert not torch.equal(batch["views"][::2], batch["views"][1::2])
    assert (batch["shift"][batch["kind"] == 1] == 6).all()


def test_seed_changes_batches(samples):
    assert hashes(samples, 1, 0, 0, 1) != hashes(samples, 1, 0, 0, 1, seed=4)


def test_contract(samples):
    batch = dataset(samples, rule="distant")[0]
    expected = {
        "views": (torch.uint8, (BATCH, 2, 3, SIZE, SIZE)),
        "times": (torch.float32, (BATCH, 2)),
        "noise": (torch.float32, (BATCH, 2, (SIZE // PATCH) ** 2)),
        "shift": (torch.float32, (BATCH,)),
        **{key: (torch.int64, (BATCH,)) for key in ("kind", "sample", "video", "label")},
    }
    for key, (dtype, shape) in expected.items():
        assert batch[key].dtype == dtype and batch[key].shape == shape, key
    assert set(batch) == {*expected, "errors"}
    assert batch["sample"].tolist() == list(range(BATCH))
    pictures = batch["kind"] == 0
    assert 0 < pictures.sum() < BATCH
    assert (batch["times"][pictures] == 0).all() and batch["shift"][pictures].isinf().all()
    for video, kind, label in zip(batch["video"], batch["kind"], batch["label"]):
        sample = samples[video]
        assert sample.kind == ("picture", "clip")[kind] and sample.label_id == label


# --- files that cannot be read -------------------------------------------------------------------


@pytest.mark.clocks
def test_bad_files_are_replaced_and_named(home, samples):
    bad = {path.name for path in (home / "bad").iterdir()}
    assert len(bad) == 13
    report, start = ErrorReport(), time.time()
    for batch in make_loader(dataset(samples), 0, 8, 1):
        report.add(batch["errors"])
        names = [Path(samples[i].path).name for i in batch["video"].tolist()]
        assert len(names) == BATCH and len(set(names)) > BATCH - 3 and not bad & set(names)
    assert time.time() - start < PATIENCE
    assert {Path(path).name for path in report.files} == bad
    assert all(Path(path).name in entry["reason"] for path, entry in report.files.items())
    report.write(home / "skipped.jsonl")
    rows = [json.loads(line) for line in (home / "skipped.jsonl").read_text().splitlines()]
    assert {row["path"] for row in rows} == set(report.files)
    assert ErrorReport(home / "skipped.jsonl").files == report.files
    assert f"{len(bad)} files could not be read" in report.summary()


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_ends_in_one_sentence(tmp_path, workers):
    for i in range(20):
        (tmp_path / f"{i}.mp4").write_text("no video")
    with pytest.raises(DataError, match="not one file") as error:
        next(iter(make_loader(dataset(find_samples(tmp_path)), 0, 4, workers)))
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="not one of 20 files"):
        FrameCache(find_samples(tmp_path), SIZE)


@pytest.mark.parametrize("cached", [None, "memory", "disk"])
def test_a_clip_that_is_used_in_part_is_named_once(tmp_path, cached):
    """By a run with any number of workers, and by a cache also when it finds its files ready."""
    for i in range(18):
        write_clip(tmp_path / f"{i:02}.mkv", i)
    movie = (tmp_path / "05.mkv").read_bytes()
    (tmp_path / "05.mkv").write_bytes(movie[:-200])
    samples, expected, reference = find_samples(tmp_path), None, None
    for workers in (0, 2):
        cache = cached and FrameCache(samples, SIZE, cached, tmp_path / "cache", time_limit=None)
        made, report = dataset(samples, cache=cache, time_limit=None), ErrorReport()
        report.add(made.errors)
        batches = list(make_loader(made, 0, 4, workers))
        for batch in batches:
            report.add(batch["errors"])
        reference = reference or [hash_batch(batch) for batch in batches]
        assert [hash_batch(batch) for batch in batches] == reference
        expected = expected or report.files
        assert report.files == expected
    (entry,) = expected.values()
    assert entry["used"] and entry["times"] == 0 and "05.mkv is cut off" in entry["reason"]
    report.write(tmp_path / "skipped.jsonl")
    again = ErrorReport(tmp_path / "skipped.jsonl")
    assert again.files == expected and again.summary().startswith("1 files are used in part")
    again.add([{"path": entry["path"], "reason": "is gone", "step": 9, "place": 2}])
    assert "could not be read" in again.summary() and again.files[entry["path"]]["times"] == 1


class Pretend(PairBatches):
    """A set of files that exist only by number; those in `broken` cannot be read."""

    broken = frozenset()

    def load(self, number, epoch, repeat, count):
        if number in self.broken:
            raise OSError(f"{number} is broken")
        image = torch.full((3, 8, 8), number, dtype=torch.uint8)
        return [([0, 0], [image, image], 0.0)] * count


def pretend(kinds, broken, batch_size=BATCH, **options):
    names = ("picture", "clip")
    samples = [Sample(f"{i}", names[kind]) for i, kind in enumerate(kinds)]
    made = Pretend(samples, batch_size, img_size=8, patch_size=4, **options)
    made.broken = frozenset(broken)
    return made


def whole(kinds, broken, step, world=1, **options):
    return join_ranks(
        [pretend(kinds, broken, rank=r, world=world, **options)[step] for r in range(world)]
    )


def test_replacement_follows_from_seed_epoch_and_place_alone():
    kinds = np.repeat((0, 1), (60, 140))
    plan = pretend(kinds, ()).plan
    kind, file, slot = plan.places(5)
    for broken in ({file[3]}, {file[3], file[4]}, set(file.tolist())):
        batch = whole(kinds, broken, 5)
        expected = plan.candidates(kind[3], 5)[slot[3]]  # whatever else is broken
        assert batch["video"][3] == expected
        assert len(set(batch["video"].tolist())) == BATCH
        assert not set(batch["video"].tolist()) & broken
    broken = {file[3], plan.candidates(kind[3], 5)[slot[3]]}
    batch = whole(kinds, broken, 5)
    assert batch["video"][3] == plan.candidates(kind[3], 5)[slot[3] + plan.share[kind[3]]]
    assert [error["place"] for error in batch["errors"]] == [3, 3]


@pytest.mark.parametrize("files, bad", [(20, 1), (20, 3), (18, 2), (24, 7), (40, 20), (17, 1)])
def test_tiny_sets_fill_a_place_from_its_own_candidates_or_by_a_second_draw(files, bad):
    rng = np.random.default_rng(files * 100 + bad)
    for trial in range(6):
        kinds = np.ones(files, int)
        broken = set(rng.choice(files, bad, replace=False).tolist())
        plan = pretend(kinds, ()).plan
        for step in range(4):
            batch = whole(kinds, broken, step)
            video = batch["video"].tolist()
            assert not set(video) & broken
            planned, candidates = plan.stream(1, step), plan.candidates(1, step)
            own = {
                j: next((c for c in candidates[j :: len(planned)] if c not in broken), None)
                for j, file in enumerate(planned)
                if file in broken
            }
            stepped_in = {file for file in own.values() if file is not None}
            assert set(video) == set(planned) - broken | stepped_in
            assert len({row.numpy().tobytes() for row in batch["noise"]}) == plan.batch_size
            for world in (2, 4):
                assert hash_batch(whole(kinds, broken, step, world)) == hash_batch(batch)


def test_a_sample_drawn_twice_is_another_draw():
    batch = whole(np.ones(16, int), {2, 9}, 0)  # nobody can step in
    video = batch["video"].tolist()
    assert len(set(video)) == 14
    assert len({row.numpy().tobytes() for row in batch["noise"]}) == BATCH


def test_one_kind_unreadable_is_filled_from_the_other():
    kinds = np.repeat((0, 1), (40, 40))
    batch = whole(kinds, range(40), 1, video_ratio=0.5)
    assert (batch["kind"] == 1).all() and (batch["video"] >= 40).all()
    assert len({row.numpy().tobytes() for row in batch["noise"]}) == BATCH


def test_what_was_found_bad_does_not_change_the_choice():
    kinds = np.repeat((0, 1), (60, 140))
    broken = set(np.random.default_rng(0).choice(200, 60, replace=False).tolist())
    walked = pretend(kinds, broken)
    steps = [hash_batch(walked[step]) for step in range(12)]  # a process that has seen them all
    assert steps == [hash_batch(pretend(kinds, broken)[step]) for step in range(12)]


def test_a_file_that_cannot_be_opened_is_tried_once(samples, monkeypatch):
    tried = []

    def refuse(path, **options):
        tried.append(path)
        raise OSError(f"{path} is on strike")

    monkeypatch.setattr(vicmae.media.frames, "open_video", refuse)
    pictures_too = dataset(samples, video_ratio=0.5)
    first, second = pictures_too[0], pictures_too[0]
    assert hash_batch(first) == hash_batch(second) and len(tried) == len(set(tried))
    assert [e["path"] for e in first["errors"]] == [e["path"] for e in second["errors"]]


def test_frames_that_fail_do_not_brand_the_file(samples, monkeypatch):
    """Some frames of a clip fail: it is replaced where they are asked for, and only there."""
    real = vicmae.media.frames.open_video

    class Scratched:
        def __init__(self, path, **options):
            self.video = real(path)
            self.num_frames, self.fps = self.video.num_frames, self.video.fps
            self.notes = []

        def frames(self, indices):
            if self.video.path.endswith(("1.mp4", "2.mp4")) and 3 in indices:
                raise OSError(f"{self.video.path}: frame 3 is damaged")
            return self.video.frames(indices)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.video.close()

    monkeypatch.setattr(vicmae.media.frames, "open_video", Scratched)
    walked = dataset(samples)
    errors, steps = [], []
    for step in range(6):
        batch = walked[step]
        errors += batch["errors"]
        steps.append(hash_batch(batch))
    assert any("frame 3" in error["reason"] for error in errors)
    assert steps == [hash_batch(dataset(samples)[step]) for step in range(6)]


def test_one_kind_unreadable_fills_all_places_of_the_other_with_several_pairs():
    """A picture that steps in for a clip takes all its places, each as a draw of its own."""
    kinds = np.repeat((0, 1), (40, 40))
    batch = whole(kinds, range(40, 80), 1, video_ratio=0.5, pairs_per_video=4)
    assert (batch["kind"] == 0).all() and len(batch["video"]) == BATCH
    assert len({row.numpy().tobytes() for row in batch["noise"]}) == BATCH


def test_pictures_that_step_in_for_clips_fill_their_rows(home):
    clips = [Sample(f"/nowhere/{i}.mp4", "clip") for i in range(16)]
    pictures = [s for s in find_samples(home) if s.kind == "picture" and "bad" not in s.path]
    frames = {"pairs_per_video": 2, "video_ratio": 0.5, "time_limit": None}
    batch = dataset(clips + pictures, **frames)[0]
    assert (batch["kind"] == 0).all() and (batch["video"] >= 16).all()
    assert len({row.numpy().tobytes() for row in batch["views"]}) == len(batch["views"])


# --- frames --------------------------------------------------------------------------------------


def test_files_that_are_trusted_are_read_without_a_helper(samples, monkeypatch):
    """The limit is a matter of each read: whoever knows a file to be good can say so."""
    import vicmae.media.pictures
    import vicmae.media.video

    asked = []
    real = vicmae.media.pictures.ask_helper

    def ask(path, *rest):
        asked.append(str(path))
        return real(path, *rest)

    monkeypatch.setattr(vicmae.media.pictures, "ask_helper", ask)
    monkeypatch.setattr(vicmae.media.video, "ask_helper", ask)
    good = [s for s in samples if "bad" not in s.path]
    some = [s for kind in ("clip", "picture") for s in [s for s in good if s.kind == kind][:2]]
    frames = Frames(some, trusted={0, 2})
    read = [frames.read(i, first_frame) for i in range(4)]
    assert set(asked) == {some[1].path, some[3].path}
    frames.trusted = range(4)  # an index that grows while it is read
    asked.clear()
    assert all(torch.equal(frames.read(i, first_frame), x) for i, x in enumerate(read))
    assert not asked


def test_samples_may_be_anything_with_a_length_and_numbers(samples):
    class Index:
        """As an index on disk: no list, no iteration."""

        def __len__(self):
            return len(good)

        def __getitem__(self, i):
            assert 0 <= i < len(good)
            return good[i]

        __iter__ = None

    good = [s for s in samples if "bad" not in s.path]
    for options in ({}, {"pairs_per_video": 2}):
        assert hashes(Index(), 1, 0, 0, 2, **options) == hashes(good, 1, 0, 0, 2, **options)
    assert FrameCache(Index(), SIZE).samples == good


def test_a_reader_gives_the_same_from_files_and_from_a_cache_of_more_files(samples):
    good = [s for s in samples if "bad" not in s.path]
    cache, some = FrameCache(samples, 256), good[3:9]  # so large that frames stay as they are
    pick = lambda clip: np.array([[0, clip.num_frames - 1]])
    assert all(
        torch.equal(Frames(some, cache).read(i, pick), Frames(some).read(i, pick))
        for i in range(len(some))
    )
    bad = [s for s in samples if "bad" in s.path][:2]
    frames = Frames([*bad, *some], cache)
    assert frames.numbers().tolist() == list(range(2, 8))
    with pytest.raises(OSError, match=Path(bad[0].path).name):
        frames.read(0, pick)
    with pytest.raises(DataError, match="made of other files and lacks /nowhere"):
        Frames([Sample("/nowhere.mp4", "clip")], cache)


def test_manifest_rows_without_a_file(home, tmp_path):
    clips = sorted((home / "class0").glob("*.mp4"))
    rows = [f"{clip},a" for clip in clips] + ["gone.mp4,b"]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    samples = find_samples(tmp_path / "list.csv")
    assert len(samples) == len(clips) + 1
    cache = FrameCache(samples, SIZE)
    assert len(cache.samples) == len(clips)
    assert f"list.csv line {len(clips) + 2}" in cache.errors[0]["reason"]


# --- the cache -----------------------------------------------------------------------------------


def test_cache_leaves_bad_files_out_and_names_them(home, samples, tmp_path):
    memory = FrameCache(samples, SIZE)
    disk = FrameCache(samples, SIZE, "disk", tmp_path)
    bad = {path.name for path in (home / "bad").iterdir()}
    assert {Path(error["path"]).name for error in memory.errors} == bad
    assert len(memory.samples) == len(samples) - len(bad) and disk.samples == memory.samples
    reference = hashes(samples, 1, 0, 0, 3, cache=memory)
    for world, workers, cache in ((1, 2, memory), (2, 1, disk), (4, 0, disk)):
        assert hashes(samples, world, workers, 0, 3, cache=cache) == reference
    made = dataset(samples, cache=memory)
    assert made.errors == memory.errors and not made[0]["errors"]


def test_a_changed_file_is_decoded_again(tmp_path):
    write_clip(tmp_path / "a.mp4", 1)
    samples, folder = find_samples(tmp_path / "a.mp4"), tmp_path / "cache"
    before = FrameCache(samples, SIZE, "disk", folder)[0][0].copy()
    entry = next(folder.glob("*.npy"))
    stamp = entry.stat().st_mtime_ns
    FrameCache(samples, SIZE, "disk", folder)
    assert entry.stat().st_mtime_ns == stamp  # used, not written again
    write_clip(tmp_path / "a.mp4", 2, frames=15)
    after = FrameCache(samples, SIZE, "disk", folder)[0][0]
    assert after.shape[0] == 15 and not np.array_equal(before, after[:12])
    assert not [path for path in folder.iterdir() if path.suffix not in (".npy", ".json")]


def test_a_half_written_entry_is_not_used(tmp_path):
    write_clip(tmp_path / "a.mp4", 1)
    samples, folder = find_samples(tmp_path / "a.mp4"), tmp_path / "cache"
    whole_entry = FrameCache(samples, SIZE, "disk", folder)[0][0].copy()
    next(folder.glob("*.json")).unlink()  # killed between the frames and the note that closes them
    next(folder.glob("*.npy")).write_bytes(b"half")
    assert np.array_equal(FrameCache(samples, SIZE, "disk", folder)[0][0], whole_entry)


# --- small and odd sets --------------------------------------------------------------------------


def test_two_clips_in_a_plain_folder(tmp_path):
    for i in range(2):
        write_clip(tmp_path / f"{i}.mp4", i)
    made = dataset(find_samples(tmp_path), batch_size=64)
    assert made.plan.batch_size == 2 and "instead of 64" in made.plan.notes[0]
    batch = made[0]
    assert batch["views"].shape[0] == 2 and (batch["label"] == -1).all()


def test_plan_without_one_kind():
    for kinds, expected in ((np.ones(40, int), (0, 16)), (np.zeros(40, int), (16, 0))):
        plan = BatchPlan(kinds, 16, video_ratio=0.5)
        assert plan.share == expected and "video_ratio" in plan.notes[0]
        assert plan.steps_per_epoch == 2
    assert not BatchPlan(np.ones(40, int), 16).notes
    with pytest.raises(DataError):
        BatchPlan(np.ones(3, int), 16, world=4)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_plan_of_files_that_are_alike(k):
    """One stream whatever their kind, as if all were clips; an epoch is a pass."""
    plan = BatchPlan(np.repeat((0, 1), (25, 25)), 16, seed=2, per_file=k, world=2)
    clips = BatchPlan(np.ones(50, int), 16, seed=2, pairs_per_video=k, world=2)
    assert plan.steps_per_epoch == 50 // (16 // k)
    for step in (0, 5, 40):
        assert all((a == b).all() for a, b in zip(plan.places(step), clips.places(step)))
        assert len(set(plan.places(step)[1])) == 16 // k
    assert "draws of each: 4" in BatchPlan([0] * 8, 64, per_file=4).notes[0]


@pytest.mark.parametrize("pairs", [1, 2, 4])
@pytest.mark.parametrize("ratio", [None, 0.0, 0.3, 0.5, 1.0])
def test_plan_holds_no_file_twice_and_splits_evenly(pairs, ratio):
    kinds = np.repeat((0, 1), (70, 50))
    plan = BatchPlan(kinds, 32, video_ratio=ratio, pairs_per_video=pairs, world=4)
    for step in range(25):
        kind, file, slot = plan.places(step)
        assert len(file) == 32 and (kinds[file] == kind).all()
        assert len(set(file[kind == 0])) == (kind == 0).sum()
        assert len(set(file[kind == 1])) * pairs == (kind == 1).sum()
        if ratio is not None:
            assert abs((kind == 1).mean() - ratio) <= pairs / 32
