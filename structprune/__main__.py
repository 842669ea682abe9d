"""``structprune`` and ``python -m structprune``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends it as later."""
    try:
        from structprune.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted; nothing was written\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
