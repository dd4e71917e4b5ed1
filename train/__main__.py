"""`python -m train` is `zoo`."""

import sys

from train.cli import main

sys.exit(main())
