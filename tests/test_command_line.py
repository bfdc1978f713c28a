"""Flags as the shell would have given them."""

import sys

from absl import flags

from bisenet_jax import command_line


def test_a_home_folder_behind_an_equals_sign(monkeypatch):
    values = flags.FlagValues()
    for name in ("output", "plain", "words"):
        flags.DEFINE_string(name, None, "", flag_values=values)
    arguments = ["--output=~/runs/a", "--plain", "/data~", "--words=a=~/b", "~/c"]
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    monkeypatch.setattr(flags, "FLAGS", values)
    found = []
    command_line.run(found.append, "A script.", takes_arguments=True, end=found.append)
    # Words of their own are the shell's business.
    assert found == [["~/c"], 0]
    assert (values.output, values.plain, values.words) == (
        "/home/ada/runs/a",
        "/data~",
        "a=~/b",
    )
