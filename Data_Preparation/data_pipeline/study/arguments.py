"""Command-line arguments of every stage; without torch, so that commands are listed quickly."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings in Hydra's grammar, and the files that they and the result are in."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, such as selection.name=kcenter")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file instead of the package's own")
    parser.add_argument("--config-dir", type=Path, metavar="FOLDER", help="folder with a config.yaml")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results of other data or settings")
    parser.add_argument("--record", type=Path, metavar="FILE", help="JSON file for the result of the stage")
