"""BiSeNet V2 (Yu et al., arXiv 2004.02147, Figure 3): the whole network, boosters included."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bisenet_jax.errors import ConfigError
from bisenet_jax.model.aggregation import BilateralGuidedAggregation, PlainFusion
from bisenet_jax.model.backbones.branch import BACKBONES, BackboneBranch
from bisenet_jax.model.detail import DetailBranch
from bisenet_jax.model.heads import BOOSTER_FORMS, SegmentationHead
from bisenet_jax.model.idle_fields import find_idle_fields
from bisenet_jax.model.layers import Dtype, LayerOptions, require_choice
from bisenet_jax.model.semantic import (
    CONTEXT_LAST_FORMS,
    EXPANSION_PLACES,
    GATHER_KERNEL_SIZES,
    STEM_FUSE_KERNEL_SIZES,
    SemanticBranch,
    SemanticStages,
)
from bisenet_jax.resize import METHODS, upsample

PyTree = Any

# Sizes of an image must be multiples of the deepest stage's stride.
STRIDE = 32
BOOSTER_NAMES = ("booster_stem", "booster_s3", "booster_s4", "booster_s5")
SEMANTIC_BRANCHES = ("gather_expansion", *BACKBONES)
FUSIONS = ("bga", "sum", "concat", "detail", "semantic")


class Outputs(NamedTuple):
    """What a forward pass returns.

    Attributes:
        logits: `[B, H/8, W/8, num_classes] float32`.
        boosters: in training the booster logits of Stem, S3, S4 and S5, each
            `[B, H/s, W/s, num_classes] float32` (s = 4, 8, 16, 32, or half of it for the
            `upsampling` form), or None where there is no Semantic Branch; else empty.
    """

    logits: jax.Array
    boosters: tuple[jax.Array | None, ...]


class BiSeNetV2(nn.Module):
    """Detail and Semantic Branch, Bilateral Guided Aggregation, Segmentation Head, boosters.

    `images: [B, H, W, 3]` normalised floats, H and W divisible by 32.

    Sizes (the paper's values are the defaults):
        detail_channels: widths of the Detail Branch's three stages.
        semantic_ratio: lambda; Stem and S3 of the Semantic Branch have this share of the
            Detail Branch's S1 and S3 widths (Table 1).
        semantic_late_channels: widths of S4 and S5, which lambda leaves alone (Table 1).
        expansion: e of the Gather-and-Expansion layers.
        width: alpha, multiplies the channels of both branches and the aggregation.
        depth: d, multiplies the Gather-and-Expansion layers of each stage; the paper's GFLOPs
            exclude a reading that deepens the Detail Branch too.
        head_channels, booster_channels: C_t of the heads. The paper prints none: twice the
            width of their input is our choice.

    What the paper's own comparisons change (docs/ablations.md has their rows):
        fusion: `bga`; `sum` or `concat`, see `PlainFusion`; `detail` or `semantic`, one branch
            alone under the head, the semantic one grown to 1/8.
        semantic_branch: `gather_expansion`, the paper's own, or a name of
            `backbones.branch.BACKBONES`, which width leaves alone.
        gather_kernel_size, use_second_depthwise, use_context_embedding: see `GatherExpansion`,
            `GatherExpansionDown` and `SemanticBranch`.

    Switches where the paper and public code disagree (docs/deviations.md has the table):
        expansion_place, use_depthwise_relu, is_zero_initialized: see `GatherExpansion`.
        stem_fuse_kernel_size: see `StemBlock`. context_last_form: see `ContextEmbedding`.
        bga_upsampling, bga_pointwise_bias, bga_relu, bga_pool_counts_padding: see
            `BilateralGuidedAggregation`.
        booster_form: a name of `heads.BOOSTER_FORMS`.
        dropout_rate, drops_whole_channels: before the classifiers, in training.
        conv_bias, initialization, batch_norm_momentum, batch_norm_epsilon,
            depthwise_lowering, frozen_batch_norm, dtype: see `LayerOptions`.
    """

    num_classes: int = 19
    detail_channels: tuple[int, int, int] = (64, 64, 128)
    semantic_ratio: float = 0.25
    semantic_late_channels: tuple[int, int] = (64, 128)
    semantic_repeats: tuple[int, int, int] = (2, 2, 4)
    expansion: int = 6
    width: float = 1.0
    depth: int = 1
    head_channels: int = 256
    booster_channels: tuple[int, int, int, int] = (32, 64, 128, 256)

    fusion: str = "bga"
    semantic_branch: str = "gather_expansion"
    gather_kernel_size: int = 3
    use_second_depthwise: bool = True
    use_context_embedding: bool = True

    expansion_place: str = "conv"
    use_depthwise_relu: bool = False
    is_zero_initialized: bool = False
    stem_fuse_kernel_size: int = 1
    context_last_form: str = "conv"
    bga_upsampling: str = "bilinear"
    bga_pointwise_bias: bool = False
    bga_relu: bool = False
    bga_pool_counts_padding: bool = True
    booster_form: str = "segmentation_head"
    dropout_rate: float = 0.0
    drops_whole_channels: bool = False

    conv_bias: bool = False
    initialization: str = "fan_in"
    batch_norm_momentum: float = 0.9
    batch_norm_epsilon: float = 1e-5
    depthwise_lowering: str = "shifts"
    frozen_batch_norm: bool = False
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, images: jax.Array, *, is_training: bool) -> Outputs:
        options = self.check_fields()
        _check_images(images)
        images = images.astype(options.dtype)
        detail_branch = DetailBranch(
            self._widen(self.detail_channels), options=options, name="detail_branch"
        )
        stages: tuple[jax.Array, ...] = ()  # that boosters read
        if self.fusion == "detail":
            aggregate_8 = detail_branch(images, is_training=is_training)
        else:
            semantic: SemanticStages = self._semantic_branch(options)(
                images, is_training=is_training
            )
            stages, context_32 = semantic[:-1], semantic.context_32
            if self.fusion == "semantic":
                aggregate_8 = upsample(context_32, 4, self.bga_upsampling)
            else:
                detail_8 = detail_branch(images, is_training=is_training)  # [B, H/8, W/8, 128]
                aggregate_8 = self._aggregation(options)(
                    detail_8, context_32, is_training=is_training
                )  # [B, H/8, W/8, 128]

        head_fields = {
            "dropout_rate": self.dropout_rate,
            "drops_whole_channels": self.drops_whole_channels,
            "options": options,
        }
        logits_8 = SegmentationHead(
            self.num_classes, self.head_channels, **head_fields, name="head"
        )(aggregate_8, is_training=is_training)
        if not is_training:
            return Outputs(logits_8, boosters=())
        if not stages:
            return Outputs(logits_8, boosters=(None,) * len(BOOSTER_NAMES))
        # Boosters read the stages before Context Embedding (Figure 3), in training only.
        booster_head = BOOSTER_FORMS[self.booster_form]
        boosters = tuple(
            booster_head(self.num_classes, channels, **head_fields, name=name)(
                stage, is_training=is_training
            )
            for name, channels, stage in zip(
                BOOSTER_NAMES, self.booster_channels, stages, strict=True
            )
        )
        return Outputs(logits_8, boosters)

    def _semantic_branch(self, options: LayerOptions) -> nn.Module:
        context_fields = {
            "use_context_embedding": self.use_context_embedding,
            "context_last_form": self.context_last_form,
            "options": options,
            "name": "semantic_branch",
        }
        if self.semantic_branch in BACKBONES:
            width = self._widen(self.detail_channels)[-1]
            return BackboneBranch(self.semantic_branch, width, **context_fields)
        return SemanticBranch(
            self._widen(self._semantic_channels()),
            repeats=tuple(repeats * self.depth for repeats in self.semantic_repeats),
            expansion=self.expansion,
            expansion_place=self.expansion_place,
            gather_kernel_size=self.gather_kernel_size,
            use_second_depthwise=self.use_second_depthwise,
            use_depthwise_relu=self.use_depthwise_relu,
            is_zero_initialized=self.is_zero_initialized,
            stem_fuse_kernel_size=self.stem_fuse_kernel_size,
            **context_fields,
        )

    def _aggregation(self, options: LayerOptions) -> nn.Module:
        fields = {
            "upsampling": self.bga_upsampling,
            "use_relu": self.bga_relu,
            "options": options,
            "name": "aggregation",
        }
        if self.fusion != "bga":
            return PlainFusion(self.fusion, **fields)
        return BilateralGuidedAggregation(
            pointwise_bias=self.bga_pointwise_bias,
            pool_counts_padding=self.bga_pool_counts_padding,
            **fields,
        )

    def check_fields(self) -> LayerOptions:
        """What its layers share; a ConfigError for a field that cannot be, or has no effect."""
        require_choice("booster_form", self.booster_form, tuple(BOOSTER_FORMS))
        require_choice("fusion", self.fusion, FUSIONS)
        require_choice("semantic_branch", self.semantic_branch, SEMANTIC_BRANCHES)
        require_choice("bga_upsampling", self.bga_upsampling, METHODS)
        require_choice("expansion_place", self.expansion_place, EXPANSION_PLACES)
        require_choice("gather_kernel_size", self.gather_kernel_size, GATHER_KERNEL_SIZES)
        require_choice(
            "stem_fuse_kernel_size", self.stem_fuse_kernel_size, STEM_FUSE_KERNEL_SIZES
        )
        require_choice("context_last_form", self.context_last_form, CONTEXT_LAST_FORMS)
        for name, cause in find_idle_fields(self).items():
            default = type(self).__dataclass_fields__[name].default
            raise ConfigError(
                f"{name} {getattr(self, name)!r} has no effect with {cause}; set it to "
                f"{default!r} or leave it out"
            )
        lengths = {
            "detail_channels": 3,
            "semantic_late_channels": 2,
            "semantic_repeats": 3,
            "booster_channels": len(BOOSTER_NAMES),
        }
        for name, length in lengths.items():
            numbers = getattr(self, name)
            if len(numbers) != length or min(numbers) < 1:
                raise ConfigError(f"{name} {numbers} must hold {length} whole numbers above 0")
        for name in ("num_classes", "expansion", "depth", "head_channels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} must be at least 1")
        if not 0 <= self.dropout_rate < 1:
            raise ConfigError(
                f"dropout_rate {self.dropout_rate} must be at least 0 and below 1; 0 is off"
            )
        if self.fusion != "detail" and self.semantic_branch not in BACKBONES:
            self._check_widths()
        return LayerOptions(
            dtype=jnp.dtype(self.dtype),
            batch_norm_momentum=self.batch_norm_momentum,
            batch_norm_epsilon=self.batch_norm_epsilon,
            conv_bias=self.conv_bias,
            initialization=self.initialization,
            depthwise_lowering=self.depthwise_lowering,
            frozen_batch_norm=self.frozen_batch_norm,
        )

    def _check_widths(self) -> None:
        widths = self.detail_channels[-1], self.semantic_late_channels[-1]
        if self.fusion == "sum" and widths[0] != widths[1]:
            raise ConfigError(
                f"fusion 'sum' needs branches of equal width, not {widths[0]} and {widths[1]}: "
                "make the last of detail_channels and of semantic_late_channels equal, or take "
                "'concat'"
            )
        # The Stem halves its width once more, so that one channel is too few.
        if min(self._widen(self._semantic_channels())) < 2:
            raise ConfigError(
                f"semantic_ratio {self.semantic_ratio} and width {self.width} leave the "
                "Semantic Branch fewer than 2 channels; raise one of them"
            )

    def _semantic_channels(self) -> tuple[int, int, int, int]:
        stem = round(self.detail_channels[0] * self.semantic_ratio)
        s3 = round(self.detail_channels[2] * self.semantic_ratio)
        return (stem, s3, *self.semantic_late_channels)

    def _widen(self, channels: tuple[int, ...]) -> tuple:
        return tuple(round(count * self.width) for count in channels)


def without_boosters(variables: PyTree) -> PyTree:
    """The same variables without those of the booster heads, which inference has no use for."""
    return {
        collection: {name: leaf for name, leaf in tree.items() if name not in BOOSTER_NAMES}
        for collection, tree in variables.items()
    }


def _check_images(images: jax.Array) -> None:
    """What would else go wrong in silence, or deep inside with a riddle for a message."""
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images must be [B, H, W, 3] normalised floats, not {images.dtype} "
            f"{list(images.shape)}; bisenet_jax.inference takes uint8 images"
        )
    height, width = images.shape[1:3]
    if height % STRIDE or width % STRIDE:
        raise ValueError(
            f"image size {height}x{width} must be divisible by {STRIDE}: pad it, as "
            "bisenet_jax.inference does"
        )
