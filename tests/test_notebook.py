"""The notebook runs as it stands, in a fresh kernel; its outputs are those of its code.

Run as a script, this file executes the notebook and stores its outputs anew.
"""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Run every cell where Jupyter would, in the notebook's folder."""
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources=place, record_timing=False
    )
    executed = client.execute()
    for output in outputs(executed):
        # Each picture is there as a PNG and as a JPEG of a tenth of its size.
        if "image/jpeg" in output.get("data", {}):
            del output["data"]["image/png"]
    return executed


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def kinds(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """What each cell put out: streams by name, results by media type."""
    return [
        [
            output.get("name") or " ".join(sorted(output["data"]))
            for output in cell["outputs"]
            if output.get("name") != "stderr"  # progress bars, as often as they are drawn
        ]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def text(notebook: nbformat.NotebookNode) -> str:
    return "".join(
        output.get("text") or output["data"].get("text/plain", "")
        for output in outputs(notebook)
    )


@pytest.fixture(scope="module")
def executed():
    return execute(read())


def test_it_runs_and_puts_out_what_it_shows(executed):
    assert kinds(executed) == kinds(read())
    assert sum("image/jpeg" in kind for cell in kinds(executed) for kind in cell) == 5
    assert "stderr" not in str(kinds(executed))


def test_its_network_has_learnt_and_is_one_function(executed):
    miou, agreement = (
        float(re.search(pattern, text(executed)).group(1))
        for pattern in (r"mIoU ([\d.]+) % on val", r"([\d.]+)% of the pixels agree")
    )
    assert miou > 15  # one class everywhere reaches 3
    assert agreement > 99


def test_it_is_small_and_tells_nothing_of_its_maker():
    stored = NOTEBOOK.read_text(encoding="utf-8")
    assert len(stored) < 400_000
    assert not re.search(r"/home/|/root/|/Users/|/work/", stored)


if __name__ == "__main__":
    nbformat.write(execute(read()), NOTEBOOK)
