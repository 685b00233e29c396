"""`python -m sigprop` is the command line."""

import sys

from sigprop.commands import main

sys.exit(main())
