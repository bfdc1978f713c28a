"""A training step of the PyTorch twin: our loss, our optimiser, as PyTorch users write them."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.engines import on_gpu, release_memory
from benchmarks.torch_bisenetv2 import build_twin
from bisenet_jax.config import Config, LossConfig, OptimizerConfig
from bisenet_jax.data.classes import IGNORE

Batch = tuple[Tensor, Tensor]


class TorchStep(NamedTuple):
    """One engine of PyTorch.

    Attributes:
        batches: images `[B, 3, H, W] float32`, channels last, and labels `[B, H, W] int64`, on
            the device.
        run: starts a step on one of them; gives a mark of its end, and its loss as a tensor.
        wait: returns when the step of a mark is done.
        step_bytes: the most that one more step holds, weights, optimiser and its one batch
            included, by PyTorch's allocator; None on CPU.
    """

    batches: Sequence[Batch]
    run: Callable[[Batch], tuple["torch.cuda.Event | None", Tensor]]
    wait: Callable[[tuple["torch.cuda.Event | None", Tensor]], None]
    step_bytes: Callable[[], int | None]


def make_torch_step(
    config: Config,
    num_classes: int,
    tensors: dict[str, np.ndarray],
    crops: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    is_compiled: bool,
) -> TorchStep:
    """The twin of a configuration, its weights given, ready for its first step.

    Args:
        config: its preset is a layout of the twin.
        num_classes: of the classifiers.
        tensors: the weights under the layout's names.
        crops: images `[B, H, W, 3] float32`, normalised, and labels `[B, H, W] uint8`.
        is_compiled: the network by `torch.compile`, forward and backward; else eager.
    """
    # Where JAX is, which may leave a GPU alone.
    device = torch.device("cuda" if on_gpu() else "cpu")
    release_memory()
    held_before = torch.cuda.memory_allocated() if on_gpu() else 0
    # The same freedom that XLA takes with float32 on GPUs.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    network = build_twin(config.model.preset, num_classes, dropout_rate=0.0)
    network.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in tensors.items()})
    network = network.train().to(device)
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    optimizer = _make_optimizer(network, config.optimizer)
    # Not the loss: on CPU, inductor of torch 2.13 gives zero gradients for the two together.
    forward = torch.compile(network) if is_compiled else network
    dtype = getattr(torch, config.model.dtype)
    weights = torch.tensor((config.loss.main_weight, *config.loss.booster_weights)).to(device)

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            logits = forward(images)
        losses = [head_loss(entry.float(), labels, config.loss) for entry in logits]
        return (torch.stack(losses) * weights).sum()

    steps = 0

    def run(batch: Batch) -> tuple[torch.cuda.Event | None, Tensor]:
        nonlocal steps
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, steps, config.train.steps)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(*batch)
        loss.backward()
        if config.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(network.parameters(), config.optimizer.clip_norm)
        optimizer.step()
        steps += 1
        event = None
        if device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
        return event, loss.detach()

    def wait(result: tuple[torch.cuda.Event | None, Tensor]) -> None:
        if result[0] is not None:
            result[0].synchronize()

    batches = [
        (
            torch.from_numpy(images.copy())
            .permute(0, 3, 1, 2)
            .to(device, memory_format=torch.channels_last),
            torch.from_numpy(labels.astype(np.int64)).to(device),
        )
        for images, labels in crops
    ]

    def step_bytes() -> int | None:
        if not on_gpu():
            return None
        release_memory()
        torch.cuda.reset_peak_memory_stats()
        wait(run(batches[0]))
        other_batches = sum(tensor.nbytes for batch in batches[1:] for tensor in batch)
        return torch.cuda.max_memory_allocated() - held_before - other_batches

    return TorchStep(batches, run, wait, step_bytes)


def head_loss(logits: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """`bisenet_jax.training.losses.head_loss` of logits at full size, `[B, N, H, W]`."""
    weights = None
    if config.class_weights:
        weights = torch.tensor(config.class_weights, device=logits.device)
    if not config.ohem:
        return functional.cross_entropy(logits, labels, weights, ignore_index=IGNORE)
    losses = functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    is_labelled = labels != IGNORE
    chosen = _hard_pixels(losses.detach().flatten(1), is_labelled.flatten(1), config)
    chosen = chosen.reshape(losses.shape)
    if weights is not None:
        chosen = chosen * weights[labels.where(is_labelled, 0)]
    return (losses * chosen).sum() / chosen.sum().clamp(min=1e-12)


def _hard_pixels(losses: Tensor, is_labelled: Tensor, config: LossConfig) -> Tensor:
    """Which pixels of `[B, P]` are mined, as our `hard_pixel_weights`; ties share."""
    counts = is_labelled.sum(dim=1, keepdim=True)
    least = torch.minimum((counts * config.ohem_min_share).long().clamp(min=1), counts)
    threshold = -math.log(config.ohem_threshold) if config.ohem_threshold > 0 else math.inf
    is_hard = is_labelled & (losses > threshold)
    has_enough = is_hard.sum(dim=1, keepdim=True) >= least
    if has_enough.all():
        return is_hard.float()
    ordered = losses.abs().where(is_labelled, -1.0)
    ranked = ordered.sort(dim=1, descending=True).values
    kth = ranked.gather(1, (least - 1).clamp(min=0))
    is_above, is_equal = ordered > kth, ordered == kth
    left = least - is_above.sum(dim=1, keepdim=True)
    share = left / is_equal.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(has_enough, is_hard.float(), is_above.float() + is_equal * share)


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """`bisenet_jax.training.optimizer.make_schedule` in Python's floats."""
    if step < config.warmup_steps:
        climb = (1 - config.warmup_start) * step / config.warmup_steps
        return config.learning_rate * (config.warmup_start + climb)
    decay_steps = max(total_steps - config.warmup_steps, 1)
    left = min(max(total_steps - step, 0), decay_steps) / decay_steps
    return config.learning_rate * left**config.poly_power


def _make_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    kernels = [p for p in network.parameters() if p.ndim == 4]
    others = [p for p in network.parameters() if p.ndim != 4]
    groups = [{"params": kernels, "weight_decay": config.weight_decay}, {"params": others}]
    return torch.optim.SGD(
        groups, lr=config.learning_rate, momentum=config.momentum, fused=True
    )
