"""Pictures side by side: an image, its labels, the truth and where they differ."""

from collections.abc import Collection

import numpy as np
from PIL import Image

from bisenet_jax.data.classes import ClassSet
from bisenet_jax.drawing import (
    ERROR_COLOUR,
    LIGHT,
    SMALLEST_EM,
    blend,
    canvas,
    check_image,
    cut,
    font,
    text_width,
)
from bisenet_jax.pictures import (
    check_labels,
    class_ids,
    classes_in,
    is_class,
    legend,
    legend_item_width,
    overlay,
)

SMALLEST_PANEL = 256  # narrower panels are enlarged
OPACITY = 0.6  # of labels over their image


def comparison(
    image: np.ndarray,
    prediction: np.ndarray,
    truth: np.ndarray | None,
    class_set: ClassSet,
    *,
    title: str | None = None,
    opacity: float = OPACITY,
    columns: int | None = None,
    named: Collection[int] | np.ndarray | None = None,
) -> np.ndarray:
    """One picture of an image, its prediction, its truth and where they differ.

    Args:
        image: `[H, W, 3] uint8`.
        prediction: `[H, W]` integer class ids.
        truth: `[H, W]` integer class ids, or None: then truth and errors are left out.
        title: a line above; it is cut short if it does not fit.
        columns: panels in a row; if None, two by two for four wide ones and one row otherwise.
        named: ids of the classes in the legend; those that occur if None, no legend if empty.
    """
    check_image(image)
    check_labels("prediction", prediction, image)
    panels = {
        "image": image,
        "prediction": overlay(image, prediction, class_set, opacity=opacity),
    }
    if truth is not None:
        check_labels("truth", truth, image)
        panels["truth"] = overlay(image, truth, class_set, opacity=opacity)
        wrong = is_class(truth, class_set) & (prediction != truth)
        panels[f"errors: {_share(wrong, truth, class_set)}"] = _error_panel(image, wrong)
    if columns is None:
        columns = (
            2 if len(panels) == 4 and 2 * image.shape[1] >= 3 * len(image) else len(panels)
        )
    if not 1 <= columns <= len(panels):
        raise ValueError(f"columns {columns} must lie within 1 and the {len(panels)} panels")
    shown = classes_in(class_set, prediction, truth) if named is None else named
    return _arrange(panels, columns, title or "", class_set, class_ids(shown, class_set))


def labelled(
    image: np.ndarray,
    labels: np.ndarray,
    class_set: ClassSet,
    *,
    title: str | None = None,
) -> np.ndarray:
    """One picture of an image beside its labels, without a legend; arguments as above."""
    panels = {"image": image, "labels": overlay(image, labels, class_set, opacity=OPACITY)}
    return _arrange(panels, 2, title or "", class_set, [])


def _arrange(
    panels: dict[str, np.ndarray],
    columns: int,
    title: str,
    class_set: ClassSet,
    named: list[int],
) -> np.ndarray:
    """Captioned panels of one size under a title, the legend of the `named` classes below."""
    height, width = next(iter(panels.values())).shape[:2]
    zoom = max(1, min(-(-SMALLEST_PANEL // width), 4 * SMALLEST_PANEL // height))
    height, width = zoom * height, zoom * width
    rows = -(-len(panels) // columns)

    em = max(SMALLEST_EM, columns * width // 64)
    margin, gap, caption = 3 * em // 2, em, 7 * em // 4
    title_em = 5 * em // 4
    cell_width = max(width, *(text_width(name, em) for name in panels))
    inner = columns * cell_width + (columns - 1) * gap
    if named:
        inner = max(inner, legend_item_width(class_set, named, em))
    # Without a title the first captions bring half of the upper margin along.
    head = margin + 7 * title_em // 4 if title else margin // 2
    body = rows * (caption + height) + (rows - 1) * gap // 2
    names = legend(class_set, width=inner, present=named, em=em)
    foot = margin + (len(names) + em if named else 0)

    picture, draw = canvas(inner + 2 * margin, head + body + foot, LIGHT)
    if title:
        title = cut(title, title_em, inner)
        draw.text((margin, margin), title, LIGHT.text, font(title_em), anchor="lt")
    for position, (name, panel) in enumerate(panels.items()):
        row, column = divmod(position, columns)
        left = margin + column * (cell_width + gap)
        top = head + row * (caption + height) + row * gap // 2
        draw.text((left, top + caption // 2), name, LIGHT.text, font(em), anchor="lm")
        large = panel.repeat(zoom, axis=0).repeat(zoom, axis=1)
        picture.paste(Image.fromarray(large), (left, top + caption))
    if named:
        picture.paste(Image.fromarray(names), (margin, head + body + em))
    return np.asarray(picture)


def _error_panel(image: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """The image faded to grey, wrong pixels in one loud colour."""
    luma = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    grey = np.repeat(np.rint(luma).astype(np.uint8)[..., None], 3, axis=2)
    faded = blend(grey, np.full_like(grey, LIGHT.background), 0.45)
    marked = blend(faded, np.full_like(grey, ERROR_COLOUR), 0.85)
    return np.where(wrong[..., None], marked, faded)


def _share(wrong: np.ndarray, truth: np.ndarray, class_set: ClassSet) -> str:
    counted = np.count_nonzero(is_class(truth, class_set))
    return (
        f"{100 * np.count_nonzero(wrong) / counted:.1f}% of pixels" if counted else "no truth"
    )
