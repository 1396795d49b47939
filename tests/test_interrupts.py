"""Signals: what they raise is not lost, and whom they stop."""

import ctypes
import os
import signal
import sys

import pytest

from dglrec.interrupts import Interrupts, asked_to_stop, check_interrupts, outlive_terminal
from dglrec.progress import progress

STOPPING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def known_handlers():
    """A suite that was started in the background ignores some."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    for number in STOPPING:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)
    for _ in range(1_000):  # until the interpreter looks at it
        pass


def lose(number):
    """Send a signal whose exception goes no further, as within compiled code's callbacks."""

    @ctypes.CFUNCTYPE(None)
    def callback():
        send(number)

    callback()


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_interrupts(number):
    with pytest.raises(KeyboardInterrupt), Interrupts():
        send(number)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("number", STOPPING)
def test_what_was_lost_in_a_callback_is_raised_where_work_goes_on(number, shown):
    with Interrupts() as interrupts, progress("working", 3, "steps", shown=shown) as advance:
        advance(1)
        lose(number)
        assert interrupts.requested
        with pytest.raises(KeyboardInterrupt):
            advance(1)
    check_interrupts()  # it was somebody else's


@pytest.mark.parametrize("number", STOPPING)
def test_what_was_lost_is_not_shown_and_other_errors_are(monkeypatch, number):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: shown.append(lost.exc_type))
    hook = sys.unraisablehook

    class Failing:
        def __del__(self):
            raise ValueError

    class Losing:
        def __del__(self):
            send(number)

    with pytest.raises(KeyboardInterrupt), Interrupts():
        Failing()
        Losing()
        check_interrupts()
    assert shown == [ValueError]
    assert sys.unraisablehook is hook


@pytest.mark.parametrize("number", STOPPING)
def test_what_encloses_it_knows_why_another_error_came(number):
    with Interrupts() as outer:
        with Interrupts(), pytest.raises(KeyboardInterrupt):
            send(number)
        assert not asked_to_stop()  # it went well in the end
        with pytest.raises(ValueError), Interrupts():
            try:
                send(number)
            except KeyboardInterrupt:
                raise ValueError from None
        assert outer.requested and asked_to_stop()


def test_what_outlives_its_terminal_is_stopped_by_the_others_only():
    with Interrupts(outlives_terminal=True) as interrupts:
        send(signal.SIGHUP)
        assert not interrupts.requested
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)


def test_what_follows_at_once_disturbs_no_cleaning_up(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("dglrec.interrupts.time.monotonic", lambda: now[0])
    with Interrupts():
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGINT)
        now[0] += 2  # from somebody who will not wait
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_work_outlives_its_terminal_from_when_it_says_so():
    with Interrupts() as interrupts:
        assert not asked_to_stop()
        outlive_terminal()
        send(signal.SIGHUP)
        assert not interrupts.requested and not asked_to_stop()
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)
        assert asked_to_stop()
    assert not asked_to_stop()


def test_what_is_put_off_is_raised_by_no_check_before_its_time():
    with Interrupts() as interrupts:
        with interrupts.put_off():
            send(signal.SIGINT)
            check_interrupts()
        with pytest.raises(KeyboardInterrupt):
            check_interrupts()


def test_handlers_are_as_they_were_and_what_was_ignored_stays_so():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupts():
        send(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
