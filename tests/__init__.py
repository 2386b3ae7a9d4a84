"""A regular package: actions-toolkit installs a top-level `tests` of its own, which would win over a namespace package."""
