"""Every draw of a run comes from a stream of its own, and all of them follow from its seed."""

import ast
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import vicmae
import vicmae.data.sampling as sampling
from vicmae.finetuning.job import finetune
from vicmae.finetuning.recipes import FINETUNE_RECIPES
from vicmae.pretraining.job import pretrain
from vicmae.pretraining.recipes import get_recipe
from vicmae.data.worldfiles import write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    "A few clips of 32 pixels."
    root = tmp_path_factory.mktemp("world")
    for split in ("train", "val"):
        write_world(root / split, 24, 0, split, 8, 32, workers=0, progress=False)
    return root


@pytest.fixture
def drawn(monkeypatch) -> dict[tuple, set]:
    "Fills with the integers of every draw, and the functions that asked."
    asked, real = defaultdict(set), sampling.np.random.SeedSequence

    def watch(words):
        code = sys._getframe(2).f_code  # who called draw
        file = Path(code.co_filename)
        place = f"{file.parent.name}.{file.stem}.{code.co_qualname}"
        asked[tuple(words.tolist())].add(place)
        return real(words)

    monkeypatch.setattr(sampling.np.random, "SeedSequence", watch)
    return asked


def test_no_two_places_of_a_run_draw_the_same_numbers(world, tmp_path, drawn):
    "A pretraining, and a fine-tuning with mixup and drop path: who draws what, from which seed."
    options = dict(seed=5, steps=3, batch_size=8, num_workers=0, device="cpu", tensorboard=False)
    config = replace(get_recipe("debug"), data=str(world / "train"), val_data=str(world / "val"),
                     out=str(tmp_path / "a"), **options)
    assert pretrain(config) == 0
    config = replace(FINETUNE_RECIPES["finetune_tiny_objects"](), data=str(world), mixup=0.8,
                     out=str(tmp_path / "b"), drop_path=0.5, init="", **options)
    assert finetune(config) == 0
    places = set().union(*drawn.values())
    for known in ("train.engine._seed", "finetuning.augment.mix", "media.batches.BatchPlan.places",
                  "data.sampling.hold_out"):
        assert known in places
    for words, who in drawn.items():
        who = {place for place in who if not place.startswith("finetuning.batches.")}
        assert len(who) < 2, f"{who} draw the same numbers"
        if who & {"train.engine._seed", "finetuning.augment.mix"}:
            assert words[:2] == (5, 0), f"{who} draw from seed {words[0]}"


def test_streams_are_named_wherever_something_is_drawn():
    for path in sorted(Path(vicmae.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        names = [a.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                 and (node.module or "").endswith("sampling") for a in node.names]
        for call in ast.walk(tree):
            if "draw" in names and isinstance(call, ast.Call) and isinstance(call.func, ast.Name) \
                    and call.func.id == "draw":
                views = call.args[3:4] + [k.value for k in call.keywords if k.arg == "view"]
                named = all("Stream." in ast.unparse(view) for view in views)
                assert named, f"{path.name}: name the stream of {ast.unparse(call)}"


def test_marked_streams_take_no_sample_and_nothing_moved():
    "Batches, masks and probes of earlier versions stay what they were."
    known = {"FRAMES": 0, "VIEW": 1, "ORDER": 1, "PLACES": 3, "REPLACE": 5, "MIX": 7,
             "PROBE_WEIGHTS": 40, "HOLD_OUT": 41, "BOOTSTRAP": 42, "PROBE_ORDER": 43}
    for name, number in known.items():
        stream = sampling.Stream[name]
        assert stream % 2**32 == number
        if stream >= sampling.WHOLE:
            with pytest.raises(ValueError, match="belongs to no sample"):
                sampling.draw(0, 0, 0, stream)
            old = np.random.SeedSequence(np.array((5, 2, 0, number, 1), "<u8").view("<u4"))
            assert (sampling.draw(5, 2, view=stream, repeat=1).bit_generator.state
                    == np.random.PCG64(old).state)
