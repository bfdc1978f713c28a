"""Every option of a run, typed, with its default: the paper's recipe unless a comment objects.

A file in `configs/` returns a `Config`; the command line overrides single fields, such as
`--config.train.steps=100`. By convention nothing writes to a config after `validate`.
"""

from dataclasses import dataclass, field

STRIDE = 32
SOURCES = ("synthetic", "folder", "cityscapes", "camvid", "coco_stuff")
OPTIMIZERS = ("sgd", "muon")


@dataclass
class ModelConfig:
    """The network. None keeps the preset's value; every field is explained in `BiSeNetV2`."""

    preset: str = "paper"  # paper, coincheung, mmseg or paddleseg
    detail_channels: tuple[int, ...] | None = None
    semantic_ratio: float | None = None  # lambda
    semantic_late_channels: tuple[int, ...] | None = None
    semantic_repeats: tuple[int, ...] | None = None
    expansion: int | None = None  # e
    width: float | None = None  # alpha
    depth: int | None = None  # d
    head_channels: int | None = None
    booster_channels: tuple[int, ...] | None = None
    fusion: str | None = None
    semantic_branch: str | None = None
    gather_kernel_size: int | None = None
    use_second_depthwise: bool | None = None
    use_context_embedding: bool | None = None
    expansion_place: str | None = None
    use_depthwise_relu: bool | None = None
    is_zero_initialized: bool | None = None
    stem_fuse_kernel_size: int | None = None
    context_last_form: str | None = None
    bga_upsampling: str | None = None
    bga_pointwise_bias: bool | None = None
    bga_relu: bool | None = None
    bga_pool_counts_padding: bool | None = None
    booster_form: str | None = None
    dropout_rate: float | None = None
    drops_whole_channels: bool | None = None
    conv_bias: bool | None = None
    initialization: str | None = None
    batch_norm_momentum: float | None = None
    batch_norm_epsilon: float | None = None
    depthwise_lowering: str | None = None
    frozen_batch_norm: bool | None = None  # for fine-tuning: docs/training.md
    dtype: str = "float32"  # of activations: float32, bfloat16 or float16


@dataclass
class InitConfig:
    """What the network starts from."""

    weights: str = ""  # a weights file, or a shipped name; empty: kernels are drawn at random
    # What the file holds: network, one of ours; or backbone, torchvision's weights of
    # config.model.semantic_branch (docs/backbones.md).
    part: str = "network"
    # Start also from another network's weights, with those of the tensors that fit.
    allow_partial: bool = False


@dataclass
class DataConfig:
    """Where the frames come from."""

    source: str = "synthetic"  # synthetic, folder, cityscapes, camvid or coco_stuff
    root: str = ""  # folder of the data set; docs/data.md draws the layouts
    classes: str = "cityscapes"  # a built-in class set, or the path of a class file (.json)
    train_split: str = "train"
    val_split: str = "val"
    height: int = 256  # of a synthetic frame
    width: int = 512
    train_images: int = 2000  # how many different frames the synthetic source draws
    val_images: int = 50
    # Red, green and blue in units of full brightness. ImageNet's, as in the authors' V1 code;
    # the paper names none.
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    # Frames of several sizes are laid on a canvas of this one; 0: all frames have one size.
    canvas_height: int = 0
    canvas_width: int = 0
    cache: str = "none"  # of training frames: none, jpeg (quality 95) or array (as decoded)
    cache_dir: str = "~/.cache/bisenet_jax"
    sampling: str = "uniform"  # of training frames; balanced shows rare classes more often
    statistics: str = ""  # for balanced: what bisenet_jax.data.check --statistics wrote
    workers: int = 0  # loader processes; 0 decodes in threads of this process
    threads: int = 4  # decoding threads of each loader process
    prefetch_megabytes: int = 1024  # of decoded batches kept ready, at least one batch


@dataclass
class AugmentConfig:
    """Random changes of a training frame, made on the device inside the step."""

    # The paper's sizes belong to a data set each: see configs/ (Cityscapes: 1024x2048, halved).
    crop_height: int = 512
    crop_width: int = 1024
    scales: tuple[float, ...] = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)  # one is drawn per frame
    scale_range: tuple[float, float] | None = None  # instead: any scale between these two
    # 2: the network sees the crop, and in scoring and use every image, at half size, as the
    # paper does on Cityscapes.
    shrink: int = 1
    # 2: instead at twice its size, meant for thin things in small frames; docs/results.md has
    # the nearest try, which lost. Crop and scales stay those of the frame.
    enlarge: int = 1
    class_share_limit: float = 1.0  # a crop that one class fills beyond this is drawn anew
    flip_probability: float = 0.5
    # Colour jitter; the paper mentions none. 0.4 draws a factor from [0.6, 1.4].
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    @property
    def input_scale(self) -> float:
        """How large the network sees a picture, 0.5, 1 or 2."""
        return self.enlarge / self.shrink

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of a crop as the network sees it."""
        scale = self.input_scale
        return int(self.crop_height * scale), int(self.crop_width * scale)


@dataclass
class LossConfig:
    """Cross-entropy on the main and the booster logits, averaged over the pixels that count."""

    main_weight: float = 1.0
    booster_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)  # Stem, S3, S4, S5
    # Online hard example mining. The paper adds it as an option and states no constants; these
    # are the public repositories'.
    ohem: bool = False
    ohem_threshold: float = 0.7  # a pixel is hard while its class has less probability
    ohem_min_share: float = 1 / 16  # of each image's labelled pixels count at least
    class_weights: tuple[float, ...] = ()  # one per class, the mean divides by their sum


@dataclass
class OptimizerConfig:
    """How gradients become steps; the schedule is polynomial."""

    # The paper's, or "muon", which is ahead where steps are few and wants a fifth to a tenth of
    # the learning rate: docs/training.md.
    method: str = "sgd"
    learning_rate: float = 5e-2
    momentum: float = 0.9
    poly_power: float = 0.9
    weight_decay: float = 5e-4  # on convolution kernels only; of muon on its own alone
    warmup_steps: int = 0  # linear from warmup_start * learning_rate; the paper knows none
    warmup_start: float = 0.1
    clip_norm: float = 0.0  # the gradient is shortened to this norm; 0: never
    # Of the moving average of parameters and batch statistics, such as 0.999, which is then
    # what is scored, kept as best and exported; 0: no average.
    ema_decay: float = 0.0


@dataclass
class TrainConfig:
    steps: int = 150_000
    batch_size: int = 16
    micro_batches: int = 1  # the batch is worked through in so many parts, to save memory
    remat: bool = False  # compute activations anew in the backward pass: docs/training.md
    log_every: int = 10  # steps between two lines of the log
    evaluate_every: int = 1000  # steps; the last step is always evaluated and saved
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2  # the latest ones; the best one by mIoU is kept as well
    evaluate_batch_size: int = 4
    # So many steps with a loss or gradient that is no number change nothing; one more stops
    # the run. 0: the first does.
    max_skipped_steps: int = 0
    deterministic: bool = False  # the same bits on the same GPUs, slower: docs/training.md
    seed: int = 0


@dataclass
class Config:
    """One run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    init: InitConfig = field(default_factory=InitConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
