"""Labelled batches are the same everywhere; at the test every sample is seen exactly once."""

import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import vicmae.media.frames
from vicmae.finetuning.augment import augment, augment_policy, mix
from vicmae.finetuning.batches import LabelledBatches, EvalViews
from vicmae.media.batches import hash_batch, join_ranks, make_loader
from vicmae.media.files import Sample
from vicmae.errors import DataError
from vicmae.media.frames import FrameCache
from vicmae.evaluation.labelled import Labelled, open_labelled
from vicmae.data.sampling import draw, sample_clip
from vicmae.data.views import center_view
from support.clips import write_clip, write_picture

SIZE, BATCH = 32, 8
CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Labelled:
    """18 clips in three classes, and three files that cannot be read."""
    home = tmp_path_factory.mktemp("films")
    for i in range(18):
        (home / CLASSES[i % 3]).mkdir(exist_ok=True)
        write_clip(home / CLASSES[i % 3] / f"clip{i:02}.mp4", i)
    movie = (home / "a" / "clip00.mp4").read_bytes()
    (home / "a" / "cut.mp4").write_bytes(movie[: len(movie) // 3])
    (home / "b" / "empty.mp4").touch()
    (home / "c" / "text.mp4").write_text("this is no video\n" * 20)
    return open_labelled(str(home))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Labelled:
    """18 pictures in three classes, and two files that cannot be read."""
    home = tmp_path_factory.mktemp("photos")
    for i in range(18):
        (home / CLASSES[i % 3]).mkdir(exist_ok=True)
        write_picture(home / CLASSES[i % 3] / f"picture{i:02}.png", i)
    (home / "a" / "empty.png").touch()
    (home / "c" / "text.jpg").write_text("this is no picture")
    return open_labelled(str(home))


@pytest.fixture(scope="module")
def digits() -> Labelled:
    """50 pictures held in an array."""
    images = np.random.default_rng(0).integers(0, 256, (50, SIZE, SIZE, 3), np.uint8)
    samples = tuple(Sample(f"digits#{i}", "picture", str(i % 10), i % 10) for i in range(50))
    names = tuple(map(str, range(10)))
    return Labelled("digits", "train", samples, names, np.arange(50) % 10, images=images)


def names_of_bad(data):
    return {s.path for s in data.samples if Path(s.path).stem in ("cut", "empty", "text")}


def whole(data, step, world=1, **settings):
    """A batch put together from the shares of all ranks."""
    shares = [
        LabelledBatches(data, BATCH, SIZE, rank=r, world=world, **settings)[step]
        for r in range(world)
    ]
    return join_ranks(shares)


def report(batch):
    return [(e["path"], e["step"], e["place"]) for e in batch["errors"]]


CLIPS = {"num_frames": 4, "sampling_rate": 2, "time_limit": None}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("films", CLIPS),
        ("films", {**CLIPS, "repeats": 2, "seed": 3}),
        ("films", {"time_limit": None}),  # a picture model on clips
        ("photos", {"policy": augment_policy("strong", jitter=0.4, erase=1.0), "time_limit": None}),
    ],
)
def test_a_batch_is_the_same_on_any_ranks_workers_and_after_a_restart(kind, settings, request):
    data = request.getfixturevalue(kind)
    dataset = LabelledBatches(data, BATCH, SIZE, **settings)
    want = [dataset[step] for step in range(6)]
    hashes = [hash_batch(batch) for batch in want]
    assert len(set(hashes)) == 6
    errors = {path for batch in want for path, *_ in report(batch)}
    assert errors == names_of_bad(data)  # each was met, replaced and named
    for world in (2, 4):
        for step in (1, 4):
            batch = whole(data, step, world, **settings)
            assert hash_batch(batch) == hashes[step]
            assert report(batch) == report(want[step])
    for workers, start in ((2, 0), (1, 3), (0, 2)):
        random.seed(workers), np.random.seed(start), torch.manual_seed(start)  # must not matter
        loader = make_loader(LabelledBatches(data, BATCH, SIZE, **settings), start, 6, workers)
        batches = list(loader)
        assert [hash_batch(batch) for batch in batches] == hashes[start:]
        assert [report(batch) for batch in batches] == [report(batch) for batch in want[start:]]


def test_what_a_sample_becomes_depends_on_seed_epoch_and_policy(photos):
    first = LabelledBatches(photos, BATCH, SIZE, time_limit=None)
    views = {int(i): v for step in range(2) for i, v in zip(*_rows(first[step]))}
    later = {int(i): v for step in range(2, 4) for i, v in zip(*_rows(first[step]))}
    shared = views.keys() & later.keys()
    assert len(shared) > 8 and not any(torch.equal(views[i], later[i]) for i in shared)
    for change in ({"seed": 1}, {"policy": "crop"}):
        assert hash_batch(whole(photos, 0, **change)) != hash_batch(whole(photos, 0))


def _rows(batch):
    return batch["sample"], batch["views"]


def test_targets_belong_to_the_files_that_stand_in_the_batch(films, photos):
    for data, settings in ((films, CLIPS), (photos, {})):
        dataset = LabelledBatches(data, BATCH, SIZE, **settings)
        seen = []
        for step in range(dataset.plan.steps_per_epoch):
            batch = dataset[step]
            paths = [data.samples[i].path for i in batch["sample"]]
            labels = [data.classes[t] for t in batch["target"]]
            assert labels == [Path(p).parent.name for p in paths]
            assert not names_of_bad(data) & set(paths)
            assert len(set(paths)) >= BATCH - 1  # a second draw, where no candidate can be read
            planned = [dataset.samples[i].path for i in dataset.plan.places(step)[1]]
            missed = {e["path"] for e in batch["errors"]}
            assert all(a == b or b in missed for a, b in zip(paths, planned))
            seen += planned
        assert len(seen) == len(set(seen)) == len(data) // BATCH * BATCH


def test_repeats_decode_a_clip_once_and_draw_it_anew(films, monkeypatch):
    opened = []
    real = vicmae.media.frames.open_video
    monkeypatch.setattr(
        vicmae.media.frames, "open_video",
        lambda path, **k: (opened.append(path), real(path, **k))[1]
    )
    dataset = LabelledBatches(films, BATCH, SIZE, repeats=2, **CLIPS)
    assert dataset.plan.steps_per_epoch == len(films) // 4
    for step in range(3):
        opened.clear()
        batch = dataset[step]
        assert len(opened) == 4 + len(batch["errors"])
        assert torch.equal(batch["sample"][::2], batch["sample"][1::2])
        first, second = batch["views"][::2], batch["views"][1::2]
        assert all(not torch.equal(a, b) for a, b in zip(first, second))


def test_a_cache_gives_the_same_numbers_and_leaves_out_what_it_could_not_read(films):
    cache = FrameCache(films.samples, 48, workers=1)
    dataset = LabelledBatches(films, 18, SIZE, cache=cache, **CLIPS)
    assert {e["path"] for e in dataset.errors} == names_of_bad(films)
    assert dataset.plan.batch_size == 18 and dataset.plan.steps_per_epoch == 1
    batch, plain = dataset[0], films.frames(time_limit=None)
    assert not batch["errors"]
    for row, number in enumerate(batch["sample"].tolist()):
        assert batch["target"][row] == films.targets[number]
        rng = draw(0, 0, number, 0)
        clip = plain.read(number, lambda c, rng=rng: sample_clip(c.num_frames, 4, 2, rng))
        view = augment(clip, draw(0, 0, number, 1), dataset.policy, SIZE)
        close = (view.int() - batch["views"][row].int()).abs().max()
        assert close <= 1  # frames of 48 pixels are cached as they are; resizing may round
    some = replace(films, samples=films.samples[:5], targets=films.targets[:5])
    assert LabelledBatches(some, 4, SIZE, cache=cache, **CLIPS).plan.batch_size == 4
    others = FrameCache(films.samples[:5], 48, workers=1)
    with pytest.raises(DataError, match="cache was made of other files"):
        LabelledBatches(films, 4, SIZE, cache=others, **CLIPS)


def test_pictures_from_an_array(digits):
    dataset = LabelledBatches(digits, 16, SIZE, policy="centre")
    for step in range(4):
        batch = dataset[step]
        pixels = batch["views"].permute(0, 2, 3, 1).numpy()
        assert np.array_equal(pixels, digits.images[batch["sample"]])
        assert np.array_equal(batch["target"], digits.targets[batch["sample"]])
    assert digits.images.flags.writeable
    before = digits.images.copy()
    LabelledBatches(digits, 16, SIZE, policy=augment_policy("strong", erase=1.0))[0]
    assert np.array_equal(digits.images, before)  # the data set itself is not painted over


def test_several_labels(digits):
    targets = np.eye(10, dtype=np.float32)[digits.targets]
    targets[::7, 3] = np.nan
    targets[5] = np.nan  # nothing is known of it
    several = replace(digits, targets=targets, metric="map")
    dataset = LabelledBatches(several, 49, SIZE, policy="crop")
    assert "1 samples without a label are left out" in dataset.plan.notes
    batch = dataset[0]
    assert batch["target"].dtype == torch.float32 and 5 not in batch["sample"]
    assert np.array_equal(batch["target"], targets[batch["sample"]], equal_nan=True)


@pytest.mark.parametrize(("batch", "world", "want"), [(64, 1, 16), (64, 4, 16), (16, 3, 15)])
def test_small_sets_make_smaller_batches_and_say_so(photos, batch, world, want):
    dataset = LabelledBatches(photos, batch, SIZE, world=world)
    assert dataset.plan.batch_size == want
    assert dataset.plan.steps_per_epoch == 1
    assert f"batch size is {want} instead of {batch}" in dataset.plan.notes[0]
    assert len(dataset[5]["sample"]) == want // world


def test_what_cannot_be_used_is_refused_in_one_sentence(films, photos, digits):
    mixed = replace(
        photos,
        samples=photos.samples[:9] + films.samples[:9],
        targets=np.concatenate((photos.targets[:9], films.targets[:9])),
    )
    for data in (mixed, photos, digits):
        for build in (LabelledBatches, EvalViews):
            with pytest.raises(DataError, match=r"holds \d+ pictures, and num_frames=4 asks for"):
                build(data, img_size=SIZE, num_frames=4, batch_size=4)
    assert LabelledBatches(mixed, 4, SIZE)[0]["views"].shape == (4, 3, SIZE, SIZE)
    blank = replace(photos, targets=np.full(len(photos), -1))
    with pytest.raises(DataError, match="no labelled sample"):
        LabelledBatches(blank, 4, SIZE)
    bad = [i for i, s in enumerate(photos.samples) if s.path in names_of_bad(photos)]
    nothing = replace(
        photos, samples=tuple(photos.samples[i] for i in bad), targets=photos.targets[bad]
    )
    with pytest.raises(DataError, match="not one file of the batch"):
        LabelledBatches(nothing, 2, SIZE)[0]


def test_directed_classes_are_never_flipped(films):
    plain = LabelledBatches(films, BATCH, SIZE, policy=augment_policy("crop", flip=1.0), **CLIPS)
    arrows = LabelledBatches(
        replace(films, directed=True),
        BATCH,
        SIZE,
        policy=augment_policy("crop", flip=1.0),
        **CLIPS,
    )
    assert arrows.plan.notes == ["classes are directions: no horizontal flip"]
    assert torch.equal(plain[0]["views"].flip(-1), arrows[0]["views"])


def global_state():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_global_generators_are_left_alone(photos):
    dataset = LabelledBatches(photos, BATCH, SIZE, policy=augment_policy("strong", erase=1.0))
    x = torch.rand(6, 3, 8, 8)
    before = global_state()
    dataset[0], mix(x, torch.arange(6), 6, 0, 0), EvalViews(photos, SIZE)[0]
    assert global_state() == before
    with pytest.raises(ZeroDivisionError):  # also where an augmentation fails
        augment(torch.zeros(2, 0, 0, dtype=torch.uint8), draw(0, 0, 0), dataset.policy, SIZE)
    assert global_state() == before


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_sample_is_tested_exactly_once(films, world, workers):
    settings = {"num_frames": 4, "sampling_rate": 2, "num_clips": 2, "num_crops": 3}
    settings |= {"batch_size": 4, "world": world, "time_limit": None}
    shares = [EvalViews(films, SIZE, rank=r, **settings) for r in range(world)]
    assert len({len(share) for share in shares}) == 1
    batches = [batch for share in shares for batch in share.loader(workers)]
    assert len(batches) == world * len(shares[0])
    found = torch.cat([batch["sample"] for batch in batches])
    bad = names_of_bad(films)
    good = [i for i, sample in enumerate(films.samples) if sample.path not in bad]
    assert found.sort().values.tolist() == good
    assert sorted(e["path"] for batch in batches for e in batch["errors"]) == sorted(bad)
    views = torch.cat([batch["views"] for batch in batches])[found.argsort()]
    assert views.shape == (len(good), 6, 4, 3, SIZE, SIZE)
    alone = EvalViews(films, SIZE, **{**settings, "world": 1})
    assert all(torch.equal(view, alone.views(i)) for view, i in zip(views, good))
    targets = torch.cat([batch["target"] for batch in batches])
    assert np.array_equal(targets, films.targets[found])


def test_one_view_is_the_middle_of_many(films):
    settings = {"num_frames": 4, "sampling_rate": 2, "time_limit": None}
    many = EvalViews(films, SIZE, num_clips=3, num_crops=3, **settings).views(0)
    one = EvalViews(films, SIZE, **settings).views(0)
    assert torch.equal(many[4:5], one)
    assert not torch.equal(many[3], many[4]) and not torch.equal(many[1], many[4])


def test_views_of_pictures(photos, digits):
    views = EvalViews(digits, SIZE, batch_size=20, limit=25)
    numbers = torch.cat([batch["sample"] for batch in views])
    assert numbers.tolist() == list(range(0, 50, 2))
    pixels = torch.cat([batch["views"] for batch in views])[:, 0].permute(0, 2, 3, 1)
    assert np.array_equal(pixels, digits.images[::2])
    assert EvalViews(photos, 224).crop_pct == 0.875 and EvalViews(photos, 32).crop_pct == 1
    assert EvalViews(photos, 224).views(1).shape == (1, 3, 224, 224)
    with pytest.raises(IndexError):
        views[len(views)]


@pytest.mark.parametrize("words", ["rand-m10-p1.0-inc1", "rand-m10-p1.0", "rand-m0-p1.0"])
def test_no_strength_of_randaugment_ends_the_run(words):
    """Pillow 13 refuses the 0 bits that timm's posterize asks for at one end of its range."""
    picture = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    policy = augment_policy("strong", rand_augment=words, erase=0.0)
    for i in range(150):  # 2 of 15 operations each: all of them, many times over
        augment(picture, draw(0, 0, i, 1), policy, 16)


def test_mixing_does_not_depend_on_how_the_batch_is_split():
    x, y = torch.rand(48, 2, 3, 16, 16), torch.arange(48) % 5
    for repeats in (1, 2, 3):
        for step in range(8):
            want = mix(x, y, 5, 7, step, repeats=repeats)
            for parts in (2, 4):
                shares = [
                    mix(a, b, 5, 7, step, repeats=repeats)
                    for a, b in zip(x.chunk(parts), y.chunk(parts))
                ]
                assert all(torch.equal(torch.cat(g), w) for g, w in zip(zip(*shares), want))
    y = torch.arange(48) // 2  # each class twice, side by side
    _, soft = mix(x, y, 24, 7, 0, smoothing=0.0, repeats=2)
    assert ((soft > 0).sum(1) == 2).all()  # nobody is mixed with another draw of itself


@pytest.mark.clocks
def test_augmenting_takes_no_more_time_than_it_should():
    """Processor time of one thread, against a plain change of size on the same machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 256, 340, 3), np.uint8)
    clip = torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def seconds(call):
        spent = []
        for i in range(12):
            begin = time.process_time()
            call(i)
            spent.append(time.process_time() - begin)
        return float(np.median(spent))

    def augmenting(policy, frames):
        return seconds(lambda i: augment(frames, draw(0, 0, i, 1), policy, 224))

    plain = seconds(lambda i: center_view(clip, 224))  # 5 ms on a core of an AMD EPYC
    crop = augmenting(augment_policy("crop"), clip)
    assert crop < 10 * plain + 0.01
    assert augmenting(augment_policy("crop", erase=1.0), clip) < 6 * crop + 0.01
    assert augmenting(augment_policy("strong"), clip[0]) < 10 * plain + 0.01  # one frame of it
    torch.set_num_threads(threads)
