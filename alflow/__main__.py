"""The command line: ``alflow`` or ``python -m alflow``."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb and exit: 0 done, 1 the campaign failed, 2 the input was wrong."""
    from alflow.cli.app import run

    sys.exit(run(arguments))


if __name__ == "__main__":  # Parsl starts processes by spawn, which imports this module again
    main()
