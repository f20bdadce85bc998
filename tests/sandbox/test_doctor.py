"""`openqwen sandbox doctor` proves the sandbox, or refuses with the exit code 78."""

from __future__ import annotations

import pytest

from openqwen.cli import main
from openqwen.sandbox import backend
from openqwen.sandbox.run import PROBES, failures


def test_doctor_proves_or_refuses(capfd: pytest.CaptureFixture[str]) -> None:
    code = main(["sandbox", "doctor"])
    out, err = capfd.readouterr()
    if backend() is None:
        assert code == 78 and failures()[0] in err and "apt install bubblewrap" in err
    else:
        assert code == 0 and out.count("never   ") == len(PROBES) == 10


@pytest.mark.fault("sandbox", "a probe of the self-test escapes", "refused with exit code 78")
def test_doctor_refuses_where_a_probe_escapes(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("openqwen.sandbox.run.backend", lambda: None)
    monkeypatch.setattr("openqwen.sandbox.run.failures", lambda: ("bwrap: reaches the network",))
    assert main(["sandbox", "doctor"]) == 78
    assert "bwrap: reaches the network" in capfd.readouterr().err
