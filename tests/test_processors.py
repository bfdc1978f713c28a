"""How many processors a process may use."""

import os

from bisenet_jax.processors import available_processors


def test_only_those_that_the_system_lets_it_use(monkeypatch):
    allowed = {0: {1, 4, 6}}  # of this process, which is number 0 to itself
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", allowed.__getitem__, raising=False)
    assert available_processors() == 3


def test_all_there_are_where_the_system_cannot_say(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for counted, expected in ((8, 8), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda counted=counted: counted)
        assert available_processors() == expected
