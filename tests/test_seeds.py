"""Variants are trained with the same seeds and compared seed by seed."""

import json

import pytest

from benchmarks import seeds


def test_what_is_compared():
    lines = seeds.compare({"all": {0: 0.5, 1: 0.6}, "none": {0: 0.4, 1: 0.56}})
    first, second = lines
    assert first["first_is_ahead_by"] == first["deviation_of_that"] == 0
    assert second["mean"] == pytest.approx(0.48)
    assert second["deviation"] == pytest.approx(0.16 / 2**0.5)
    # Seed by seed: 0.1 and 0.04.
    assert second["first_is_ahead_by"] == pytest.approx(0.07)
    assert second["deviation_of_that"] == pytest.approx(0.06 / 2**0.5)
    assert "50.00        60.00        55.00         7.07" in seeds.table(lines)
    (alone,) = seeds.compare({"all": {0: 0.5}})
    assert alone["deviation"] is None and seeds.table([alone]).endswith("-")


@pytest.mark.parametrize(
    "wrong",
    [
        ["--variant", "no name"],
        ["--variant", "a=", "--variant", "a=--x"],
        ["--variant", "a=", "--seeds", "0,0"],
        ["--variant", "a=", "--seeds", "0,b"],
    ],
)
def test_wrong_flags(wrong, capsys):
    with pytest.raises(SystemExit, match="2"):
        seeds.main(["--config", "c.py", "--workdir", "w", *wrong])
    assert "error" in capsys.readouterr().err


def test_each_variant_is_trained_with_the_seed(tmp_path, capfd):
    command = ["--config=benchmarks/tiny.py", f"--workdir={tmp_path / 'runs'}"]
    command += ["--variant", "boosters=", "--seeds=3", f"--json={tmp_path / 'told.json'}"]
    command += ["--variant", "none=--config.loss.booster_weights=(0.0,0.0,0.0,0.0)"]
    command += ["--", "--config.train.steps=2", f"--config.data.root={tmp_path}"]
    assert seeds.main(command) == 0
    told = json.loads((tmp_path / "told.json").read_text())
    assert [(run["variant"], run["last_step"]) for run in told["runs"]] == [
        ("boosters", 2),
        ("none", 2),
    ]
    boosted, plain = told["rows"]
    assert boosted["miou"].keys() == plain["miou"].keys() == {"3"} and boosted != plain
    assert told["flags"] == ["--config.train.steps=2"]
    for variant, weight in (("boosters", 1.0), ("none", 0.0)):
        saved = json.loads((tmp_path / "runs" / f"{variant}_3" / "config.json").read_text())
        assert saved["loss"]["booster_weights"] == [weight] * 4 and saved["train"]["seed"] == 3
    assert all(run["seconds"] > 0 for run in told["runs"])
    # Of runs that are there already, the last start's time is not the run's.
    assert seeds.main(command) == 0
    again = json.loads((tmp_path / "told.json").read_text())
    assert again["rows"] == told["rows"] and not any(run["seconds"] for run in again["runs"])
    # What fails is said.
    assert seeds.main([*command, "--config.train.batch_size=0"]) == 1
    assert "train.py ended with code 2" in capfd.readouterr().err


def test_a_second_stage_starts_from_its_own_first(monkeypatch, tmp_path):
    asked_for = []
    told = {"miou": 0.5, "stopped_by": None, "first_step": 1}
    monkeypatch.setattr(seeds, "train", lambda *run: asked_for.append(run) or told)
    command = ["--config=c.py", f"--workdir={tmp_path}", "--seeds=0,4", "--variant", "a="]
    command += ["--variant", "b=--b={run}", "--", "--config.init.weights={run}.safetensors"]
    assert seeds.main(command) == 0
    assert [run[2] for run in asked_for] == [
        ["--config.init.weights=a_0.safetensors"],
        ["--config.init.weights=b_0.safetensors", "--b=b_0"],
        ["--config.init.weights=a_4.safetensors"],
        ["--config.init.weights=b_4.safetensors", "--b=b_4"],
    ]


@pytest.mark.parametrize(
    "told, reason",
    [
        ({"miou": None, "stopped_by": "SIGTERM"}, "SIGTERM"),
        ({"miou": None, "stopped_by": None}, "no labelled pixel"),
    ],
)
def test_a_run_without_a_score_is_no_result(told, reason, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(seeds, "train", lambda *run: told)
    summary = tmp_path / "told.json"
    command = ["--config=c.py", f"--workdir={tmp_path}", "--variant", "a=", f"--json={summary}"]
    assert seeds.main(command) == 1
    assert reason in capsys.readouterr().err and not summary.exists()
