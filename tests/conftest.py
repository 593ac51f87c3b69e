"""What all tests have in common: signals that reach what they start."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Under nohup, or in the background of a shell, a hang-up and Ctrl-C are ignored; and so they would be by all that
    the tests start, which therefore never ended by them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
