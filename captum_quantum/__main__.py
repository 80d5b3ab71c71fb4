"""The command line as ``python -m captum_quantum``."""

import sys

from captum_quantum.cli import main

if __name__ == "__main__":
    sys.exit(main())
