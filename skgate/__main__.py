"""Command line: ``python -m skgate demo``."""

from __future__ import annotations

import argparse
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run it."""
    parser = argparse.ArgumentParser(prog="python -m skgate", description="skgate")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo", help="show the failure and the fix on the bundled model (two minutes, offline)"
    )
    demo.add_argument(
        "--output", type=Path, default=Path("skgate_demo.png"), help="file of the picture"
    )
    demo.add_argument("--draws", type=int, default=10, help="draws of shots to average over")
    options = parser.parse_args(arguments)
    if options.draws < 1:
        parser.error(f"--draws {options.draws}: expected at least 1")

    from skgate._demo import run_demo

    run_demo(options.output, n_draws=options.draws)


if __name__ == "__main__":
    main()
