"""Started by test_distributed.py under torchrun: loss and gradients of a layout against the whole.

Prints a line for each way to train: its name, the error of the losses, the largest error of any
gradient (`relative_errors`) and which gradient that is.
"""
import copy
import sys
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import nn

import vicmae.pretraining.build
from vicmae.model.contrast import Ids, contrast
from vicmae.train.distributed import (
    average_gradients,
    cleanup,
    mean_over_ranks,
    rank,
    relative_errors,
    setup,
    world_size,
)
from vicmae.model.vicmae import ViCMAE, vicmae_vit_debug
from vicmae.pretraining.recipes import get_recipe
from vicmae.pretraining.build import PretrainTask
from vicmae.train.engine import exact_gradients, plain_gradients, split_batch
from vicmae.data.views import normalize

PAIRS, STEP, STEPS, CPU = 64, 99, 100, torch.device("cpu")


def example_batch() -> dict[str, torch.Tensor]:
    "64 pairs; two samples share a video: one pair of frames close in time, the other far."
    names = torch.arange(PAIRS)
    return {"views": torch.randint(0, 256, (PAIRS, 2, 3, 32, 32), dtype=torch.uint8),
            "noise": torch.rand(PAIRS, 2, 16), "sample": names,
            "video": torch.where(names == 1, 0, names),
            "times": torch.stack([names * 3.0, names * 3.0 + 40], dim=1),
            "shift": torch.full((PAIRS,), 16.0)}


class InChunks(nn.Module):
    "A head that sees its rows in parts, as if each part were on a device of its own."

    def __init__(self, head: nn.Module, parts: int):
        super().__init__()
        self.head, self.parts = head, parts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.head(part) for part in x.chunk(self.parts)])


def gradients(model: ViCMAE, batch: dict, config, how: str = "", again: bool = False,
              mean: bool = True) -> tuple[dict, dict]:
    "Named losses and gradients; `how`: ddp or fsdp, or empty for one process with these rows."
    model = copy.deepcopy(model)
    task = PretrainTask(model, config, STEPS)
    if how:
        task.prepare_distributed(CPU, how, activation_checkpointing=again)
    if not how and config.batch_stats == "device":
        def whole(pooled, rows, step):
            ids = Ids(rows["sample"], rows["video"], rows["times"], rows["shift"])
            loss = contrast(pooled, ids, InChunks(model.projector, world_size()),
                            temperature=model.temperature).loss_contrast
            return {"loss": config.lam * loss, "loss_contrast": loss}
        task.whole = whole
    if not how:
        task.gather = lambda x: x                # this one process has the whole batch already
    parts = list(split_batch(batch, config.accum_iter))
    named = (exact_gradients(task, parts, batch, STEP) if config.exact_accum
             else plain_gradients(task, parts, STEP))
    if mean:
        average_gradients(task.replicated)
    full = lambda g: g.full_tensor() if hasattr(g, "full_tensor") else g
    return named, {n: full(p.grad) for n, p in model.named_parameters() if p.requires_grad}


def compare(name: str, got: tuple[dict, dict], true: tuple[dict, dict]) -> None:
    "Print the errors, the largest over all ranks; the contrastive loss is the same on each."
    mean = {n: mean_over_ranks(v.clone()) for n, v in got[0].items()}
    loss = max(abs(mean[n] / v - 1).item() for n, v in true[0].items())
    double = next(iter(true[1].values())).dtype == torch.float64
    errors = relative_errors(got[1], true[1], floor=1e-6 if double else 0.1)
    worst = max(errors, key=errors.get)
    numbers = torch.tensor([loss, errors[worst]], dtype=torch.float64)
    if world_size() > 1:
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
    if rank() == 0:
        print(name, *(f"{x:.1e}" for x in numbers.tolist()), worst, flush=True)


def main(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = vicmae_vit_debug(img_size=32, depth=2, decoder_depth=1, mask_ratio=0.5).to(dtype)
    batch = example_batch()
    mine = {k: v.chunk(world_size())[rank()] for k, v in batch.items()}
    config = get_recipe("debug")
    config.lam, config.measure_every = 0.5, 0
    vicmae.pretraining.build.normalize = lambda views: normalize(views).to(dtype)
    true = gradients(model, batch, config)

    def check(name: str, reference=true, how: str = "ddp", again: bool = False, mean: bool = True,
              **changes) -> None:
        got = gradients(model, mine, replace(config, **changes), how, again, mean)
        compare(name, got, reference)

    for how in ("ddp", "fsdp") if world_size() > 1 else ("ddp",):
        check(how, how=how)
        check(f"{how}_exact_2", how=how, accum_iter=2, exact_accum=True)
        check(f"{how}_exact_4", how=how, accum_iter=4, exact_accum=True)
        check(f"{how}_exact_2_checkpointed", how=how, again=True, accum_iter=2, exact_accum=True)
    check("control_plain_accumulation", accum_iter=4)
    if world_size() > 1:
        config.batch_stats = "device"
        per_device = gradients(model, batch, config)
        check("per_device", per_device)
        check("per_device_fsdp", per_device, how="fsdp")
        check("per_device_exact_2", per_device, accum_iter=2, exact_accum=True)
        check("control_heads_not_averaged", per_device, mean=False)
        check("control_per_device_is_another_loss")
        config.batch_stats = "global"
        check("control_authors_labels", rank_local=True)


if __name__ == "__main__":
    setup(CPU)
    main(getattr(torch, sys.argv[1]))
    cleanup()
