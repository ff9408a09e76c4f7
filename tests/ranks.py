"""Started by test_distributed.py under torchrun: this rank's part of a batch against the whole."""
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from vicmae.contrast import Ids, contrast, projection_head
from vicmae.distributed import cleanup, gather, rank, setup, world_size
from vicmae.model import combined_loss, vicmae_vit_debug

PAIRS, WIDTH = 16, 24


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    "Largest difference over the largest value."
    return ((a - b).abs().max() / b.abs().max()).item()


def mine(x: torch.Tensor) -> torch.Tensor:
    "This rank's rows."
    return x.chunk(world_size())[rank()]


def averaged(grad: torch.Tensor) -> torch.Tensor:
    "What DDP does to a gradient."
    grad = grad.clone()
    if world_size() > 1:
        dist.all_reduce(grad)
        grad /= world_size()
    return grad


def example_ids() -> Ids:
    "Two samples share a video: one pair of them close in time, the other far."
    names = torch.arange(PAIRS)
    video = torch.where(names == 1, 0, names)
    times = torch.stack([names * 3.0, names * 3.0 + 40], dim=1)
    return Ids(names, video, times, torch.full((PAIRS,), 16.0))


def check_branch() -> dict[str, float]:
    "Pooled features to loss: loss, gradient of the features, gradient of the head."
    torch.manual_seed(0)
    pooled, ids = torch.randn(PAIRS, 2, WIDTH), example_ids()
    head = projection_head(WIDTH, 32, 16)

    def run(x, ids, collect, **options):
        head.zero_grad()
        x = x.clone().requires_grad_()
        loss = contrast(x, ids, head, gather=collect, **options).loss_contrast
        loss.backward()
        return loss.detach(), x.grad, head[0].weight.grad.clone()

    whole = run(pooled, ids, None)
    local = Ids(*map(mine, ids))
    part = run(mine(pooled), local, gather)
    wrong = run(mine(pooled), local, gather, rank_local=True)
    # the features' gradient arrives summed over ranks; DDP's mean takes the factor out again
    return {"loss_contrast": relative(part[0], whole[0]),
            "features": relative(part[1] / world_size(), mine(whole[1])),
            "head": relative(averaged(part[2]), whole[2]),
            "rank_local_loss": relative(wrong[0], whole[0]),
            "rank_local_features": relative(wrong[1] / world_size(), mine(whole[1]))}


def check_model() -> dict[str, float]:
    "The whole model in DDP: every gradient of both losses together."
    torch.manual_seed(1)
    views, noise, ids = torch.randn(PAIRS, 2, 3, 64, 64), torch.rand(PAIRS, 2, 64), example_ids()

    def gradients(model, bare, views, noise, ids, collect, rank_local=False):
        bare.zero_grad()
        out = model(views, noise, ids, collect, rank_local=rank_local)
        combined_loss(out.loss_recon, out.loss_contrast, 0.5).backward()
        return torch.cat([p.grad.flatten() for p in bare.parameters() if p.requires_grad])

    torch.manual_seed(2)
    bare = vicmae_vit_debug().double()
    whole = gradients(bare, bare, views.double(), noise, ids, None)
    parts = mine(views.double()), mine(noise), Ids(*map(mine, ids)), gather
    model = DistributedDataParallel(bare, broadcast_buffers=False) if world_size() > 1 else bare
    return {"model": relative(gradients(model, bare, *parts), whole),
            "rank_local_model": relative(gradients(model, bare, *parts, rank_local=True), whole)}


if __name__ == "__main__":
    setup(torch.device("cpu"))
    errors = check_branch() | check_model()
    worst = torch.tensor(list(errors.values()), dtype=torch.float64)
    if world_size() > 1:
        dist.all_reduce(worst, dist.ReduceOp.MAX)
    if rank() == 0:
        for name, error in zip(errors, worst.tolist()):
            print(name, error)
    cleanup()
