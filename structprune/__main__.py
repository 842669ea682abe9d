"""``structprune`` and ``python -m structprune``."""

from __future__ import annotations

import sys

from structprune.cli import signals


def main() -> None:
    """Run the command line; a signal while it is still being imported ends it as later."""
    try:
        signals.listen()
        from structprune.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted; nothing was written\n")
        sys.exit(130)
    finally:
        signals.ignore()
        _let_go_of_output()


def _let_go_of_output() -> None:
    """Print what is left, and let what others print while Python ends go to standard error."""
    streams = sys.modules.get("structprune.cli.streams")
    if streams is not None:
        streams.let_go()


if __name__ == "__main__":
    main()
