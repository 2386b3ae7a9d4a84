"""`python -m trt_action`."""

import sys

from trt_action.cli import main

sys.exit(main())
