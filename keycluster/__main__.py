"""The command line: `keycluster …` and `python -m keycluster …`."""

import sys

from keycluster.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
