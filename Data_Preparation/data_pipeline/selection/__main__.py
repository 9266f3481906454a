"""`python -m data_pipeline.selection` is the former spelling of `python -m data_pipeline.study`."""

import sys

from data_pipeline.study.stages import main

if __name__ == "__main__":
    sys.exit(main())
