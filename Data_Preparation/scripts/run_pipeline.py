"""The whole job: corpus -> paragraphs -> embeddings. `--help` lists every setting."""

import sys

from data_pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
