"""`python -m xenconsole`: the same as the command `xenconsole`."""

import sys

from xenconsole.cli import main

sys.exit(main())
