"""The training benchmark at sizes that tell nothing of speed: rows, refusals, equal losses."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import asked, precision, training, training_ideas
from benchmarks.timing import Budget
from benchmarks.tiny import narrow_model
from bisenet_jax.config import Config, LossConfig, ModelConfig, OptimizerConfig
from bisenet_jax.errors import ConfigError
from bisenet_jax.training.losses import head_loss
from bisenet_jax.training.optimizer import make_schedule


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def torch_training(torch):
    from benchmarks import torch_training

    return torch_training


def small(**fields) -> Config:
    config = Config(
        model=ModelConfig(preset="coincheung"),
        # A low rate, for two small crops in a batch make the first steps wild.
        optimizer=OptimizerConfig(learning_rate=1e-4),
    )
    return training.prepare_config(dataclasses.replace(config, **fields), 2, (64, 64))


def test_rows_of_ours_and_a_peer(torch):
    calls = []
    rows = training.measure_training(
        small(loss=LossConfig(ohem=True)),
        ["torch-eager"],
        Budget(4, 1e-3),
        lambda: calls.append(None),
    )
    assert len(calls) == training.count_steps(["torch-eager"])
    assert [row["engine"] for row in rows] == [training.OURS, "torch-eager", training.WHOLE]
    assert rows[0]["ratio"] == 1
    for row in rows:
        assert (row["batch"], row["height"], row["width"]) == (2, 64, 64)
        assert row["ratio"] == row["step_ms"]["median"] / rows[0]["step_ms"]["median"]
        assert len(row["first_losses"]) == training.COMPARED_STEPS
        assert row["engine"] in training.table(rows)
    np.testing.assert_allclose(rows[0]["first_losses"], rows[1]["first_losses"], rtol=1e-2)


def test_pytorch_trains_where_jax_does(monkeypatch, torch, torch_training):
    config = small()
    model = training.build_model("coincheung", num_classes=19)
    crop = (np.zeros((2, 64, 64, 3), np.float32), np.zeros((2, 64, 64), np.uint8))
    weights = training.to_public("coincheung", training.start_state(model, config).variables)
    # A GPU that JAX was told to leave alone.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch_training, "on_gpu", lambda: False)
    step = torch_training.make_torch_step(config, 19, weights, [crop], is_compiled=False)
    assert step.batches[0][0].device.type == "cpu" and step.step_bytes() is None


def test_peers_that_are_asked_for(torch):
    assert asked.read_training_peers(None) == asked.read_training_peers(["all"])
    assert set(asked.read_training_peers(None)) == set(training.PEERS)
    assert asked.read_training_peers([]) == []
    with pytest.raises(ConfigError, match="'onnxruntime' does not train; choose from torch"):
        asked.read_training_peers(["onnxruntime"])


def test_ours_alone_needs_no_twin():
    config = small(model=narrow_model())
    config.train.max_skipped_steps, config.optimizer.ema_decay = 1, 0.9
    rows = training.measure_training(config, [], Budget(2, 1e-3))
    assert [row["engine"] for row in rows] == [training.OURS, training.WHOLE]


@pytest.mark.parametrize(
    "config, message",
    [
        (Config(), "preset 'paper' has no PyTorch twin .*preset=coincheung"),
        (small(model=ModelConfig(preset="coincheung", width=0.5)), "another network: width"),
        (small(optimizer=OptimizerConfig(method="muon")), "method muon: .* set it to sgd"),
        (small(optimizer=OptimizerConfig(ema_decay=0.9)), "ema_decay 0.9: .* set it to 0"),
    ],
)
def test_what_has_no_twin_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        training.measure_training(config, ["torch-eager"], Budget(1, 1))


def test_unequal_losses_are_refused_and_shown():
    def engine(name, losses):
        return training._Engine(name, None, losses, 0.0, None)

    ours = engine(training.OURS, [10.0, 9.0, 8.0])
    training._require_equal_losses([ours, engine("near", [10.0, 9.01, 8.01])], "float32")
    for losses in ([10.1, 9.0, 8.0], [10.0, 9.0, float("nan")]):
        with pytest.raises(ConfigError, match="10.0, 9.0, 8.0.*with far: not the same"):
            training._require_equal_losses([ours, engine("far", losses)], "float32")


@pytest.mark.parametrize(
    "config",
    [
        LossConfig(),
        LossConfig(ohem=True, ohem_threshold=0.1),
        LossConfig(ohem=True, ohem_threshold=0.0, ohem_min_share=0.3),
        LossConfig(class_weights=(0.5, 1.0, 2.0)),
        LossConfig(ohem=True, ohem_threshold=0.3, class_weights=(0.5, 1.0, 2.0)),
    ],
)
def test_loss_of_the_twin_is_ours(config, torch, torch_training):
    random = np.random.default_rng(5)
    logits = random.normal(size=(2, 8, 8, 3)).astype(np.float32)
    labels = random.integers(0, 3, (2, 8, 8))
    labels[:, :2] = 255
    theirs = torch_training.head_loss(
        torch.from_numpy(logits.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels), config
    )
    ours = head_loss(jnp.asarray(logits), jnp.asarray(labels), config)
    assert ours == pytest.approx(theirs.item(), rel=1e-5)


def test_schedule_of_the_twin_is_ours(torch_training):
    config = OptimizerConfig(warmup_steps=3)
    schedule = make_schedule(config, 10)
    for step in range(12):
        theirs = torch_training.learning_rate(config, step, 10)
        assert theirs == pytest.approx(float(schedule(step)), rel=1e-5, abs=1e-9)


def test_precision_compares_means_with_the_spread_of_seeds():
    def rows(dtype, values):
        return [{"dtype": dtype, "miou": value} for value in values]

    single = rows("float32", (0.30, 0.32, 0.31))
    found = precision.compare([*single, *rows("bfloat16", (0.30, 0.31, 0.29))])
    assert found["difference"] == pytest.approx(-0.01)
    assert found["float32_spread"] == pytest.approx(0.02) and found["is_within_spread"]
    assert not precision.compare([*single, *rows("bfloat16", (0.2, 0.2, 0.2))])[
        "is_within_spread"
    ]


def test_ideas_are_timed_beside_the_default(monkeypatch):
    monkeypatch.setattr(training_ideas, "CLASSES", 3)
    for idea in training_ideas.IDEAS:
        with idea.patch():  # what it replaces is there
            pass
    ideas = training_ideas.IDEAS[0], training_ideas.Idea("two steps", steps=2)
    rows = training_ideas.measure_ideas(
        small(model=narrow_model(preset="coincheung")), Budget(1, 1e-3), ideas
    )
    assert [row["idea"] for row in rows] == [idea.name for idea in ideas]
    for row in rows:
        assert row["ratio"] == row["step_ms"] / rows[0]["step_ms"] > 0
        assert row["idea"] in training_ideas.table(rows)


def test_an_idea_that_trains_otherwise_is_refused(monkeypatch):
    idea = training_ideas.Idea("two micro-batches", train={"micro_batches": 2})
    config = small(model=narrow_model(preset="coincheung"))
    with pytest.raises(ConfigError, match="'two micro-batches' begins with a loss of"):
        training_ideas.measure_ideas(config, Budget(1, 1e-3), (training_ideas.IDEAS[0], idea))
