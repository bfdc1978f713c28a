"""How many kernels a compiled program launches, read from the text of its HLO."""

import re

# What needs no kernel: names for memory that is there already.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("partition-id", "replica-id", "opt-barrier"),
}
# The result's type may be a tuple, with spaces in it.
_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?:\(.*?\)|\S+) (?P<operation>[\w\-]+)\("
)
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) .*\{$")
_CALLED = re.compile(r"to_apply=%?([\w.\-]+)")
_SCOPE = re.compile(r'op_name="([^"]*)"')


def count_kernels(hlo: str) -> int:
    """Instructions of the entry computation that do work; called computations are looked into.

    A fusion is one, so is a custom call (a library's convolution), and so is a loop, however
    often it turns.
    """
    computations: dict[str, list[str]] = {}
    entry = name = ""
    for line in hlo.splitlines():
        if start := _COMPUTATION.match(line):
            name = start["name"]
            computations[name] = []
            entry = name if start["entry"] else entry
        elif name:
            computations[name].append(line)
    return _count(computations, entry)


def scopes_of(hlo: str) -> dict[str, str]:
    """The named scopes in which each instruction was written, by the instruction's name."""
    scopes = {}
    for line in hlo.splitlines():
        if instruction := _INSTRUCTION.match(line):
            scope = _SCOPE.search(line)
            scopes[instruction["name"]] = scope[1] if scope else ""
    return scopes


def _count(computations: dict[str, list[str]], name: str) -> int:
    total = 0
    for line in computations.get(name, ()):
        instruction = _INSTRUCTION.match(line)
        if not instruction or instruction["operation"] in _FREE:
            continue
        called = _CALLED.search(line) if instruction["operation"] == "call" else None
        total += _count(computations, called[1]) if called else 1
    return total
