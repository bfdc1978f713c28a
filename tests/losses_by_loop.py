"""What losses and hard example mining must give, by float64 loops and a real sort."""

import math

import numpy as np

from bisenet_jax.config import LossConfig
from bisenet_jax.data.classes import IGNORE

N = 4  # classes
PLAIN = LossConfig()
OHEM = LossConfig(ohem=True)


def random_logits(*shape: int, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def random_labels(*shape: int, seed: int = 1, ignored: float = 0.2) -> np.ndarray:
    random = np.random.default_rng(seed)
    labels = random.integers(0, N, shape, dtype=np.uint8)
    labels[random.random(shape) < ignored] = IGNORE
    return labels


def enlarge(logits: np.ndarray, factor: int) -> np.ndarray:
    """Half-pixel bilinear by a loop over output rows, then over columns."""
    for axis in (1, 2):
        size, lines = logits.shape[axis], []
        for output in range(size * factor):
            source = (output + 0.5) / factor - 0.5
            low = math.floor(source)
            near, far = (np.take(logits, np.clip(i, 0, size - 1), axis) for i in (low, low + 1))
            lines.append(near * (1 - (source - low)) + far * (source - low))
        logits = np.stack(lines, axis)
    return logits


def losses_by_loop(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits = enlarge(logits.astype(np.float64), labels.shape[1] // logits.shape[1])
    losses, is_labelled = np.zeros(labels.shape), np.zeros(labels.shape, bool)
    for pixel in np.ndindex(*labels.shape):
        label, scores = int(labels[pixel]), logits[pixel]
        if 0 <= label < len(scores):
            losses[pixel] = np.log(np.exp(scores - scores.max()).sum()) + scores.max()
            losses[pixel] -= scores[label]
            is_labelled[pixel] = True
    return losses, is_labelled


def weights_by_sort(
    losses: np.ndarray, is_labelled: np.ndarray, threshold: float, min_share: float
) -> np.ndarray:
    weights = np.zeros(losses.shape)
    for image, (loss, labelled) in enumerate(zip(losses, is_labelled, strict=True)):
        count = int(labelled.sum())
        least = min(max(math.floor(count * min_share), 1), count)
        hard = labelled & (loss > (-math.log(threshold) if threshold else math.inf))
        if hard.sum() >= least:
            weights[image] = hard
        else:
            # Rounding makes a loss of zero negative at times.
            size = np.abs(loss)
            border = np.sort(size[labelled])[::-1][least - 1]
            above, equal = labelled & (size > border), labelled & (size == border)
            weights[image] = above + equal * (least - above.sum()) / equal.sum()
    return weights


def loss_by_loop(logits: np.ndarray, labels: np.ndarray, config: LossConfig) -> float:
    losses, weights = losses_by_loop(logits, labels)
    if config.ohem:
        weights = weights_by_sort(losses, weights, config.ohem_threshold, config.ohem_min_share)
    total, count = 0.0, 0.0
    for pixel in np.argwhere(weights):
        weight = weights[tuple(pixel)]
        if config.class_weights:
            weight = weight * config.class_weights[labels[tuple(pixel)]]
        total, count = total + weight * losses[tuple(pixel)], count + weight
    return total / count if count else 0.0
