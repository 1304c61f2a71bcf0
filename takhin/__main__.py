"""`python -m takhin` is the `takhin` command, and the installed command comes by here, too."""

from __future__ import annotations

import os
import signal
import sys

INTERRUPTED = 130


def main() -> int:
    """Run the command; return its exit code. What an installation of the client alone lacks is named."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        # While modules are imported, and when Python ends, an interrupt would come out as a traceback. In
        # between the command handles it: takhin/cli/signals.py.
        signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(INTERRUPTED))
    try:
        from takhin.cli.main import main as run  # noqa: PLC0415  see below

        return run()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("takhin"):
            raise
        print(  # noqa: T201  as the command reports every error
            f"takhin: the package {error.name} is not installed: this is Takhin's Python client alone. The "
            "broker and this command need Takhin with its extra `server`: see the README",
            file=sys.stderr,
        )
        return 2 if sys.argv[1:2] == ["serve"] else 1


if __name__ == "__main__":
    sys.exit(main())
