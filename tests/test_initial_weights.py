"""A run that starts from a weights file has its numbers, and says which it has not."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

import train
from benchmarks.tiny import narrow_model
from bisenet_jax.config import InitConfig
from bisenet_jax.data.classes import CAMVID, CITYSCAPES
from bisenet_jax.errors import WeightsError
from bisenet_jax.model.bisenetv2 import without_boosters
from bisenet_jax.model.presets import build_model
from bisenet_jax.normalization import Normalization
from bisenet_jax.training.initial_weights import read_initial_weights, start_from
from bisenet_jax.training.run import read_run
from bisenet_jax.training.state import create_state
from bisenet_jax.weights import Weights, read_weights, write_weights


@pytest.fixture(scope="module")
def model():
    """That of `tiny_config`."""
    fields = dataclasses.asdict(narrow_model(semantic_repeats=(1, 1, 2)))
    return build_model(num_classes=19, **fields)


@pytest.fixture(scope="module")
def drawn(model):
    """The start of a run without a file."""
    return create_state(model, optax.sgd(0.1), seed=0)


@pytest.fixture(scope="module")
def weights(model):
    """Of the same network, every number another than at its own start."""
    state = create_state(model, optax.sgd(0.1), seed=7)
    variables = jax.tree.map(lambda leaf: np.asarray(leaf) + np.float32(0.25), state.variables)
    normalization = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return Weights(model, variables, CITYSCAPES, normalization, preset="paper")


def flat(variables):
    return flatten_dict(jax.device_get(variables), sep="/")


def assert_from(start_names, state, weights):
    found, there = flat(state.variables), flat(weights.variables)
    for name in start_names:
        np.testing.assert_array_equal(found[name], there[name])


def test_everything_is_taken(drawn, weights):
    state, start = start_from(drawn, weights, CITYSCAPES)
    assert set(start.loaded) == flat(state.variables).keys()
    assert_from(start.loaded, state, weights)
    assert not (start.skipped or start.fresh or start.mismatched or start.other_classes)
    assert state.step == 0 and jax.tree.structure(state) == jax.tree.structure(drawn)
    assert "booster_stem" in start.describe()


def test_boosters_that_are_not_there_stay_as_drawn(drawn, weights):
    bare = dataclasses.replace(weights, variables=without_boosters(weights.variables))
    state, start = start_from(drawn, bare, CITYSCAPES)
    assert start.fresh and all("/booster_" in name for name in start.fresh)
    assert_from(start.fresh, state, drawn)
    assert_from(start.loaded, state, bare)
    assert "not in the file, drawn at random: booster_" in start.describe()


@pytest.mark.parametrize("count", [11, 19])
def test_classifiers_of_other_classes_are_drawn_anew(model, weights, count):
    renamed = dataclasses.replace(CITYSCAPES, names=tuple(f"c{i}" for i in range(19)))
    class_set = {11: CAMVID, 19: renamed}[count]
    network = model.clone(num_classes=count)
    before = create_state(network, optax.sgd(0.1), seed=0)
    state, start = start_from(before, weights, class_set)
    assert len(start.other_classes) == 2 * 5
    assert all("/classifier/" in name for name in start.other_classes)
    assert_from(start.other_classes, state, before)
    assert_from(start.loaded, state, weights)
    assert "params/head/conv/conv/kernel" in start.loaded
    assert "of other classes, drawn at random: params/booster_s3/class" in start.describe()


def test_another_network_is_refused_unless_a_part_will_do(
    tmp_path, tiny_config, model, weights, capsys
):
    path = tmp_path / "weights"
    write_weights(path, weights)
    tiny_config.init = InitConfig(weights=str(path))
    other = model.clone(head_channels=16, bga_relu=True, semantic_repeats=(1, 1, 1))
    with pytest.raises(WeightsError) as refused:
        read_initial_weights(tiny_config, other)
    for part in ("head_channels 8, here 16", "bga_relu False, here True", "allow_partial"):
        assert part in str(refused.value)
    # Without its boosters the file says nothing of theirs.
    assert read_initial_weights(tiny_config, model.clone(booster_form="upsampling"))
    capsys.readouterr()

    tiny_config.init.allow_partial = True
    read = read_initial_weights(tiny_config, other)
    assert "bga_relu False, here True" in capsys.readouterr().out
    before = create_state(other, optax.sgd(0.1), seed=0)
    state, start = start_from(before, read, CITYSCAPES)
    assert start.mismatched["params/head/conv/bn/scale"] == ((8,), (16,))
    assert {name.split("/")[2] for name in start.skipped} == {"s5_2"}
    assert_from(start.loaded, state, weights)
    assert_from(start.mismatched, state, before)
    told = start.describe()
    assert "params/head/conv/bn/scale [8], here [16]" in told and "s5_2" in told

    nothing = dataclasses.replace(weights, variables={"params": {}, "batch_stats": {}})
    with pytest.raises(WeightsError, match="no tensor of config.init.weights fits"):
        start_from(before, nothing, CITYSCAPES)


def test_inputs_that_differ_are_told(tmp_path, tiny_config, model, weights, capsys):
    tiny_config.init = InitConfig(weights=str(tmp_path / "weights"))
    write_weights(tmp_path / "weights", weights)
    read_initial_weights(tiny_config, model)
    assert capsys.readouterr().out == ""
    tiny_config.data.mean = (0.5, 0.5, 0.5)
    tiny_config.augment.shrink = 2
    read_initial_weights(tiny_config, model)
    told = capsys.readouterr().out
    assert "mean=(0.485, 0.456, 0.406)" in told and "mean=(0.5, 0.5, 0.5)" in told
    assert "input scale 1, this run at 0.5" in told


def test_a_run_starts_from_the_file_and_goes_on_without_it(
    tmp_path, tiny_config, weights, capsys, monkeypatch
):
    path, workdir = tmp_path / "weights", tmp_path / "run"
    write_weights(path, weights, with_boosters=True)
    numbers = read_weights(path).variables["params"]
    tiny_config.init = InitConfig(weights=str(path))
    tiny_config.train.steps, tiny_config.train.evaluate_every = 3, 3
    # Without a step size nothing but the statistics can move.
    tiny_config.optimizer.learning_rate = 0.0
    real_report = train.finite.require_finite

    def cut_off(step, *rest):
        real_report(step, *rest)
        if step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(train.finite, "require_finite", cut_off)
    with pytest.raises(KeyboardInterrupt):
        train.train(tiny_config, workdir)
    monkeypatch.undo()
    told = capsys.readouterr().out
    assert f"starting from {path}" in told and "loaded: aggregation 27, booster" in told
    early = read_run(workdir, "latest")
    assert early.step == 2
    jax.tree.map(np.testing.assert_array_equal, early.variables["params"], numbers)

    path.unlink()
    assert train.train(tiny_config, workdir)["first_step"] == 3
    assert "starting from" not in capsys.readouterr().out
    late = read_run(workdir, "latest")
    jax.tree.map(np.testing.assert_array_equal, late.variables["params"], numbers)
    # The statistics went on from those of step 2: a tenth of a step's own at most is new.
    means = [
        run.variables["batch_stats"]["detail_branch"]["s1_1"]["bn"]["mean"]
        for run in (weights, early, late)
    ]
    assert np.all(np.abs(means[2] - means[0]) > np.abs(means[1] - means[0]))
    assert late.training is not None and late.training["init"]["weights"] == "weights"

    # A new run needs the file, and claims no folder without it.
    with pytest.raises(WeightsError, match="neither a file nor"):
        train.train(tiny_config, tmp_path / "new")
    assert not (tmp_path / "new").exists()
