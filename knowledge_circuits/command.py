"""Where the `kc` script begins: our packages first, then the command line."""

from __future__ import annotations

import sys


def main() -> int:
    """Run a command; one line where a module of the user's hides a package of ours."""
    from knowledge_circuits.rooms import HiddenPackageError, check_rooms

    try:
        check_rooms()
    except HiddenPackageError as error:
        print(f"kc: error: {error}", file=sys.stderr)
        return 2
    from experiments.cli.main import main as run

    return run()
