"""Which architectures of transformers skgate reads and steers exactly, and which it refuses.

    python benchmarks/architectures.py                         # all of them: half an hour
    python benchmarks/architectures.py llama openai-gpt        # some, by model type
    python benchmarks/architectures.py --results FILE --docs docs/supported_models.md

Each causal and multimodal architecture of the installed transformers is built tiny and random from
its configuration, in a process of its own with limited time and memory. Three things are compared
with what bare hooks and plain ``generate`` give, one prompt at a time:

- extraction: activations of all layers, each prompt alone;
- neighbours: the same, in batches of prompts of different lengths that begin alike;
- steering: replies of ``SteeringWrapper.generate``, which decides in the prefill and edits from
  then on, with replies of two passes: decide on the bare activation, then generate with a bare
  hook that edits.

``--results`` keeps finished rows in a file of JSON lines; another run goes on from there. The exit
status is 1 if a row differs or fails. Models that can't be built, or that plain transformers can't
run, say nothing about skgate: their rows say so.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from architecture_comparison import ENCODER_DECODER, NOT_BUILT, compare
from architecture_models import list_architectures
from architecture_page import Row, write_page

import skgate

SECONDS, GIBIBYTES = 60, 4  # that one architecture may take; the time with and without skgate
VERSIONS = {one.__name__: one.__version__ for one in (transformers, torch, skgate)}
BUILT = "built"  # the message that plain transformers has run a model


def _work(model_type: str, auto_class: str, results: Any) -> None:
    """Compare in a process of its own, which may take only so much memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limit = used + GIBIBYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    results.send(compare(model_type, auto_class, on_built=lambda: results.send(BUILT)))


def try_architecture(model_type: str, auto_class: str, model_class: str) -> Row:
    """Compare one architecture in a process of its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_work, args=(model_type, auto_class, sender))
    worker.start()
    sender.close()
    found: Any = None
    outcome = NOT_BUILT
    try:
        while found is None:
            if not receiver.poll(SECONDS):
                found = [f"{outcome}: it takes longer than {SECONDS} s"] * 2
            elif (message := receiver.recv()) == BUILT:
                outcome = "fails"  # what happens from now on is about skgate
            else:
                found = message
    except EOFError:
        worker.join()
        found = [f"{outcome}: its process ended with status {worker.exitcode}"] * 2
    finally:
        worker.kill()
        worker.join()
    return Row(model_type, auto_class, model_class, *found)


def read_rows(results: Path) -> list[Row]:
    """Read finished rows; an error if other versions found them."""
    records = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    found = {str(record.pop("versions", None)) for record in records}
    if found - {str(VERSIONS)}:
        raise SystemExit(f"Got {results} with rows of {found}, expected {VERSIONS}: remove it.")
    return [Row(**record) for record in records]


def try_all(names: Sequence[str] = (), results: Path | None = None) -> list[Row]:
    """Compare architectures, all or those of some model types; go on from earlier results."""
    rows: dict[tuple[str, str], Row] = {}
    torch.set_num_threads(1)  # threads don't survive a fork
    compare("llama", "AutoModelForCausalLM")  # imports what every process needs
    if results is not None and results.exists():
        for row in read_rows(results):
            rows[row.model_type, row.model_class] = row
    chosen = [one for one in list_architectures() if not names or one[0] in names]
    for model_type, auto_class, model_class in chosen:
        if (model_type, model_class) in rows:
            continue
        row = try_architecture(model_type, auto_class, model_class)
        rows[model_type, model_class] = row
        print(f"{model_type} {model_class}: {row.reading} | {row.steering}", flush=True)
        if results is not None:
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**asdict(row), "versions": VERSIONS}) + "\n")
    found = [rows[model_type, model_class] for model_type, _, model_class in chosen]
    return [row for row in found if row.reading != ENCODER_DECODER]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="model types; all if none is given")
    parser.add_argument("--results", type=Path, help="JSON lines of finished rows")
    parser.add_argument("--docs", type=Path, help="the page to write the table to")
    arguments = parser.parse_args()
    rows = try_all(arguments.names, arguments.results)
    if arguments.docs is not None:
        arguments.docs.write_text(write_page(rows), encoding="utf-8")
    wrong = [row for row in rows if not row.is_sound]
    for row in wrong:
        print(f"WRONG: {row.model_type} {row.model_class}: {row.reading} | {row.steering}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
