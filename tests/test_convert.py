"""Public checkpoints in, our weights out, and back; whatever does not fit is named."""

import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from public_checkpoints import draw_tensors, listed_shapes
from safetensors.numpy import save_file

from bisenet_jax.convert.checkpoint import read_checkpoint, write_checkpoint
from bisenet_jax.convert.convert import Options, choose_normalization, export_to, import_from
from bisenet_jax.convert.names import LAYOUTS
from bisenet_jax.convert.tensors import COUNTER, public_shapes
from bisenet_jax.errors import ConfigError, WeightsError
from bisenet_jax.normalization import Normalization
from bisenet_jax.weights import read_weights, write_weights

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def checkpoints():
    return {layout: draw_tensors(listed_shapes(layout)) for layout in LAYOUTS}


def write(path, tensors, **changes):
    """An .npz of the tensors with some replaced, or left out where the change is None."""
    kept = {name: array for name, array in (tensors | changes).items() if array is not None}
    np.savez(path, **kept)
    return str(path)


def without(tensors, *prefixes):
    return {name: array for name, array in tensors.items() if not name.startswith(prefixes)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_and_shapes_are_the_public_ones(layout):
    listed = listed_shapes(layout)
    counted = {name: shape for name, shape in listed.items() if not name.endswith(COUNTER)}
    assert public_shapes(layout, 19, with_boosters=True) == counted
    classes = {name for name, shape in counted.items() if 19 in shape}
    fewer = public_shapes(layout, 11, with_boosters=True)
    assert {name for name in fewer if fewer[name] != counted[name]} == classes
    boosters = ("aux", "auxiliary_head")
    assert public_shapes(layout, 19, with_boosters=False) == without(counted, *boosters)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back(tmp_path, checkpoints, layout):
    tensors = checkpoints[layout]
    ours, theirs = str(tmp_path / "ours.safetensors"), str(tmp_path / "theirs.safetensors")
    report = import_from(layout, write(tmp_path / "in.npz", tensors), ours, Options())
    assert report["boosters"] and report["classes"] == 19 and report["missing"] == ()
    assert report["counters"] == sum(name.endswith(COUNTER) for name in tensors)

    weights = read_weights(ours)
    assert (weights.preset, weights.class_set.name, weights.input_scale) == (
        *(layout, "cityscapes"),
        1.0,
    )
    # A depth-wise kernel [96, 1, 3, 3] there is [3, 3, 1, 96] here, whatever it multiplies.
    box = weights.variables["params"]["semantic_branch"]["s3_1"]["depthwise_down"]
    name = {
        "coincheung": "segment.S3.0.dwconv1.0",
        "mmseg": "backbone.semantic.stage2.0.dwconv.0.conv",
    }
    there = tensors[f"{name[layout]}.weight"]
    np.testing.assert_array_equal(box["conv"]["kernel"][1, 2, 0, 50], there[50, 0, 1, 2])

    export_to(layout, ours, theirs, Options())
    back = read_checkpoint(Path(theirs))
    assert back.keys() == tensors.keys()
    for name, array in back.items():
        if not name.endswith(COUNTER):
            np.testing.assert_array_equal(array, tensors[name])


def test_without_boosters(tmp_path, checkpoints, capsys):
    tensors = checkpoints["coincheung"]
    bare = write(tmp_path / "bare.npz", without(tensors, "aux"))
    full = write(tmp_path / "full.npz", tensors)
    hashes = []
    for path, options in ((bare, Options()), (full, Options(keeps_boosters=False))):
        report = import_from("coincheung", path, str(tmp_path / "ours"), options)
        assert not report["boosters"]
        assert "booster_s3" not in read_weights(tmp_path / "ours").variables["params"]
        hashes.append(report["content_hash"])
    assert hashes[0] == hashes[1]
    assert "left out: the boosters, as --noboosters says" in capsys.readouterr().out
    export_to("coincheung", str(tmp_path / "ours"), str(tmp_path / "back.npz"), Options())
    back = read_checkpoint(tmp_path / "back.npz")
    assert back.keys() == without(tensors, "aux").keys()


def test_normalization_and_classes_travel_with_the_weights(tmp_path, checkpoints, capsys):
    assert choose_normalization("coincheung", "cityscapes") == Normalization(
        (0.3257, 0.3690, 0.3223), (0.2112, 0.2148, 0.2115)
    )
    assert choose_normalization("coincheung", "coco_stuff").mean[0] == 0.4696
    for class_set in ("cityscapes", "garden"):
        found = choose_normalization("mmseg", class_set)
        np.testing.assert_allclose(np.multiply(found.mean, 255), [123.675, 116.28, 103.53])
        np.testing.assert_allclose(np.multiply(found.std, 255), [58.395, 57.12, 57.375])
    own = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    assert choose_normalization("mmseg", "garden", *own) == Normalization(*own)
    with pytest.raises(ConfigError, match="'garden' carry .* --mean and --std"):
        choose_normalization("coincheung", "garden")
    with pytest.raises(ConfigError, match="together, or neither"):
        choose_normalization("mmseg", "cityscapes", mean=own[0])

    for mean, std in (
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        (own[0], (math.nan,) * 3),
        (own[0], (1e-7, 0.2, 0.2)),
        ((-0.1, 0.2, 0.3), own[1]),
    ):
        with pytest.raises(ConfigError, match="units of full brightness, .* by 255"):
            choose_normalization("mmseg", "cityscapes", mean, std)

    path, ours = write(tmp_path / "in.npz", checkpoints["mmseg"]), str(tmp_path / "ours")
    with pytest.raises(ConfigError, match="--classes camvid has 11 classes, .* tells 19 apart"):
        import_from("mmseg", path, ours, Options(classes="camvid"))
    import_from("mmseg", path, ours, Options(mean=own[0], std=own[1], classes="cityscapes"))
    assert read_weights(ours).normalization == Normalization(*own)
    capsys.readouterr()
    export_to("mmseg", ours, str(tmp_path / "theirs.npz"), Options())
    told = capsys.readouterr().out
    assert "mean 0.1000, 0.2000, 0.3000" in told and "road" in told
    with pytest.raises(ConfigError, match="go with --from only"):
        export_to("mmseg", ours, str(tmp_path / "theirs.npz"), Options(fresh_heads=True))


def resized(tensors, count):
    """The heads of another number of classes."""
    return {
        name: np.ones((count, *array.shape[1:]), np.float32) if 19 in array.shape else array
        for name, array in tensors.items()
    }


def test_other_numbers_of_classes_must_be_named(tmp_path, checkpoints):
    path = write(tmp_path / "in.npz", resized(checkpoints["mmseg"], 11))
    with pytest.raises(ConfigError, match="11 classes apart.*name them with --classes"):
        import_from("mmseg", path, str(tmp_path / "ours"), Options())
    import_from("mmseg", path, str(tmp_path / "ours"), Options(classes="camvid"))
    assert read_weights(tmp_path / "ours").class_set.name == "camvid"


def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path, checkpoints):
    tensors = checkpoints["coincheung"]
    changes = {
        "detail.S1.0.bn.bias": None,
        "segment.S3.0.conv2.0.weight": np.zeros((32, 96, 3, 3), np.float32),
        "bga.conv.1.running_var": np.zeros(4, np.float32),
        "optimizer.step": np.zeros(1, np.float32),
    }
    path = write(tmp_path / "in.npz", tensors, **changes)
    options = Options(json_file=str(tmp_path / "report.json"))
    with pytest.raises(WeightsError) as refused:
        import_from("coincheung", path, str(tmp_path / "ours"), options)
    message = str(refused.value)
    for part in (
        "1 missing: detail.S1.0.bn.bias",
        "1 unexpected: optimizer.step",
        "segment.S3.0.conv2.0.weight is [32, 96, 3, 3], the network has [32, 96, 1, 1]",
        "bga.conv.1.running_var is [4], the network has [128]",
    ):
        assert part in message
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["written"] is None and report["missing"] == ["detail.S1.0.bn.bias"]
    assert len(report["mismatched"]) == 2 and not (tmp_path / "ours").exists()


def old_head(tensors, name, outputs):
    body = without(tensors, "aux", "head.conv_out")
    return body | {name: np.ones((outputs, 1024, 1, 1), np.float32)}


def test_other_code_is_recognised(tmp_path, checkpoints):
    tensors = checkpoints["coincheung"]
    shuffled = old_head(tensors, "head.conv_out.0.weight", 19 * 64)
    for layout, content, words in (
        ("mmseg", tensors, "names are those of coincheung: give --from coincheung"),
        ("coincheung", checkpoints["mmseg"], "give --from mmseg"),
        ("coincheung", shuffled, "2020-09 to 2021-06.* 19 classes .*pixel shuffle.*--fresh_h"),
        ("coincheung", old_head(tensors, "head.conv_out.weight", 19), "of 2020-08.*19 classes"),
        ("coincheung", without(tensors, "aux", "head"), "It has no head: .*--fresh_heads"),
        ("coincheung", without(tensors, "aux3."), "missing: aux3.*another version"),
        ("coincheung", {"fc.weight": np.ones(3)}, "1 unexpected: fc.weight.*another network"),
        ("mmseg", {"params/head": np.ones(3)}, "a weights file of ours, which needs no conv"),
    ):
        path = write(tmp_path / "in.npz", content)
        with pytest.raises(WeightsError, match=words):
            import_from(layout, path, str(tmp_path / "ours"), Options())


def test_fresh_heads_keep_the_body(tmp_path, checkpoints, capsys):
    tensors = old_head(checkpoints["coincheung"], "head.conv_out.0.weight", 19 * 64)
    path, ours = write(tmp_path / "in.npz", tensors), str(tmp_path / "ours")
    with pytest.raises(ConfigError, match="--fresh_heads needs --classes"):
        import_from("coincheung", path, ours, Options(fresh_heads=True))
    options = Options(fresh_heads=True, classes="camvid", mean=(0.5,) * 3, std=(0.2,) * 3)
    import_from("coincheung", path, ours, options)
    params = read_weights(ours).variables["params"]
    np.testing.assert_array_equal(
        params["detail_branch"]["s1_1"]["bn"]["bias"], tensors["detail.S1.0.bn.bias"]
    )
    assert params["head"]["classifier"]["kernel"].shape == (1, 1, 1024, 11)
    assert np.std(params["head"]["conv"]["conv"]["kernel"]) > 0
    assert np.all(params["head"]["conv"]["bn"]["bias"] == 0) and "booster_s5" in params
    told = capsys.readouterr().out
    assert "left out: head.conv.bn.bias" in told and "head.conv_out.0.weight" in told
    assert "train before use" in told


def test_only_the_preset_can_go_back(tmp_path, tiny_weights):
    write_weights(tmp_path / "tiny", tiny_weights)
    with pytest.raises(
        WeightsError, match=r"detail_channels \(8, 8, 16\), there \(64, 64, 128\)"
    ):
        export_to("coincheung", str(tmp_path / "tiny"), str(tmp_path / "out.npz"), Options())
    with pytest.raises(WeightsError, match="bga_upsampling 'nearest', there 'bilinear'"):
        export_to("mmseg", str(tmp_path / "tiny"), str(tmp_path / "out.npz"), Options())
    assert not (tmp_path / "out.npz").exists()


SMALL = {"a.weight": np.arange(4, dtype=np.float32), "a.bias": np.ones(2, np.float32)}


def assert_small(tensors):
    assert tensors.keys() == SMALL.keys()
    jax.tree.map(np.testing.assert_array_equal, tensors, SMALL)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_files_give_back_what_went_in(tmp_path, suffix):
    if suffix == ".pth":
        pytest.importorskip("torch")
    path = tmp_path / f"small{suffix}"
    for wrapper in ("", "state_dict"):
        write_checkpoint(path, SMALL, wrapper)
        assert_small(read_checkpoint(path))
    content = path.read_bytes()
    for damaged in (content[:-30], b"", b"no checkpoint", b"hello"):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match="cannot be read"):
            read_checkpoint(path)


def test_wrappers_are_taken_off(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array) for name, array in SMALL.items()}
    parallel = {f"module.{name}": tensor for name, tensor in tensors.items()}
    nested = {"a": {"weight": tensors["a.weight"], "bias": tensors["a.bias"].half()}}
    for content in (
        tensors,
        parallel,
        nested,
        {"state_dict": tensors, "meta": {"epoch": 3}},
        {"model": parallel, "epoch": 3},
        {"model": {"state_dict": tensors}},
    ):
        torch.save(content, tmp_path / "in.pth")
        assert_small(read_checkpoint(tmp_path / "in.pth"))
    for content, words in (
        ({"epoch": 3}, "'epoch' is a int, no tensor"),
        ([1, 2], "holds a list instead of tensors"),
        ({}, "holds no tensors"),
        ({"a": torch.tensor([1.0, torch.nan])}, "tensor a holds numbers that are not finite"),
    ):
        torch.save(content, tmp_path / "in.pth")
        with pytest.raises(WeightsError, match=words):
            read_checkpoint(tmp_path / "in.pth")


class Runs:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_code_of_a_checkpoint_runs(tmp_path):
    torch = pytest.importorskip("torch")
    trace = tmp_path / "trace"
    torch.save({"state_dict": Runs(trace)}, tmp_path / "in.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Runs(trace)))
    np.savez(tmp_path / "in.npz", a=np.array([Runs(trace)]))
    for name, words in (
        ("in.pth", r"it holds \S+ beside tensors.* save its state_dict alone"),
        ("old.pth", "it is damaged, or was not written by torch.save"),
        ("in.npz", "cannot be read"),
    ):
        with pytest.raises(WeightsError, match=words) as refused:
            read_checkpoint(tmp_path / name)
        assert "weights_only" not in str(refused.value)
    assert not trace.exists()


def test_without_torch_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "in.pth").write_bytes(b"any")
    with pytest.raises(WeightsError, match=r"pip install 'bisenet_jax\[torch\]'"):
        read_checkpoint(tmp_path / "in.pth")
    with pytest.raises(WeightsError, match=r"pip install 'bisenet_jax\[torch\]'"):
        write_checkpoint(tmp_path / "out.pth", SMALL)


def test_other_files(tmp_path):
    with pytest.raises(WeightsError, match=r"must end with one of .pth, .pt, .safetensors"):
        read_checkpoint(tmp_path / "in.onnx")
    with pytest.raises(WeightsError, match="in.npz is no file"):
        read_checkpoint(tmp_path / "in.npz")
    with (tmp_path / "bare.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(WeightsError, match="cannot be read"):
        read_checkpoint(tmp_path / "bare.npz")


def run(*arguments):
    command = [sys.executable, "-m", "bisenet_jax.convert", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_program(tmp_path, checkpoints):
    theirs, ours, report = (tmp_path / name for name in ("in.safetensors", "ours", "report"))
    save_file(checkpoints["coincheung"], theirs)
    done = run("--from", "coincheung", theirs, "--output", ours, "--json", report)
    assert done.returncode == 0, done.stderr
    assert "preset coincheung, 19 classes of cityscapes, mean 0.3257" in done.stdout
    assert "no commercial use" in done.stdout
    assert json.loads(report.read_text())["content_hash"] == read_weights(ours).content_hash

    for arguments, words in (
        (("--from", "mmseg", theirs, "--output", tmp_path / "x"), "give --from coincheung"),
        (("--from", "coincheung", theirs, "--output", ours, "--mean", "1,2"), "three numbers"),
    ):
        refused = run(*arguments)
        assert refused.returncode == 2 and words in refused.stderr
        assert "Traceback" not in refused.stderr and not (tmp_path / "x").exists()
