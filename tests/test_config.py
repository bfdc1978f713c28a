"""Configuration: every rule has its message, every wrong key its cure, before anything runs."""

import dataclasses
import json
import math
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from bisenet_jax import config_file
from bisenet_jax.config import STRIDE, Config, ModelConfig
from bisenet_jax.config_file import from_dict, to_dict
from bisenet_jax.config_rules import refuse_idle_fields, validate
from bisenet_jax.data.class_sets import find_class_set
from bisenet_jax.errors import ConfigError
from bisenet_jax.model import bisenetv2
from bisenet_jax.model.bisenetv2 import BiSeNetV2

ROOT = Path(__file__).parents[1]


def changed(**fields) -> Config:
    """A config with `section__field=value` set, as the command line sets it."""
    config = Config()
    for name, value in fields.items():
        section, field = name.split("__")
        setattr(getattr(config, section), field, value)
    return config


def test_model_config_has_the_fields_of_the_network():
    ours = {field.name for field in dataclasses.fields(ModelConfig)}
    network = set(BiSeNetV2.__dataclass_fields__) - {"num_classes", "parent", "name"}
    assert ours - {"preset"} == network
    # All but these two leave the choice to the preset.
    set_here = {f.name for f in dataclasses.fields(ModelConfig) if f.default is not None}
    assert set_here == {"preset", "dtype"}


def test_constants_repeated_to_keep_jax_out_of_the_config():
    assert STRIDE == bisenetv2.STRIDE
    assert len(Config().loss.booster_weights) == len(bisenetv2.BOOSTER_NAMES)
    loaded = "import sys, bisenet_jax.config; print({'jax', 'flax'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.strip() == "set()"


def test_defaults_are_valid_and_are_the_papers_recipe():
    config = validate(Config())
    assert (config.optimizer.learning_rate, config.optimizer.momentum) == (5e-2, 0.9)
    assert (config.optimizer.poly_power, config.optimizer.weight_decay) == (0.9, 5e-4)
    assert (config.train.steps, config.train.batch_size) == (150_000, 16)
    assert config.model.preset == "paper"


def test_round_trip():
    config = changed(
        model__preset="mmseg",
        model__detail_channels=(8, 8, 16),
        model__dropout_rate=0.25,
        augment__scales=(0.5, 1.0),
        train__steps=7,
    )
    values = to_dict(config)
    assert values == json.loads(json.dumps(values))
    assert values["model"]["detail_channels"] == [8, 8, 16]
    assert from_dict(values) == config
    assert from_dict({"train": {"steps": 7}}) == changed(train__steps=7)


def test_save_and_load(tmp_path):
    config = changed(data__mean=(0.1, 0.2, 0.3))
    config_file.save(config, tmp_path)
    assert config_file.load(tmp_path) == config


def test_load_says_what_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"config.json does not exist: give the --workdir"):
        config_file.load(tmp_path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="config.json is not JSON"):
        config_file.load(tmp_path)


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"modle": {}},
            "config has no field 'modle'; the legal ones are augment, data, init, loss",
        ),
        ({"train": {"stepz": 4}}, "config.train has no field 'stepz'; .* steps"),
        ({"train": 4}, "config.train 4 must be a table of fields"),
        ({"train": {"steps": "4"}}, "config.train.steps '4' must be of type int"),
        ({"train": {"steps": 4.5}}, "config.train.steps 4.5 must be of type int"),
        ({"train": {"steps": True}}, "config.train.steps True must be of type int"),
        ({"loss": {"ohem": 1}}, "config.loss.ohem 1 must be of type bool"),
        (
            {"loss": {"main_weight": False}},
            "config.loss.main_weight False must be of type float",
        ),
        ({"data": {"mean": [0.5, 0.5]}}, r"config.data.mean \(0.5, 0.5\) must be of type"),
        ({"augment": {"scales": ["1"]}}, r"config.augment.scales \('1',\) must be of type"),
        (
            {"model": {"head_channels": "8"}},
            "config.model.head_channels '8' must be of type int",
        ),
    ],
)
def test_wrong_key_or_type(values, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(values)


AT_LEAST = {
    "loss__main_weight": 0,
    "optimizer__learning_rate": 0,
    "optimizer__weight_decay": 0,
    "optimizer__clip_norm": 0,
    "optimizer__warmup_steps": 0,
    "optimizer__poly_power": 0,
    "data__train_images": 1,
    "data__val_images": 1,
    "data__workers": 0,
    "data__threads": 1,
    "train__steps": 1,
    "train__batch_size": 1,
    "train__log_every": 1,
    "train__evaluate_every": 1,
    "train__checkpoint_every": 1,
    "train__keep_checkpoints": 1,
    "train__evaluate_batch_size": 1,
}
SHARES = [
    "augment__flip_probability",
    "augment__brightness",
    "augment__contrast",
    "augment__saturation",
    "loss__ohem_threshold",
    "loss__ohem_min_share",
    "optimizer__warmup_start",
]


@pytest.mark.parametrize("name", AT_LEAST)
def test_lower_bound(name):
    low, dotted = AT_LEAST[name], name.replace("__", ".")
    with pytest.raises(ConfigError, match=f"config.{dotted} {low - 1} must be at least {low}"):
        validate(changed(**{name: low - 1}))


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_share(name, value):
    dotted = name.replace("__", ".")
    with pytest.raises(ConfigError, match=f"config.{dotted} {value} must be between 0 and 1"):
        validate(changed(**{name: value}))


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(model__frozen_batch_norm=True), "frozen_batch_norm needs config.init.weights"),
        (
            dict(optimizer__ema_decay=1.0),
            "ema_decay 1.0 must be at least 0 and below 1, such as",
        ),
        (dict(optimizer__ema_decay=math.nan), "ema_decay nan must be at least 0"),
        (dict(optimizer__momentum=1.0), "momentum 1.0 must be at least 0 and below 1"),
        (dict(train__batch_size=1), "batch_size 1 in 1 micro-batches leaves one image to each"),
        (dict(train__micro_batches=16), "batch_size 16 in 16 micro-batches leaves one image"),
        (dict(optimizer__method="muon"), "learning_rate 0.05 .* at most 0.03 for muon"),
        (
            dict(loss__main_weight=0.0, loss__booster_weights=(0.0,) * 4),
            "nothing would be learnt; set config.loss.main_weight",
        ),
        (dict(data__statistics="s.json"), "statistics 's.json' has no effect with .* uniform"),
        (
            dict(train__micro_batches=0),
            "micro_batches 0 must divide config.train.batch_size 16",
        ),
        (dict(train__micro_batches=6), "micro_batches 6 must divide .* 16, such as 2"),
        (dict(data__source="web"), "source 'web' is not known; choose from synthetic, folder"),
        (dict(data__source="folder"), "config.data.root is empty; set it to the folder"),
        (dict(init__allow_partial=True), "allow_partial needs config.init.weights, the file"),
        (dict(model__dtype="int8"), "dtype 'int8' is not known; choose from float32, bfloat16"),
        (dict(optimizer__method="adam"), "method 'adam' is not known; choose from sgd, muon"),
        (dict(augment__crop_height=100), "crop_height 100 .* multiple of 32 .*such as 96"),
        (dict(augment__crop_width=0), "crop_width 0 must be a positive .* such as 32"),
        (dict(augment__enlarge=2, augment__crop_width=40), "multiple of 16 .*such as 48"),
        (dict(augment__enlarge=2, augment__shrink=2), "undo each other; leave one of them"),
        (dict(augment__enlarge=3), "config.augment.enlarge 3 must be .*2"),
        (dict(augment__scales=()), r"scales \(\) must hold positive factors, such as \(1.0,\)"),
        (dict(augment__scales=(1.0, -1.0)), r"scales \(1.0, -1.0\) must hold positive"),
        (dict(loss__booster_weights=(1.0,)), r"\(1.0,\) must hold four weights, for Stem"),
        (dict(loss__booster_weights=(1.0, -2.0, 1.0, 1.0)), "weights -2.0 must be at least 0"),
        (dict(data__std=(0.2, 0.0, 0.2)), "config.data.std 0.0 must be between 1e-06"),
        (dict(data__std=(0.2, 58.4, 0.2)), "largest of config.data.std 58.4 must be between"),
        (dict(data__mean=(0.4, 123.7, 0.4)), "data.mean 123.7 must be between 0 and 1"),
        (dict(data__mean=(0.4, -0.1, 0.4)), "data.mean -0.1 must be between 0 and 1"),
        (dict(train__seed=-1), "config.train.seed -1 must be between 0 and 2147483647"),
    ],
)
def test_rule(fields, message):
    with pytest.raises(ConfigError, match=message):
        validate(changed(**fields))


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            dict(augment__scale_range=(0.5, 2.0), augment__scales=(1.0,)),
            r"scales \(1.0,\) has no effect with config.augment.scale_range \(0.5, 2.0\)",
        ),
        (dict(loss__ohem_threshold=0.6), "ohem_threshold 0.6 has no effect with .*ohem False"),
        (dict(loss__ohem_min_share=0.5), "ohem_min_share 0.5 .*; set it to 0.0625 or leave it"),
        (dict(optimizer__warmup_start=0.5), "warmup_start 0.5 has no effect with .*steps 0"),
        (
            dict(
                model__frozen_batch_norm=True,
                init__weights="w.safetensors",
                model__batch_norm_momentum=0.99,
            ),
            "batch_norm_momentum 0.99 has no effect with config.model.frozen_batch_norm",
        ),
        (
            dict(data__source="camvid", data__root="camvid", data__height=720),
            "data.height 720 has no effect with config.data.source 'camvid'; set it to 256",
        ),
    ],
)
def test_a_field_without_effect_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        refuse_idle_fields(validate(changed(**fields)))


@pytest.mark.parametrize(
    "fields",
    [
        dict(train__batch_size=1, model__use_context_embedding=False),
        dict(train__batch_size=1, model__fusion="detail", loss__booster_weights=(0.0,) * 4),
        dict(train__batch_size=1, model__frozen_batch_norm=True, init__weights="w"),
        dict(train__micro_batches=8),
        dict(optimizer__method="muon", optimizer__learning_rate=0.01),
        dict(loss__main_weight=0.0),
    ],
    ids=str,
)
def test_what_a_rule_leaves_alone(fields):
    validate(changed(**fields))


def test_legal_keys():
    keys = config_file.legal_keys()
    assert {"config.train.steps", "config.model.preset", "config.data.mean"} <= set(keys)
    leaves = sum(len(section) for section in to_dict(Config()).values())
    assert len(keys) == len(set(keys)) == leaves


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.py")), ids=lambda path: path.stem)
def test_config_file_is_valid_and_says_how_to_run_it(path):
    content = runpy.run_path(str(path))
    config = validate(content["get_config"]())
    # A class file of one's own is not there yet.
    if not config.data.classes.endswith(".json"):
        assert len(find_class_set(config.data.classes)) > 1
    head = content["__doc__"]
    command = rf"python train.py --config configs/{path.name}(:\w+)? --workdir runs/"
    assert re.search(command, head)
    says_where = ("--config.data.root=", f"--data_dir {config.data.root}", "ROOT/train")
    assert any(text in head for text in says_where) == (config.data.source != "synthetic")


# The common start of every script, in a process of its own


SCRIPT = '''
"""Prints what it was told."""
from absl import flags
from ml_collections import config_flags
from bisenet_jax import command_line, config_file

CONFIG = config_flags.DEFINE_config_file("config", None, "a file with get_config")
WORKDIR = flags.DEFINE_string("workdir", None, "where to write")

def main():
    print(config_file.to_dict(command_line.read_config(CONFIG.value, WORKDIR.value)))

if __name__ == "__main__":
    command_line.run(main, __doc__)
'''


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "tell.py"
    path.write_text(SCRIPT, encoding="utf-8")

    def call(*arguments):
        return subprocess.run(
            [sys.executable, str(path), *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
        )

    return call


FILE = "--config=configs/synthetic.py"
ROWS = "--config=configs/ablations/camvid.py"


def test_script_applies_overrides(script):
    result = script(
        FILE,
        "--config.train.steps=4",
        "--config.model.head_channels=8",
        "--config.loss.ohem=True",
        "--config.augment.scales=(0.5, 1.0)",
    )
    assert (result.returncode, result.stderr) == (0, "")
    told = eval(result.stdout)
    assert told["train"]["steps"] == 4 and told["model"]["head_channels"] == 8
    assert told["loss"]["ohem"] is True and told["augment"]["scales"] == [0.5, 1.0]


def test_script_takes_a_row_and_overrides_on_top(script):
    result = script(f"{ROWS}:large", "--config.model.depth=2")
    assert (result.returncode, result.stderr) == (0, "")
    told = eval(result.stdout)
    assert (told["model"]["width"], told["model"]["depth"]) == (2.0, 2)
    assert told["data"]["source"] == "camvid" and told["loss"]["ohem"] is True


@pytest.mark.parametrize(
    "arguments, messages",
    [
        (
            [FILE, "--config.train.stepz=4"],
            ["config.train.stepz is not a field", "did you mean config.train.steps?"],
        ),
        ([FILE, "--config.train.steps=many"], ["config.train.steps", "many"]),
        ([FILE, "--config.train.steps=0"], ["config.train.steps 0 must be at least 1"]),
        (["--config=nowhere.py"], ["--config 'nowhere.py' is not a file"]),
        ([f"{FILE}:large"], ["'configs/synthetic.py' has no rows to choose 'large' from"]),
        ([f"{ROWS}:larg"], ["row 'larg' is not known", "one of detail_only, ", " large, "]),
        ([ROWS], ["no row is given; give --config FILE:ROW with one of detail_only, "]),
        ([FILE, "--workdri=x"], ["workdri"]),
        ([FILE, "stray"], ["argument 'stray' is not a flag"]),
        ([], ["no configuration: give --config FILE"]),
    ],
    ids=[
        *("unknown key", "wrong type", "broken rule", "no file", "no rows", "unknown row"),
        *("no row", "no flag", "stray", "nothing"),
    ],
)
def test_script_refuses(arguments, messages, script):
    result = script(*arguments)
    assert result.returncode == 2
    assert result.stdout == "" and "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")
    assert all(message in result.stderr for message in messages), result.stderr


def test_unknown_key_lists_the_legal_ones(script):
    told = script(FILE, "--config.train.stepz=4").stderr
    section = [key for key in config_file.legal_keys() if key.startswith("config.train.")]
    assert len(section) > 5 and all(key in told for key in section)


def test_script_help(script):
    result = script("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "Prints what it was told." in result.stdout and "--workdir" in result.stdout
