"""What a result says of the code it was made with."""

import subprocess

import pytest

from iq_offline import provenance


def test_a_checkout_on_a_slow_disk_costs_no_result(monkeypatch: pytest.MonkeyPatch):
    def slow(*arguments: str) -> str:
        raise subprocess.TimeoutExpired("git", 10)

    monkeypatch.setattr(provenance, "_git", slow)
    assert provenance.git_commit() is None
