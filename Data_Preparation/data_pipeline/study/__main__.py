"""`python -m data_pipeline.study STAGE KEY=VALUE ...` is `elm study STAGE KEY=VALUE ...`."""

import sys

from data_pipeline.study.stages import main

if __name__ == "__main__":
    sys.exit(main())
