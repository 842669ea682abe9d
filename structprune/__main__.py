"""``python -m structprune``."""

from structprune.cli import main

if __name__ == "__main__":
    main()
