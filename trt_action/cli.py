"""The door for the command line."""


def main() -> int:
    """Not yet open."""
    return 0
