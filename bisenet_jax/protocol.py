"""How a picture becomes a label map when it counts: the protocols, by name.

The paper scores `half`: the network sees 1024x512 of a 2048x1024 frame, and its answer goes
back to 2048x1024. Public repositories quote `full`. Their numbers differ by two points and
more on the same weights, so that a score without its protocol says little. `double` is for
small frames. Labels are never resized.
"""

from dataclasses import dataclass

from bisenet_jax.errors import ConfigError

NAMES = {"full": 1.0, "half": 0.5, "double": 2.0}


@dataclass(frozen=True)
class Protocol:
    """One way to score.

    Attributes:
        name: full, half or double: how large the network sees a picture at scale 1.
        scales: factors on top; the probabilities of all views are averaged.
        flips: whether each view is seen mirrored as well.
        crop: height and width of a window that slides over each view; None sees it whole.
        stride: of the window, downwards and to the right.
    """

    name: str = "full"
    scales: tuple[float, ...] = (1.0,)
    flips: bool = False
    crop: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ConfigError(f"protocol {self.name!r} is not known; choose from {list(NAMES)}")
        # nan lies nowhere.
        if not self.scales or not all(0 < scale <= 8 for scale in self.scales):
            raise ConfigError(
                f"scales {self.scales} must be above 0 and at most 8, such as 0.5,1,1.5"
            )
        if (self.crop is None) != (self.stride is None):
            raise ConfigError("a sliding window needs both, its size and its stride")
        if self.crop is not None and self.stride is not None:
            for size, step in zip(self.crop, self.stride, strict=True):
                if not 1 <= step <= size:
                    raise ConfigError(
                        f"stride {step} must be from 1 to the window's {size}: a longer one "
                        "leaves pixels out"
                    )

    @property
    def factors(self) -> tuple[float, ...]:
        """The network's input size over the picture's, of each view."""
        return tuple(NAMES[self.name] * scale for scale in self.scales)

    @property
    def is_plain(self) -> bool:
        """Whether each picture is seen once, whole and at its own size."""
        return self == Protocol()

    @property
    def is_one_view(self) -> bool:
        """Whether each picture is seen once and whole, at whatever size."""
        return len(self.scales) == 1 and not self.flips and self.crop is None

    def __str__(self) -> str:
        scales = [f"{scale:g}" for scale in self.scales]
        is_single = len(scales) == 1
        times = f"{scales[0]} times " if is_single and self.scales != (1.0,) else ""
        parts = [
            f"protocol {self.name} (network input at {times}{self.name} size, logits back to "
            "full size)",
            "single scale" if is_single else f"scales {', '.join(scales)}",
            "mirrored as well" if self.flips else "no flip",
        ]
        if self.crop is not None and self.stride is not None:
            (height, width), (down, right) = self.crop, self.stride
            parts.append(f"sliding window {width}x{height}, stride {right}x{down}")
        return ", ".join(parts)


def protocol_of_scale(input_scale: float) -> Protocol:
    """The protocol of a network that sees a picture so large, in scoring as in use."""
    for name, scale in NAMES.items():
        if scale == input_scale:
            return Protocol(name)
    return Protocol(scales=(input_scale,))
