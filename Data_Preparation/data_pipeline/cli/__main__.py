"""`python -m data_pipeline.cli` is `elm`."""

import sys

from data_pipeline.cli.main import main

sys.exit(main())
