"""Balanced sampling: rare classes come up more often, and a place is a function of its seed."""

import json
from contextlib import closing
from itertools import islice

import numpy as np
import pytest

import train
from bisenet_jax.config import Config, DataConfig, TrainConfig
from bisenet_jax.data import sampling, statistics
from bisenet_jax.data.class_sets import find_class_set, find_labelling
from bisenet_jax.data.classes import CITYSCAPES, IGNORE
from bisenet_jax.data.example import Batch, Example
from bisenet_jax.data.loader import training_batches
from bisenet_jax.data.pairs import Pair, PairSource
from bisenet_jax.data.sampling import balanced, class_chances, frames_of_classes
from bisenet_jax.data.sources import open_batches, open_sampler, open_source
from bisenet_jax.errors import ConfigError

FRAMES = 100
RARE = (7, 42)  # the only frames of the rare class


def drawn(index: int) -> Example:
    """Road and sky everywhere, a train on two frames, one pixel of bus on one other."""
    label = np.zeros((40, 50), np.uint8)
    label[:10] = 10
    label[10] = IGNORE
    if index in RARE:
        label[20:22, :25] = 16
    if index == 50:
        label[30, 30] = 15
    image = np.full((40, 50, 3), index, np.uint8)
    return {"image": image, "label": label, "name": f"n{index}"}


class Drawn:
    def __init__(self, count: int = FRAMES) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        return drawn(index)


def write(path, source, class_set=CITYSCAPES):
    frames = [statistics.count(source[index]) for index in range(len(source))]
    statistics.write(path, frames, class_set, "train")
    return statistics.read(path)


@pytest.fixture
def counts(tmp_path):
    return write(tmp_path / "statistics.json", Drawn())


def places(counts, seed: int, number: int) -> list[int]:
    order = balanced(counts)(seed)
    return [int(order[place]) for place in range(number)]


def test_class_chances_by_hand(counts):
    bus, train = 1, 100
    sky = FRAMES * 500
    road = FRAMES * (2000 - 500 - 50) - bus - train
    weights = {c: (p / (sky + road + bus + train)) ** -0.5
               for c, p in ((0, road), (10, sky), (15, bus), (16, train))}  # fmt: skip
    total = sum(weights.values())
    chances = class_chances(counts)
    for class_id in (0, 10):
        assert chances[class_id] == pytest.approx(weights[class_id] / total)
    # Both rare classes would flood the order: one frame in a hundred, ten times as often.
    assert weights[15] / total > 0.1 and weights[16] / total > 0.2 * 0.3
    assert chances[15] == pytest.approx(0.1)
    assert chances[16] == pytest.approx(min(weights[16] / total, 0.2))


def test_frames_that_stand_for_a_class(counts):
    groups = frames_of_classes(counts)
    assert groups.keys() == {0, 10, 15, 16}
    assert groups[16].tolist() == list(RARE)
    assert groups[15].tolist() == [50]  # no frame has enough of it: then any will do
    assert groups[0].tolist() == list(range(FRAMES))
    plenty, little = {0: 900, 16: 100}, {0: 1_000_000, 16: 1}
    few = counts._replace(names=["a", "b"], label_pixels=[plenty, little])
    assert frames_of_classes(few)[16].tolist() == [0]


def test_rare_class_is_shown_as_often_as_its_chance_says(counts):
    number = 4000
    shown = np.bincount(places(counts, 0, number), minlength=FRAMES) / number
    chances = class_chances(counts)
    alike = (1 - sum(chances.values()) + chances[0] + chances[10]) / FRAMES
    for group, class_id in ((list(RARE), 16), ([50], 15)):
        expected = chances[class_id] + len(group) * alike
        tolerance = 5 * np.sqrt(expected / number)
        assert abs(shown[group].sum() - expected) < tolerance
        assert shown[group].sum() > 3 * len(group) / FRAMES
    # No other frame is forgotten.
    assert (shown > 0).all()


def test_a_place_is_a_function_of_seed_and_place(counts):
    order = balanced(counts)(5)
    first = [int(order[place]) for place in range(60)]
    assert [int(order[place]) for place in reversed(range(60))] == first[::-1]
    assert places(counts, 5, 60) == first
    assert places(counts, 6, 60) != first
    # Far into a long run, too.
    assert 0 <= int(order[10**12]) < FRAMES


def take(count: int, counts, **options) -> list[Batch]:
    options = {"batch_size": 4, "seed": 3, "sampler": balanced(counts)} | options
    with closing(training_batches(Drawn(), **options)) as batches:
        return list(islice(batches, count))


def names(batches: list[Batch]) -> list[list[str]]:
    return [batch["name"] for batch in batches]


@pytest.mark.parametrize(
    "options", [{"threads": 0}, {"threads": 3}, {"workers": 1}, {"workers": 2, "threads": 1}]
)
@pytest.mark.parametrize("start_step", [0, 4])
def test_workers_threads_and_resume_change_no_batch(counts, options, start_step):
    expected = names(take(7, counts))[start_step:]
    assert names(take(7 - start_step, counts, start_step=start_step, **options)) == expected


def test_hosts_share_the_same_batches(counts):
    shares = [names(take(5, counts, process_index=i, process_count=2)) for i in range(2)]
    assert [a + b for a, b in zip(*shares, strict=True)] == names(take(5, counts))


STREETS = {"height": 64, "width": 96, "train_images": 6}


def configured(path, **data) -> Config:
    options = STREETS | {"sampling": "balanced", "statistics": str(path)} | data
    return Config(data=DataConfig(**options), train=TrainConfig(batch_size=4))


@pytest.fixture
def streets(tmp_path):
    path = tmp_path / "streets.json"
    write(path, open_source(configured(path).data, "train"))
    return path


def batches_of(config: Config) -> list[list[str]]:
    source = open_source(config.data, "train")
    sampler = open_sampler(config.data, source)
    with closing(open_batches(config, source, sampler)) as batches:
        return names(list(islice(batches, 3)))


def test_the_switch_changes_the_batches(streets):
    uniform = batches_of(configured("", sampling="uniform"))
    assert sorted(sum(uniform, [])) == [f"street_{i:06}" for i in range(6) for _ in "12"]
    assert batches_of(configured(streets)) != uniform
    assert batches_of(configured(streets)) == batches_of(configured(streets))


def change(path, **values):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | values))


def test_statistics_of_other_data_are_refused(streets, tmp_path):
    def complaint(path=streets, **data) -> str:
        config = configured(path, **data)
        source = open_source(config.data, "train")
        with pytest.raises(ConfigError) as caught:
            open_sampler(config.data, source)
        assert str(path) in str(caught.value) and "data.check" in str(caught.value)
        return str(caught.value)

    assert "counts 6 frames, but the training split has 5" in complaint(train_images=5)
    assert "was made from other labels: frame 0" in complaint(width=128)
    assert "cannot be read (No such file" in complaint(tmp_path / "absent.json")
    (tmp_path / "text.json").write_text("{")
    assert "is not JSON" in complaint(tmp_path / "text.json")
    (tmp_path / "other.json").write_text('{"images": 6}')
    assert "is not of the form" in complaint(tmp_path / "other.json")
    change(streets, class_set="camvid")
    assert "counts the 19 classes of 'camvid', but the training has the 19" in complaint()


def test_statistics_of_other_files_are_refused(tmp_path):
    counted = write(tmp_path / "s.json", Drawn(3))
    pairs = [Pair(name, tmp_path / "a", tmp_path / "b") for name in ("n0", "n1", "n2")]
    class_set, coding = find_labelling("cityscapes")
    source = PairSource([*pairs[:2], pairs[2]._replace(name="new")], coding)
    with pytest.raises(ConfigError, match="does not know the frames new; write it anew"):
        sampling.require_match(counted, source, class_set)
    with pytest.raises(ConfigError, match="has the frames in another order"):
        sampling.require_match(counted, PairSource(pairs[::-1], coding), class_set)
    # A cache knows its names as well, and only three frames would be read.
    many = write(tmp_path / "many.json", Drawn(9))
    renamed = Drawn(9)
    renamed.name = lambda index: "new" if index == 2 else f"n{index}"
    with pytest.raises(ConfigError, match="does not know the frames new; write it anew"):
        sampling.require_match(many, renamed, class_set)
    with pytest.raises(ConfigError, match="but the training has the 11 of 'camvid'"):
        sampling.require_match(counted, Drawn(3), find_class_set("camvid"))
    sampling.require_match(counted, Drawn(3), class_set)


def test_training_refuses_them_before_it_claims_its_folder(streets, tmp_path):
    config = configured(streets, train_images=5)
    with pytest.raises(ConfigError, match="counts 6 frames"):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
