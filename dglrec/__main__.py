"""`python -m dglrec`."""

from dglrec.cli import main

if __name__ == "__main__":
    main()
