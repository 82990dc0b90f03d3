"""`hybrid` and ``python -m hybrid``: Ctrl-C ends them without a traceback while they are still being loaded."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from hybrid.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
