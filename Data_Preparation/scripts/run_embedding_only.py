"""Embeds the paragraphs that are on disk, with another model, dimension, dtype or splits."""

import sys

from data_pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["embed", *sys.argv[1:]]))
