"""What the command line of every stage takes; without torch, so that it can be listed quickly."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Settings as Hydra writes them, and where they and the outcome are on disk."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, such as selection.name=kcenter")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file instead of the package's own")
    parser.add_argument("--config-dir", type=Path, metavar="FOLDER", help="folder with a config.yaml")
    parser.add_argument("--overwrite", action="store_true", help="replace what was made from something else")
    parser.add_argument("--record", type=Path, metavar="FILE", help="JSON file for the stage's outcome")
