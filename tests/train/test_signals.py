"""A run that is asked to stop says so, also when it was asked in its last step."""

from __future__ import annotations

import signal
from contextlib import ExitStack

import pytest

from openqwen.core.errors import Interrupted
from openqwen.train.signals import stop_on_signal


@pytest.mark.fault("training", "SIGINT arrives in the last step", "obeyed")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_last_step_is_not_lost(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    steps = []
    with pytest.raises(Interrupted, match=f"stopped by {number.name}"), stop_on_signal() as stop:
        for step in range(3):
            steps.append(step)
            if step == 2:
                signal.raise_signal(number)
        assert stop
    assert steps == [0, 1, 2] and signal.getsignal(number) is before


def test_a_signal_while_the_body_ends_is_not_lost() -> None:
    with pytest.raises(Interrupted, match="stopped by SIGTERM"), stop_on_signal(), ExitStack() as ending:
        ending.callback(signal.raise_signal, signal.SIGTERM)


@pytest.mark.fault(
    "training", "a second interrupt while a save is written", "stops at once, the last save is sound"
)
def test_a_second_interrupt_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_signal():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_no_signal_no_error() -> None:
    with stop_on_signal() as stop:
        pass
    assert not stop
