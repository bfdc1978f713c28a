"""Backbones as Semantic Branch: torchvision's networks, its weights, and all that infers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from public_checkpoints import draw_tensors

from bisenet_jax.config import InitConfig
from bisenet_jax.config_rules import validate
from bisenet_jax.convert.backbones import read_backbone
from bisenet_jax.convert.checkpoint import write_checkpoint
from bisenet_jax.data.classes import CITYSCAPES
from bisenet_jax.errors import ConfigError, ExportError, WeightsError
from bisenet_jax.export.onnx import export_onnx
from bisenet_jax.export.stablehlo import export_stablehlo
from bisenet_jax.fast.network import fasten
from bisenet_jax.model.backbones.branch import BACKBONES
from bisenet_jax.model.bisenetv2 import BOOSTER_NAMES, without_boosters
from bisenet_jax.model.presets import build_model
from bisenet_jax.training.initial_weights import read_initial_weights, start_from
from bisenet_jax.training.state import create_state
from bisenet_jax.weights import read_weights, write_weights

QUICK = {"xla_backend_optimization_level": 0}
# As torchvision's documentation counts them, classifiers included.
PARAMETERS = {"resnet18": 11_689_512, "mobilenetv2": 3_504_872, "shufflenetv2": 3_503_624}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def build_twin(torch):
    from benchmarks.torch_backbones import build_twin

    return build_twin


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, build_twin):
    """Of each backbone random weights in torchvision's names, statistics included."""
    folder = tmp_path_factory.mktemp("torchvision")
    suffixes = {"resnet18": ".pth", "mobilenetv2": ".safetensors", "shufflenetv2": ".npz"}
    found = {}
    for name in BACKBONES:
        shapes = {key: tuple(t.shape) for key, t in build_twin(name).state_dict().items()}
        found[name] = folder / f"{name}{suffixes[name]}", draw_tensors(shapes)
        write_checkpoint(*found[name])
    return found


def narrow(backbone, **fields):
    sizes = {"detail_channels": (8, 8, 16), "head_channels": 8, "booster_channels": (4,) * 4}
    return build_model(semantic_branch=backbone, **(sizes | fields))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_twin_is_torchvisions_network(backbone, build_twin):
    assert sum(p.numel() for p in build_twin(backbone).parameters()) == PARAMETERS[backbone]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_maps_are_the_twins(backbone, checkpoints, torch, build_twin):
    path, tensors = checkpoints[backbone]
    twin = build_twin(backbone).eval()
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    images = np.random.default_rng(0).normal(size=(2, 64, 96, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = twin(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))))
    found = read_backbone(backbone, str(path))
    module = BACKBONES[backbone]()
    run = jax.jit(lambda v, x: module.apply(v, x, is_training=False), compiler_options=QUICK)
    for index, (ours, maps) in enumerate(
        zip(run(found.variables, images), theirs, strict=True)
    ):
        expected = maps.numpy().transpose(0, 2, 3, 1)
        assert expected.shape[1:3] == (64 >> index + 2, 96 >> index + 2)
        assert expected.std() > 1e-3
        assert np.abs(ours - expected).max() < 1e-4 * np.abs(expected).max()
    classifiers = {"resnet18": 2, "mobilenetv2": 2 + 5, "shufflenetv2": 2 + 5}
    assert len(found.unused) == classifiers[backbone]
    assert found.counters == sum(name.endswith("running_mean") for name in tensors)
    assert found.loaded == len(tensors) - found.counters - len(found.unused)


def test_what_does_not_fit_is_named(tmp_path, checkpoints):
    path, tensors = checkpoints["resnet18"]
    with pytest.raises(
        WeightsError, match="does not fit mobilenetv2: features.0.0.weight is m"
    ):
        read_backbone("mobilenetv2", str(path))
    bent = tensors | {"bn1.weight": np.ones(3, np.float32), "extra": np.ones(1, np.float32)}
    del bent["conv1.weight"]
    write_checkpoint(tmp_path / "bent.npz", bent)
    with pytest.raises(WeightsError) as refused:
        read_backbone("resnet18", str(tmp_path / "bent.npz"))
    for words in (
        "conv1.weight is missing",
        "extra is unexpected",
        "bn1.weight is [3], the network has [64]",
    ):
        assert words in str(refused.value)


def test_a_run_starts_from_the_backbone(tiny_config, checkpoints, capsys):
    path, tensors = checkpoints["resnet18"]
    model = narrow("resnet18", num_classes=19)
    tiny_config.init = InitConfig(weights=str(path), part="backbone")
    tiny_config.data.mean = (0.5, 0.5, 0.5)
    initial = read_initial_weights(validate(tiny_config), model)
    told = capsys.readouterr().out
    assert "100 tensors of resnet18; left out: fc.bias, fc.weight, 20 batch counters" in told
    assert "mean=(0.485, 0.456, 0.406)" in told and "mean=(0.5, 0.5, 0.5)" in told

    before = create_state(model, optax.sgd(0.1), seed=0)
    state, start = start_from(before, initial, CITYSCAPES)
    assert len(start.loaded) == 100 and not (start.skipped or start.mismatched)
    assert "loaded: semantic_branch 100" in start.describe()
    here, fresh = (
        flatten_dict(state.variables, sep="/"),
        flatten_dict(before.variables, sep="/"),
    )
    np.testing.assert_array_equal(
        here["batch_stats/semantic_branch/backbone/layer4_1/shortcut/bn/mean"],
        tensors["layer4.0.downsample.1.running_mean"],
    )
    for name in start.fresh:
        np.testing.assert_array_equal(here[name], fresh[name])
    with pytest.raises(ConfigError, match="is 'gather_expansion'; choose from mobilenetv2, "):
        read_initial_weights(tiny_config, build_model())


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"part": "head"},
            "config.init.part 'head' is not known; choose from network, backbone",
        ),
        ({"part": "backbone"}, "part backbone needs config.init.weights"),
        (
            {"part": "backbone", "weights": "x", "allow_partial": True},
            "leave config.init.allow_partial out",
        ),
    ],
)
def test_rules_of_the_start(fields, message, tiny_config):
    tiny_config.init = InitConfig(**fields)
    with pytest.raises(ConfigError, match=message):
        validate(tiny_config)


def test_frozen_statistics_need_the_whole_network(tiny_config):
    tiny_config.init = InitConfig(weights="x", part="backbone")
    tiny_config.model.frozen_batch_norm = True
    with pytest.raises(ConfigError, match="of the whole network"):
        validate(tiny_config)


@pytest.mark.parametrize(
    "backbone, channels",
    [
        ("resnet18", (64, 128, 256, 512)),
        ("mobilenetv2", (24, 32, 96, 320)),
        ("shufflenetv2", (24, 176, 352, 704)),
    ],
)
def test_the_network_around_it(backbone, channels):
    images = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    model = narrow(backbone, width=2.0, conv_bias=True)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    outputs, variables = jax.eval_shape(
        lambda x: model.init_with_output(keys, x, is_training=True), images
    )
    sizes = [(64 // stride, 96 // stride) for stride in (8, 4, 8, 16, 32)]
    assert [leaf.shape[1:3] for leaf in jax.tree.leaves(outputs)] == sizes
    params = variables["params"]
    for booster, inputs in zip(BOOSTER_NAMES, channels, strict=True):
        assert params[booster]["conv"]["conv"]["kernel"].shape == (3, 3, inputs, 4)
    # Alpha widens the Detail Branch and what joins it, and leaves the backbone alone.
    branch = params["semantic_branch"]
    assert branch["project"]["conv"]["kernel"].shape == (1, 1, channels[-1], 32)
    biases = [
        name for name in flatten_dict(branch["backbone"]) if name[-2:] == ("conv", "bias")
    ]
    assert not biases and "bias" in branch["project"]["conv"]


# The fixture's own sizes are of the paper's branch.
BARE = {"semantic_late_channels": None, "semantic_repeats": None, "expansion": None}


def test_everything_that_infers_takes_it(tmp_path, random_weights):
    weights = random_weights("paper", semantic_branch="resnet18", **BARE)
    network, parameters = fasten(weights.model, weights.variables)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 64, 96, 3)), jnp.float32)
    pruned = without_boosters(weights.variables)
    plain, fast = (
        jax.jit(function.apply, compiler_options=QUICK, static_argnames="is_training")(
            numbers, images, is_training=False
        )
        for function, numbers in ((weights.model, pruned), (network, parameters))
    )
    np.testing.assert_array_equal(fast.logits, plain.logits)
    assert plain.logits.std() > 0.5
    with pytest.raises(ExportError, match="'resnet18' cannot be written as ONNX: export it"):
        export_onnx(tmp_path / "network.onnx", weights, height=64, width=96)
    assert not list(tmp_path.iterdir())
    write_weights(tmp_path / "weights.safetensors", weights)
    read = read_weights(tmp_path / "weights.safetensors")
    assert read.model == weights.model and dataclasses.asdict(read)["preset"] == "paper"


def test_stablehlo(tmp_path, random_weights):
    weights = random_weights("paper", semantic_branch="shufflenetv2", **BARE)
    found = export_stablehlo(tmp_path / "network.stablehlo", weights)
    assert found.equal_labels >= 0.999
