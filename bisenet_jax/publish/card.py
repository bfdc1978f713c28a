"""The model card, as Markdown made of a record."""

from collections.abc import Sequence
from typing import Any

from bisenet_jax.publish.record import Record
from bisenet_jax.publish.rows import by_what, describe_miou, percent
from bisenet_jax.zoo.registry import Entry

_RARE = 0.02  # of the pixels
_RUN_HEADS = ("seed", "step", "mIoU %", "float32 %", "last step %", "minutes", "")


def render_card(record: Record, entry: Entry, notes: str) -> str:
    """The page of one network.

    Args:
        record: of it.
        entry: of its file.
        notes: Markdown written by hand, which ends the page: data, limits, uses.
    """
    name, scores = record["name"], record["scores"]
    blocks = [
        f"# {name}",
        f"{entry.summary}.",
        _facts(record, entry),
        f'```python\nimport bisenet_jax\n\nsegmenter = bisenet_jax.load("{name}")\n```',
        "## Score",
        f"**{describe_miou(record)}** mIoU, {percent(scores['pixel_accuracy'])} % pixel "
        f"accuracy. {_interval(scores)}",
        f"Protocol: {scores['protocol']}; the float16 file itself.",
        _choice(record),
        _runs(record),
        f"```bash\n{record['evaluation_command']}\n```",
        "## Classes",
        _table(
            ("class", "IoU %", "accuracy %", "pixels %", "errors go most to"), _classes(record)
        ),
        _rare(scores),
        "## Failure cases",
        _failures(record),
        "## Training",
        f"```bash\n{record['command']}\n```",
        _training(record),
        f"![Loss, learning rate and mIoU over the steps]({name}.svg)",
        f"The numbers: [{name}.log.jsonl.gz]({name}.log.jsonl.gz) (the log, thinned), "
        f"[{name}.json]({name}.json) (everything on this page).",
        f"`python -m bisenet_jax.publish` writes this page; what follows comes from "
        f"[{name}.notes.md]({name}.notes.md), written by hand.",
        notes.strip(),
    ]
    return "\n\n".join(blocks) + "\n"


def _facts(record: Record, entry: Entry) -> str:
    split = (record["final"] or {"split": record["train_split"]})["split"]
    rows = [
        ("licence", f"**{entry.licence}**"),
        ("network", _network(record)),
        (
            "file",
            f"`{entry.file}`, {entry.bytes:,} bytes; parameters float16, computed in float32",
        ),
        ("SHA-256", f"`{entry.sha256}`"),
        (
            "trained on",
            f"{record['data']} {split}, crops of {record['width']}x{record['height']}"
            f"{by_what(record)}",
        ),
        ("by", f"commit `{record['commit']}`, {record['device']}, {record['dtype']}"),
    ]
    return _table(("", ""), rows)


def _network(record: Record) -> str:
    """Which one, and how large it sees an image where that is not as it is."""
    scale = record["input_scale"]
    seen = "" if scale == 1 else f"; sees images at {_size(scale)}"
    return f"preset `{record['preset']}`, {record['parameters']:,} parameters{seen}"


def _size(scale: float) -> str:
    return "their own size" if scale == 1 else f"{scale:g} times their size"


def _choice(record: Record) -> str:
    final = record["final"]
    if final is not None:
        return (
            f"The shipped weights are those of one more run by the same recipe, on "
            f"{record['data']} {final['split']}, where no labelled frame is left to score them "
            f"by: all scores on this page are the recipe's, trained on "
            f"{record['train_split']} alone. Each run counts at its last step, as the shipped "
            "one does, so that no step is chosen by the split that is quoted. Pixel accuracy, "
            f"interval, classes and failures are of seed {record['runs'][0]['seed']}."
        )
    text = (
        "Of each run the checkpoint is the one with the best mIoU on this split, scored every "
        f"{record['evaluate_every']} steps: choosing by the split that is quoted makes the "
        "number somewhat too good."
    )
    if len(record["runs"]) > 1:
        text += (
            " So does shipping the best of the seeds; the mean ± sample standard deviation "
            "over the seeds is the number to compare with."
        )
    return text


def _runs(record: Record) -> str:
    """The table of runs, and what its columns are."""
    minutes = "Minutes: of the steps, without scoring."
    rows: list[tuple[str, ...]] = [_RUN_HEADS, *_run_rows(record)]
    text = (
        "float32: the same checkpoint as train.py scored it. Last step: the network at the end "
        f"of the run. {minutes}"
    )
    if record["input_scale"] != record["trained_scale"]:
        # No float32 network was scored for what the file's is.
        column = _RUN_HEADS.index("float32 %")
        rows = [row[:column] + row[column + 1 :] for row in rows]
        text = (
            f"mIoU: of the file, which sees images at {_size(record['input_scale'])}. Last "
            "step: the float32 network at the end of the run as train.py scored it, at "
            f"{_size(record['trained_scale'])}. {minutes}"
        )
    return f"{_table(rows[0], rows[1:])}\n\n{text}"


def _run_rows(record: Record) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (
            str(run["seed"]),
            str(run["step"]),
            percent(run["miou"]),
            percent(run["miou_float32"]),
            percent(run["miou_last"]),
            "-" if run["minutes"] is None else f"{run['minutes']:.0f}",
            "shipped" if run["is_shipped"] else "",
        )
        for run in record["runs"]
    ]
    if record["final"] is not None:
        seed, step, minutes = (record["final"][name] for name in ("seed", "step", "minutes"))
        told = "-" if minutes is None else f"{minutes:.0f}"
        shipped = f"shipped, on {record['final']['split']}"
        rows.append((str(seed), str(step), "-", "-", "-", told, shipped))
    return rows


def _classes(record: Record) -> list[tuple[str, ...]]:
    scores = record["scores"]
    return [
        (
            name,
            percent(iou),
            percent(scores["class_accuracy"][name]),
            percent(scores["class_share"][name]),
            _taken_for(record["confusions"][name]),
        )
        for name, iou in scores["class_iou"].items()
    ]


def _rare(scores: dict[str, Any]) -> str:
    ious = {name: iou for name, iou in scores["class_iou"].items() if iou is not None}
    rare = [iou for name, iou in ious.items() if scores["class_share"][name] < _RARE]
    common = [iou for name, iou in ious.items() if scores["class_share"][name] >= _RARE]
    if not rare or not common:
        return f"{len(ious)} classes occur."
    return (
        f"Mean IoU of the {len(rare)} classes that fill less than {100 * _RARE:g} % of the "
        f"pixels each: {percent(sum(rare) / len(rare))} %; of the {len(common)} others: "
        f"{percent(sum(common) / len(common))} %."
    )


def _failures(record: Record) -> str:
    """The classes below half the mean, from the table above."""
    scores = record["scores"]
    weak = sorted(
        (iou, name)
        for name, iou in scores["class_iou"].items()
        if iou is not None and iou < scores["miou"] / 2
    )
    if not weak:
        weak = [
            min((iou, name) for name, iou in scores["class_iou"].items() if iou is not None)
        ]
        head = "No class has less than half the mean IoU; the weakest:"
    else:
        head = "Do not rely on the classes with less than half the mean IoU:"
    lines = [f"- {name}, {percent(iou)} %{_lost_to(record, name)}" for iou, name in weak]
    return f"{head}\n\n" + "\n".join(lines)


def _lost_to(record: Record, name: str) -> str:
    found = record["confusions"][name]
    return (
        ""
        if found is None
        else f": {100 * found['share']:.0f} % of it is taken for {found['class']}"
    )


def _training(record: Record) -> str:
    runs = record["runs"]
    seeds = [run["seed"] for run in runs]
    final = record["final"]
    shipped = (
        next(run["seed"] for run in runs if run["is_shipped"])
        if final is None
        else final["seed"]
    )
    text = f"{record['steps']:,} steps of {record['batch_size']} crops; this is seed {shipped}"
    if final is not None:
        others = ", ".join(map(str, seeds))
        text += (
            f", the scored ones are `--config.train.seed=` {others} with "
            f"`--config.data.train_split={record['train_split']}`."
        )
    elif len(seeds) == 1:
        text += ", one run and so one draw."
    else:
        others = ", ".join(str(seed) for seed in seeds if seed != shipped)
        text += f", the others are `--config.train.seed=` {others}."
    for run in runs:
        if run["steps_made"] < record["steps"]:
            text += (
                f" The run of seed {run['seed']} was published after step "
                f"{run['steps_made']:,}, before its learning rate had come to its end."
            )
        if "commit" in run:
            text += (
                f" Seed {run['seed']} was added later: commit `{run['commit']}`, "
                f"{run['device']}."
            )
    return text


def _interval(scores: dict[str, Any]) -> str:
    interval = scores["miou_interval"]
    if interval["low"] is None:
        return ""
    return (
        f"{100 * interval['level']:g} % interval over images (of this network, not over "
        f"seeds): {percent(interval['low'])} to {percent(interval['high'])} %."
    )


def _taken_for(found: dict[str, Any] | None) -> str:
    return "-" if found is None else f"{found['class']} ({100 * found['share']:.1f} %)"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first, *others = (f"| {' | '.join(cells)} |" for cells in (heads, *rows))
    return "\n".join((first, "|---" * len(heads) + "|", *others))
