"""`python -m dglrec`, and the console script."""

import sys
from contextlib import suppress

from dglrec.interrupts import INTERRUPTED


def main() -> None:
    """Run a command. Ctrl-C while it is loaded ends it as later, without a traceback."""
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
