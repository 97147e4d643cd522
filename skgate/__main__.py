"""The command line: ``skgate``, or ``python -m skgate``."""

from __future__ import annotations

import argparse
import os
from importlib.metadata import version
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run the command.

    Parameters
    ----------
    arguments : list of str or None, default=None
        The command line. If None, that of the process.
    """
    parser = argparse.ArgumentParser(
        prog="skgate", description="Make language models act on the harm that they already detect."
    )
    parser.add_argument("--version", action="version", version=f"skgate {version('skgate')}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="steer the bundled model and measure what it refuses before and after "
        "(a minute or two, offline)",
        description="Answer the bundled model's test prompts, unsteered and steered. Print the "
        "shares that it refuses and some replies, and draw a picture. This takes a minute or two "
        "and needs no network.",
    )
    demo.add_argument(
        "--output",
        type=_picture_file,
        default="skgate_demo.png",
        help="the file for the picture (default: %(default)s)",
    )
    demo.add_argument(
        "--draws",
        type=_at_least_one,
        default=10,
        help="the number of draws of examples to average over; 1 is the quickest "
        "(default: %(default)s)",
    )
    options = parser.parse_args(arguments)

    from skgate._demo import run_demo

    run_demo(options.output, n_draws=options.draws)


def _picture_file(text: str) -> Path:
    """Check that a picture can be written before anything is computed."""
    from matplotlib.backend_bases import FigureCanvasBase

    path = Path(text)
    suffixes = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in suffixes:
        raise argparse.ArgumentTypeError(
            f"Got {text!r}, expected a file name that ends in one of: {', '.join(suffixes)}."
        )
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"Got {text!r}, but {path.parent} is not a folder.")
    place = path if path.exists() else path.parent
    if path.is_dir() or not os.access(place, os.W_OK):
        raise argparse.ArgumentTypeError(f"Got {text!r}, but {place} can't be written to.")
    return path


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"Got {text!r}, expected an integer of 1 or more.")
    return int(text)


if __name__ == "__main__":
    main()
