"""Programs beside the tests, whose processes do not outlive them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress


def printed(program: list[str], limit_s: float = 600.0) -> str:
    """The last line of a Python program that has to end well; none of its processes is left."""
    command = [sys.executable, *program]
    kept = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **kept) as process:
        try:
            said, errors = process.communicate(timeout=limit_s)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors
    return said.splitlines()[-1]
