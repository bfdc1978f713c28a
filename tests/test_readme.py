"""What the README promises exists: every script, flag, configuration, file and make target."""

import functools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from bisenet_jax.config_file import legal_keys
from bisenet_jax.data.decode import read_image
from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.weights import write_weights

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> list[str]:
    """The command lines of all fenced blocks, continued lines joined."""
    blocks = re.findall(
        r"```(?:bash|sh)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
    )
    text = "\n".join(blocks).replace("\\\n", " ")
    return [line.split("#")[0].strip() for line in text.splitlines() if line.strip()]


COMMANDS = [(page.name, line) for page in PAGES for line in commands(page)]


SCRIPTS = ("train.py", "evaluate.py", "bench.py", "predict.py", "export.py")


@functools.cache
def flags_of(script: str) -> set[str]:
    shown = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    return set(re.findall(r"^  --(?:\[no\])?(\w+):", shown.stdout, re.MULTILINE))


def test_the_readme_has_commands():
    assert len([line for page, line in COMMANDS if page == "README.md"]) >= 5


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_command(page, line):
    words = line.split()
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    for script in set(SCRIPTS) & set(words):
        known = flags_of(script)
        used = re.findall(r"--([\w.]+)", line)
        assert used or script == "bench.py"
        for flag in used:
            assert flag in known or flag in legal_keys(), f"{script} has no --{flag}"
    for path in re.findall(r"configs/[\w/]+\.py", line):
        assert (ROOT / path).is_file()
    if words[:2] == ["python", "-m"]:
        module = words[2].replace(".", "/")
        assert (ROOT / f"{module}.py").is_file() or (ROOT / module / "__main__.py").is_file()


def test_the_python_examples_run(tmp_path, monkeypatch, tiny_weights):
    network, photo = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    scope = {}
    exec(network, scope)
    assert scope["labels"].shape == (1, 360, 480) and scope["labels"].dtype == "uint8"

    monkeypatch.chdir(tmp_path)
    write_weights("weights.safetensors", tiny_weights)
    Image.fromarray(draw_street(1, 0, 64, 96)[0]).save("photo.jpg")
    scope = {}
    exec(photo, scope)
    assert scope["labels"].shape == (64, 96) and scope["labels"].dtype == "uint8"
    assert read_image("overlay.png").shape == (64, 96, 3)


def test_requirements_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = {*project["dependencies"], *extras["tfds"], *extras["fast"], "pytest>=8.3"}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    listed = {line.replace("[cuda12]", "") for line in lines if line and line[0] != "#"}
    assert listed == needed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    for target in targets:
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
