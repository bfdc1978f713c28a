"""Any lightweight network as Semantic Branch (paper, 4.2); docs/backbones.md adds one."""

from dataclasses import replace

import flax.linen as nn
import jax

from bisenet_jax.model.backbones.mobilenetv2 import MobileNetV2
from bisenet_jax.model.backbones.resnet18 import ResNet18
from bisenet_jax.model.backbones.shufflenetv2 import ShuffleNetV2
from bisenet_jax.model.layers import ConvBatchNorm, LayerOptions
from bisenet_jax.model.semantic import ContextEmbedding, SemanticStages

# Each takes `options` and gives its maps at 1/4, 1/8, 1/16 and 1/32 of the images.
BACKBONES = {
    "mobilenetv2": MobileNetV2,
    "shufflenetv2": ShuffleNetV2,
    "resnet18": ResNet18,
}


class BackboneBranch(nn.Module):
    """A backbone where `SemanticBranch` would stand: `[B, H, W, 3] -> SemanticStages`.

    How the paper fits the two together is not known. Here a 1x1 convolution brings the last map
    to the width of the aggregation, and Context Embedding follows, as in the paper's branch.

    Attributes:
        backbone: a name of `BACKBONES`; its convolutions have no bias, whatever options say.
        channels: of `context_32`.
        use_context_embedding, context_last_form: as in `SemanticBranch`.
    """

    backbone: str
    channels: int = 128
    use_context_embedding: bool = True
    context_last_form: str = "conv"
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, images: jax.Array, *, is_training: bool) -> SemanticStages:
        network = BACKBONES[self.backbone](
            options=replace(self.options, conv_bias=False), name="backbone"
        )
        stages = network(images, is_training=is_training)
        x = ConvBatchNorm(self.channels, kernel_size=1, options=self.options, name="project")(
            stages[-1], is_training=is_training
        )  # [B, H/32, W/32, channels]
        if self.use_context_embedding:
            x = ContextEmbedding(
                self.context_last_form, options=self.options, name="context_embedding"
            )(x, is_training=is_training)
        return SemanticStages._make([*stages, x])
