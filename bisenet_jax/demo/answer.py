"""What the page gets for a picture: the mask of its classes, their shares, the time it took."""

import base64
import io
import time
from typing import Any

import numpy as np
from PIL import Image

from bisenet_jax import media
from bisenet_jax.data.classes import ClassSet
from bisenet_jax.segmenter import Segmenter

# Longest sides that a picture may keep, to choose from. The largest bounds memory: the logits
# of 19 classes then take 320 MB.
LONGEST_SIDES = (512, 1024, 2048)


def answer(segmenter: Segmenter, content: bytes, longest: int) -> dict[str, Any]:
    """Segment the content of an image file; returns JSON values.

    `picture` and `labels` have `height` and `width`; they differ where it was shrunk. `classes`
    are those that were found, the largest `share` (0 to 1) first. `mask` is a PNG in base64, of
    the size of the labels. `milliseconds` has `decode` (bytes to pixels, shrunk), `network`
    (pixels to the device, normalisation, network, class of each pixel, back) and `draw`
    (shares, colours, PNG).

    Args:
        segmenter: the network.
        content: a JPEG, PNG, WebP, BMP or TIFF file.
        longest: a picture whose longer side is longer is shrunk to it, in pixels.

    Raises:
        DataError: when the content is no picture, damaged, or larger than media allows.
    """
    moments = [time.perf_counter()]
    image = media.decode_picture(content, "picture")
    height, width = image.shape[:2]
    image = shrink(image, longest)
    moments.append(time.perf_counter())
    labels = segmenter.predict(image)
    moments.append(time.perf_counter())
    classes = _shares(labels, segmenter.class_set)
    mask = base64.b64encode(_encode(labels, segmenter.class_set)).decode("ascii")
    moments.append(time.perf_counter())
    decode, network, draw = (1000 * np.diff(moments)).tolist()
    return {
        "picture": {"height": height, "width": width},
        "labels": {"height": image.shape[0], "width": image.shape[1]},
        "classes": classes,
        "mask": mask,
        "milliseconds": {"decode": decode, "network": network, "draw": draw},
    }


def shrink(image: np.ndarray, longest: int) -> np.ndarray:
    """The image `[H, W, 3] uint8`, its longer side at most `longest`, its shape kept."""
    height, width = image.shape[:2]
    if max(height, width) <= longest:
        return image
    scale = longest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _shares(labels: np.ndarray, class_set: ClassSet) -> list[dict[str, Any]]:
    shares = np.bincount(labels.ravel(), minlength=len(class_set)) / labels.size
    return [
        {
            "name": class_set.names[index],
            "colour": list(class_set.colours[index]),
            "share": float(shares[index]),
        }
        for index in np.argsort(-shares, kind="stable")
        if shares[index] > 0
    ]


def _encode(labels: np.ndarray, class_set: ClassSet) -> bytes:
    mask = Image.fromarray(labels, mode="L")
    mask.putpalette(class_set.palette.tobytes())
    encoded = io.BytesIO()
    # The page is on this machine: quick to write counts more than small.
    mask.save(encoded, format="PNG", compress_level=1)
    return encoded.getvalue()
