"""`python -m dglrec`, and the console script."""

import sys
from contextlib import suppress

from dglrec.interrupts import INTERRUPTED


def main() -> None:
    """Run a command. Ctrl-C during imports ends it as it does later, without a traceback."""
    try:
        from dglrec.cli import main as run
    except KeyboardInterrupt:
        if sys.stderr is not None:
            with suppress(OSError):
                sys.stderr.write("interrupted\n")
        sys.exit(INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
