"""`python -m takhin` is the `takhin` command."""

import sys

from takhin.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
