"""The loop: a run learns, resumes to the same bits, and stops with words that help."""

import dataclasses
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import train
from bisenet_jax import config_file, parallel
from bisenet_jax.config import Config, DataConfig
from bisenet_jax.data.sources import open_source
from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.errors import ConfigError, TrainingError
from bisenet_jax.evaluation.evaluate import make_evaluate_step
from bisenet_jax.evaluation.network import open_run
from bisenet_jax.evaluation.validation import score
from bisenet_jax.fast.network import fasten
from bisenet_jax.model.presets import build_model
from bisenet_jax.normalization import Normalization
from bisenet_jax.protocol import protocol_of_scale
from bisenet_jax.training import checkpoint
from bisenet_jax.training.logs import read_log
from bisenet_jax.training.optimizer import make_optimizer
from bisenet_jax.training.run import read_run
from bisenet_jax.training.state import TrainState, create_state, start_state
from bisenet_jax.training.step import make_train_step
from bisenet_jax.training.stop import Stop

ROOT = Path(__file__).parent.parent


def read_state(workdir: Path, options: Config, step: int) -> TrainState:
    model = build_model(**dataclasses.asdict(options.model))
    template = jax.eval_shape(lambda: start_state(model, options))
    with checkpoint.open_checkpoints(workdir) as saved:
        mesh = parallel.make_mesh(jax.devices()[:1])
        return checkpoint.restore(saved, step, template, mesh)


def log_without_clock(workdir: Path) -> list[dict]:
    clocked = {"images_per_second", "step_seconds", "wait_share", "teraflops_per_second"}
    for line in read_log(workdir / "log.jsonl"):
        assert line["group"] != "train" or all(line[name] >= 0 for name in clocked)
    return [
        {name: value for name, value in line.items() if name not in clocked}
        for line in read_log(workdir / "log.jsonl")
    ]


@pytest.mark.parametrize("options", ["paper", "all"])
def test_run_then_interrupted_run_end_with_the_same_bits(
    options, tmp_path, tiny_config, monkeypatch
):
    if options == "all":
        tiny_config.optimizer.ema_decay, tiny_config.optimizer.clip_norm = 0.9, 5.0
        tiny_config.train.micro_batches, tiny_config.train.remat = 2, True
        tiny_config.train.max_skipped_steps, tiny_config.train.deterministic = 1, True
        tiny_config.optimizer.method = "muon"
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    summary = train.train(tiny_config, straight)

    assert summary["steps"] == 6 and 0 < summary["miou"] < 1
    assert config_file.load(straight) == tiny_config
    lines = log_without_clock(straight)
    assert [line["step"] for line in lines if line["group"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if line["group"] == "val"] == [3, 6]
    assert [line["shut_channels"] for line in lines if line["group"] == "val"] == [0, 0]
    losses = [line["loss"] for line in lines if line["group"] == "train"]
    assert losses[-1] < losses[0]
    assert any((straight / "tensorboard").iterdir())
    kept = {int(path.name) for path in (straight / checkpoint.FOLDER).iterdir()}
    assert {4, 6} <= kept and 2 not in kept

    real, reports = train.finite.is_finite, itertools.count(1)

    def cut_off(values: dict) -> bool:
        if next(reports) == 5:
            raise KeyboardInterrupt
        return real(values)

    monkeypatch.setattr(train.finite, "is_finite", cut_off)
    with pytest.raises(KeyboardInterrupt):
        train.train(tiny_config, broken)
    monkeypatch.undo()
    assert train.train(tiny_config, broken)["first_step"] == 5

    one, other = (read_state(path, tiny_config, 6) for path in (straight, broken))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert log_without_clock(broken) == lines

    if options == "all":
        require_average_as_result(straight, one, tiny_config, summary["miou"])

    # A finished run answers at once, and another configuration is not mixed into it.
    again = train.train(tiny_config, broken)
    assert again["first_step"] == 7 and again["miou"] == summary["miou"]
    tiny_config.optimizer.learning_rate = 0.5
    with pytest.raises(ConfigError, match=r"config.optimizer.learning_rate 0.02, now 0.5"):
        train.train(tiny_config, broken)


def require_average_as_result(workdir, state, options, miou) -> None:
    """What was scored, and is read back and exported, is the average and nothing else."""
    weights = read_run(workdir, "latest")
    jax.tree.map(np.testing.assert_array_equal, weights.variables, state.ema)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.ema, state.variables)
    assert min(jax.tree.leaves(moved["params"]["head"])) > 0
    assert min(jax.tree.leaves(moved["batch_stats"]["head"])) > 0
    mesh = parallel.make_mesh()
    scored = open_run(workdir, options.data, "latest", mesh)
    model = build_model(**dataclasses.asdict(options.model))
    expected = fasten(model, jax.device_get(state.ema))[1]
    jax.tree.map(np.testing.assert_array_equal, scored.parameters, expected)
    # The mIoU of the log belongs to these variables, not to those trained last.
    normalization = Normalization(options.data.mean, options.data.std)
    protocol = protocol_of_scale(options.augment.input_scale)
    step = make_evaluate_step(scored.network, normalization, mesh, protocol)
    rest = (open_source(options.data, "val"), options, mesh, Stop(agree_every=1))
    last_trained = dataclasses.replace(state, ema=None)
    found, _ = score(scored.network, step, state, *rest)
    last, _ = score(scored.network, step, last_trained, *rest)
    assert found.miou == miou and last.pixel_accuracy != found.pixel_accuracy


def test_one_device_equals_two(tiny_config):
    tiny_config.loss.ohem = True
    # Rounding differs between one sum and two halves; a small step does not amplify it.
    tiny_config.optimizer.learning_rate = 0.001
    model = build_model(**dataclasses.asdict(tiny_config.model))
    optimizer = make_optimizer(tiny_config.optimizer, tiny_config.train.steps)
    source = open_source(tiny_config.data, "train")
    examples = [source[index] for index in range(4)]
    batch = {
        name: np.stack([example[name] for example in examples]) for name in ("image", "label")
    }
    batch["size"] = np.tile(np.int32(batch["label"].shape[1:]), (4, 1))
    results = []
    for count in (1, 2):
        mesh = parallel.make_mesh(jax.devices()[:count])
        step = parallel.compile_train_step(make_train_step(model, optimizer, tiny_config), mesh)
        state = parallel.replicate(create_state(model, optimizer, seed=0), mesh)
        for _ in range(3):
            state, metrics = step(state, parallel.split_batch(batch, mesh))
            jax.block_until_ready(metrics)
        assert len(state.params["head"]["classifier"]["kernel"].devices()) == count
        results.append(jax.device_get((state, metrics)))
    (one, one_metrics), (two, two_metrics) = results

    def require_close(first: np.ndarray, second: np.ndarray) -> None:
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)

    jax.tree.map(require_close, one.params, two.params)
    for name in one_metrics.keys() - {"gradient_norm"}:
        require_close(one_metrics[name], two_metrics[name])
    # Variances over four images lose digits: their means lie far closer than their size.
    jax.tree.map(
        lambda first, second: np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5),
        one.batch_stats,
        two.batch_stats,
    )
    # The parameters moved by far more than they differ.
    start = create_state(model, optimizer, seed=0).params["head"]["classifier"]["kernel"]
    assert np.abs(one.params["head"]["classifier"]["kernel"] - start).max() > 3e-4


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, tiny_config):
    tiny_config.optimizer.learning_rate = 1e30
    with pytest.raises(TrainingError) as stopped:
        train.train(tiny_config, tmp_path / "run")
    message = str(stopped.value)
    for part in ("no longer finite", "loss_main", "street_", "learning_rate", "checkpoint"):
        assert part in message
    # Nothing that is no number was saved.
    for path in (tmp_path / "run" / checkpoint.FOLDER).iterdir():
        state = read_state(tmp_path / "run", tiny_config, int(path.name))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("train", "batch_size", 3, "batch_size 3 must be divisible by the 2 devices; use 2"),
        ("train", "evaluate_batch_size", 1, "evaluate_batch_size 1 must be divisible"),
        ("train", "micro_batches", 4, "batch_size / config.train.micro_batches 1 must be"),
        ("model", "dtype", "float16", "float16 needs loss scaling"),
        ("data", "classes", "camvid", "does not fit the source 'synthetic'"),
        ("model", "bga_upsampling", "cubic", "'cubic' is not known; choose from"),
        ("model", "expansion_place", "head", "expansion_place 'head' is not known"),
        ("model", "initialization", "zeros", "initialization 'zeros' is not known"),
        ("model", "semantic_branch", "resnet18", "has no effect with semantic_branch"),
        ("loss", "class_weights", (1.0, 2.0), "holds 2 weights for 19 classes"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(
    tmp_path, tiny_config, section, field, value, message
):
    setattr(getattr(tiny_config, section), field, value)
    with pytest.raises(ConfigError, match=message):
        train.train(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_trace_is_written_where_tensorboard_looks(tmp_path, tiny_config, capsys):
    workdir = tmp_path / "run"
    with pytest.raises(ConfigError, match="--profile 4 needs 7 steps"):
        train.train(tiny_config, workdir, profile=4)
    assert not workdir.exists()
    train.train(tiny_config, workdir, profile=2)
    assert list((workdir / "tensorboard/plugins/profile").glob("*/perfetto_trace.json.gz"))
    assert "trace in" in "".join(capsys.readouterr())


def test_classes_may_be_called_as_the_log_calls_its_own(tmp_path, tiny_config):
    for split, part in itertools.product(("train", "val"), ("images", "labels")):
        (tmp_path / split / part).mkdir(parents=True)
    for split, index in itertools.product(("train", "val"), range(4)):
        image, label = draw_street(0, index, 64, 128)
        Image.fromarray(image).save(tmp_path / f"{split}/images/{index}.png")
        Image.fromarray(label % 3).save(tmp_path / f"{split}/labels/{index}.png")
    names = ("step", "group", "miou")
    classes = [{"name": name, "colour": [i, i, i]} for i, name in enumerate(names)]
    (tmp_path / "classes.json").write_text(json.dumps({"name": "mine", "classes": classes}))
    tiny_config.data = DataConfig("folder", str(tmp_path), str(tmp_path / "classes.json"))
    tiny_config.train.steps = 2
    summary = train.train(tiny_config, tmp_path / "run")
    line = read_log(tmp_path / "run" / "log.jsonl")[-1]
    assert (line["step"], line["group"], line["miou"]) == (2, "val", summary["miou"])
    ious = [line[f"iou/{name}"] for name in names]
    assert line["miou"] == pytest.approx(np.nanmean(np.array(ious, float)))


def run_script(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def test_scripts_from_training_to_scores(tmp_path):
    """The commands of the README on a narrow network: train, then evaluate its workdir."""
    model = {
        "detail_channels": (8, 8, 16),
        "semantic_late_channels": (8, 16),
        "semantic_repeats": (1, 1, 2),
        "head_channels": 8,
        "booster_channels": (4, 4, 4, 4),
    }
    workdir, scores_file, pictures = (tmp_path / name for name in ("run", "s.json", "pictures"))
    trained = run_script(
        "train.py",
        *("--config", "configs/synthetic.py", "--workdir", str(workdir)),
        *(f"--config.model.{name}={value}" for name, value in model.items()),
        *("--config.train.steps=2", "--config.train.batch_size=2", "--config.data.height=64"),
        *("--config.data.width=128", "--config.data.val_images=3"),
        *("--config.augment.crop_height=64", "--config.augment.crop_width=64"),
    )
    assert trained.returncode == 0, trained.stderr
    assert "mIoU" in trained.stderr + trained.stdout

    evaluated = run_script(
        "evaluate.py",
        *("--workdir", str(workdir), "--json", str(scores_file), "--save_dir", str(pictures)),
        *("--pictures", "2"),
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert "traffic light" in evaluated.stdout and "128x64" in evaluated.stdout
    scores = json.loads(scores_file.read_text())
    assert {"miou", "pixel_accuracy", "class_iou", "images", "split", "protocol"} <= set(scores)
    assert scores["images"] == 3 and scores["split"] == "val" and len(scores["class_iou"]) == 19
    known = [value for value in scores["class_iou"].values() if value is not None]
    assert math.isclose(scores["miou"], sum(known) / len(known))
    assert len(list(pictures.glob("*.png"))) == 2

    absent = run_script("evaluate.py", "--workdir", str(workdir), "--checkpoint", "7")
    assert absent.returncode == 2 and "no checkpoint of step 7" in absent.stderr


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "bench.py"])
def test_help_and_bad_flags(script):
    shown = run_script(script, "--help")
    assert shown.returncode == 0 and "--workdir" in shown.stdout
    assert "Traceback" not in shown.stderr
    wrong = run_script(
        script, "--config", "configs/synthetic.py", "--workdir", "w", "--config.train.stepz=4"
    )
    assert wrong.returncode == 2
    assert "did you mean config.train.steps?" in wrong.stderr
    assert "config.train.batch_size" in wrong.stderr and "Traceback" not in wrong.stderr


def test_a_field_without_effect_is_refused_where_a_run_begins(tmp_path):
    command = ("--config", "benchmarks/tiny.py", "--workdir", str(tmp_path / "run"))
    done = run_script("train.py", *command, "--config.loss.ohem_threshold=0.5")
    assert done.returncode == 2 and "has no effect with config.loss.ohem False" in done.stderr
    assert not (tmp_path / "run").exists()
