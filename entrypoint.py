"""The door of the GitHub Action's container."""

import sys

from trt_action.action import main

if __name__ == "__main__":
    sys.exit(main())
