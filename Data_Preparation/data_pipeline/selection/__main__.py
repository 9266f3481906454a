"""`python -m data_pipeline.selection STAGE KEY=VALUE ...` is `elm study STAGE KEY=VALUE ...`."""

import sys

from data_pipeline.selection.study.stages import main

if __name__ == "__main__":
    sys.exit(main())
