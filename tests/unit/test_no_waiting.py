"""A step on a graphics card must not wait for it: no value is asked for, nothing is copied there.

Found on a real card: the constants of `normalize` were copied to it in every step. A pretended card
(shapes without numbers) shows the same, on any machine.
"""
from dataclasses import replace

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from vicmae.data.views import denormalize, normalize
from vicmae.pretraining.build import PretrainTask, build_model
from vicmae.pretraining.recipes import lab

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "svd", "eig", "_to_cpu")


class Seen(TorchDispatchMode):
    """Operations that wait by themselves, and copies between a processor and a card."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = str(func)
        given = [a for a in args if isinstance(a, torch.Tensor)]
        crosses = isinstance(out, torch.Tensor) and any(a.device != out.device for a in given
                                                        if a.ndim)
        copies = "copy" in name and len({a.device for a in given if a.ndim}) > 1
        if crosses or copies or any(word in name for word in WAITS):
            self.found.append(name)
        return out


def batch_of(config, rows=8):
    views = torch.empty(rows, 2, 3, config.img_size, config.img_size, dtype=torch.uint8,
                        device="cuda")
    names = torch.empty(rows, dtype=torch.int64, device="cuda")
    return {"views": views, "noise": torch.empty(rows, 2, 16, device="cuda"), "sample": names,
            "video": names, "times": torch.empty(rows, 2, device="cuda"),
            "shift": torch.empty(rows, device="cuda")}


@pytest.mark.parametrize("norm_pix_loss", (True, False))
@pytest.mark.parametrize("measured", (0, 1))
def test_a_step_asks_the_card_for_nothing(norm_pix_loss, measured):
    config = replace(lab(), norm_pix_loss=norm_pix_loss, measure_every=measured)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            model = build_model(config)
        batch, seen = batch_of(config), Seen()
        with seen:
            task = PretrainTask(model, config, 100)
            task.whole(task.local(batch, 0)[1], batch, 0)  # the way back needs a real card
    assert not seen.found, sorted(set(seen.found))


def test_the_way_back_asks_for_nothing_either():
    with FakeTensorMode(), Seen() as seen:
        x = normalize(torch.empty(2, 3, 8, 8, dtype=torch.uint8, device="cuda"))
        assert denormalize(x).device.type == "cuda"
    assert not seen.found, sorted(set(seen.found))


def test_a_copy_and_a_question_are_noticed():
    with FakeTensorMode(), Seen() as seen:
        x = torch.empty(4, device="cuda")
        x + torch.empty(4).to("cuda")
    assert seen.found
    with FakeTensorMode(), Seen() as seen:
        x.new_tensor([1.0, 2.0])
    assert seen.found
