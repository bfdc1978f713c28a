"""What is told of a published network in one line, on whichever page."""

from bisenet_jax.publish.record import Record
from bisenet_jax.zoo.registry import Entry


def describe_miou(record: Record) -> str:
    """`60.12 %`, or with several seeds `59.80 ± 0.41 % (3 seeds; the shipped one 60.12 %)`."""
    number, told = percent(record["miou_mean"]), []
    if record["miou_deviation"] is not None:
        number += f" ± {percent(record['miou_deviation'])}"
        told.append(f"{len(record['runs'])} seeds")
        if record["final"] is None:
            told.append(f"the shipped one {percent(record['scores']['miou'])} %")
    if record["final"] is not None:
        if len(record["runs"]) == 1:
            told.append("one seed")
        told.append(f"trained on {record['train_split']} alone")
    return f"{number} % ({'; '.join(told)})" if told else f"{number} %"


def describe_data(record: Record) -> str:
    """`CamVid, 60.12 % mIoU on val`, of the shipped weights or, failing that, their recipe."""
    final, split = record["final"], record["scores"]["split"]
    how = by_what(record)
    if final is None:
        return f"{record['data']}{how}, {percent(record['scores']['miou'])} % mIoU on {split}"
    return (
        f"{record['data']} {final['split']}{how}; its recipe reaches "
        f"{percent(record['miou_mean'])} % mIoU on {split} from {record['train_split']} alone"
    )


def result_row(record: Record) -> str:
    """The line of one network in docs/results.md."""
    name = record["name"]
    seeds = ", ".join(str(run["seed"]) for run in record["runs"])
    cells = (
        f"[{name}](models/{name}.md)",
        f"{record['scores']['protocol']}; preset `{record['preset']}`, trained"
        f"{by_what(record) or ' by SGD'}; {_which(record)}; float16 file",
        f"**{describe_miou(record)}** mIoU",
        seeds,
        f"[card](models/{name}.md#training)",
        f"`{record['commit']}`",
        record["device"],
    )
    return f"| {' | '.join(cells)} |"


def readme_row(name: str, entry: Entry) -> str:
    """The line of one network in README.md."""
    return f"| `{name}` | {entry.summary}; {entry.licence} | [card]({entry.card}) |"


def put_row(page: str, row: str, head: str) -> str:
    """The page with the row in place of the one whose first cell is the same, else on top.

    Args:
        page: Markdown.
        row: of a table.
        head: how the first line of that table begins.
    """
    lines = page.splitlines()
    first_cell = row.split(" | ")[0] + " |"
    for number, line in enumerate(lines):
        if line.startswith(first_cell):
            lines[number] = row
            break
    else:
        top = next(number for number, line in enumerate(lines) if line.startswith(head))
        lines.insert(top + 2, row)
    return "\n".join(lines) + "\n"


def by_what(record: Record) -> str:
    """The optimiser, where it is not the paper's."""
    return "" if record["optimizer"] == "sgd" else f" by {record['optimizer'].capitalize()}"


def _which(record: Record) -> str:
    return "best of the scored checkpoints" if record["final"] is None else "last checkpoint"


def percent(fraction: float | None) -> str:
    """With two digits; a dash where nothing is known."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"
