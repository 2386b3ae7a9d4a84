"""Prints the libraries of this project with the named extras, one a line: what the image installs before our code."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def main() -> int:
    """`requirements.py EXTRA…`; an extra that does not exist is refused."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    if unknown := set(sys.argv[1:]) - set(extras):
        sys.stderr.write(f"pyproject.toml has no extra called {', '.join(sorted(unknown))}.\n")
        return 2
    libraries = [*project["dependencies"], *(line for name in sys.argv[1:] for line in extras[name])]
    sys.stdout.write("\n".join(libraries) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
