"""`python -m sigprop` is the command line."""

import sys

from sigprop._cli import main

sys.exit(main())
