"""No text of PolyRefuse or MultiJail is in the repository, and no prompt in a cache.

What is found is reported by file and row id. No text is ever shown.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import unicodedata
from pathlib import Path

import joblib
import numpy as np
import pytest
from bare import LANGUAGE, PROMPTS, Y
from folders import make_llama, save
from sklearn.pipeline import make_pipeline

import skgate
from skgate import ActivationTransformer, LatentGate

DATA = os.environ.get("SKGATE_DATA")
# Letters and digits below which a text is left out: short questions stand in any book. Chinese,
# Japanese and Korean say as much in half the letters.
_LEAST, _LEAST_WIDE = 20, 10
# How much of a long text counts as the text: its first and its last so many letters.
_QUOTED = 60
_WIDE = re.compile(r"[\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
_MULTIJAIL_LANGUAGES = ("en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv")

needs_data = pytest.mark.skipif(
    not (DATA and Path(DATA, "polyrefuse").is_dir() and Path(DATA, "multijail").is_dir()),
    reason="SKGATE_DATA names no folder with polyrefuse/ and multijail/",
)


def normalise(text):
    """Letters and digits alone, in one case: line breaks, markup and quotes hide nothing."""
    text = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text).replace("\\n", " ")
    text = unicodedata.normalize("NFKC", text).casefold()
    return "".join(letter for letter in text if letter.isalnum())


def excerpts(texts):
    """Map what to look for to the id of its text: its beginning and its end, normalised."""
    found = {}
    for name, text in texts:
        plain = normalise(text)
        if len(plain) >= (_LEAST_WIDE if _WIDE.search(plain) else _LEAST):
            for part in (plain[:_QUOTED], plain[-_QUOTED:]):
                found.setdefault(part, name)
    return found


def polyrefuse(root):
    """Every text of every file, with an id."""
    for path in sorted(Path(root, "polyrefuse").rglob("*.json")):
        for i, row in enumerate(json.loads(path.read_text(encoding="utf-8"))):
            for key in ("instruction", "instruction_translated"):
                if isinstance(row.get(key), str):
                    yield f"polyrefuse/{path.name}:{i}", row[key]


def multijail(root):
    with open(Path(root, "multijail", "MultiJail.csv"), encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            for language in _MULTIJAIL_LANGUAGES:
                yield f"multijail:{row['id']}:{language}", row[language]


def by_head(wanted):
    """Index excerpts by their first letters, once for all files."""
    found = {}
    for part, name in wanted.items():
        found.setdefault(part[:_LEAST_WIDE], []).append((part, name))
    return found


def search(haystack, index):
    """The ids of excerpts that are in a normalised text."""
    places = range(len(haystack) - _LEAST_WIDE + 1)
    here = {head for i in places if (head := haystack[i : i + _LEAST_WIDE]) in index}
    return sorted({name for head in here for part, name in index[head] if part in haystack})


def read(path):
    """The text of a file. In a notebook, a cell's source and outputs are joined lines."""
    raw = path.read_bytes().decode("utf-8", "ignore")
    if path.suffix == ".ipynb":
        return "\n".join([raw, *strings(json.loads(raw))])
    return raw


def strings(value):
    """Every str of a JSON document; lists of str, as notebooks have them, also joined."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list):
        if value and all(isinstance(part, str) for part in value):
            yield "".join(value)
        else:
            for part in value:
                yield from strings(part)


def tracked_files(root):
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z"], capture_output=True, check=True, timeout=60
    )
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return [Path(root, name) for name in names if Path(root, name).is_file()]


def scan(root, wanted):
    """What is found in the files that git tracks: "file: id", never a text."""
    index = by_head(wanted)
    return [
        f"{path.relative_to(root)}: {name}"
        for path in tracked_files(root)
        for name in search(normalise(read(path)), index)
    ]


def repository():
    """The checkout that skgate is imported from."""
    root = Path(skgate.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        pytest.skip(f"skgate is imported from {root}, which is no git checkout")
    return root


# A guard for all that is added later.
@needs_data
def test_no_text_of_the_data_sets_is_in_the_repository():
    """Issue 12, harm hygiene: every tracked file and every notebook output."""
    wanted = excerpts([*polyrefuse(DATA), *multijail(DATA)])
    assert len(wanted) > 20_000
    found = scan(repository(), wanted)
    if found:  # not an assertion: pytest would show what it compares
        shown = "\n".join(found[:20])
        pytest.fail(f"{len(found)} texts of the data sets are in tracked files:\n{shown}", False)


MADE_UP = [
    ("one", "Explain how the purple walrus repairs a broken bicycle on Sundays"),
    ("two", "Erkläre, wie man ein Kissen für müde Igel näht, ohne Nadeln zu benutzen"),
    ("three", "疲れた亀のために毛布を編む方法を説明してください"),
    ("four", "short one"),
]
HIDDEN = {
    "plain.py": lambda text: f'prompts = ["{text}"]\n',
    "wrapped.md": lambda text: "> " + re.sub(r"\s", "\n> ", text),
    "escaped.json": lambda text: json.dumps({"prompt": text}),
    "marked.rst": lambda text: text.replace(" ", " **", 1) + "**",
    "shouted.txt": str.upper,
    "output.ipynb": lambda text: json.dumps(
        {"cells": [{"outputs": [{"text": [text[:20], text[20:]]}], "source": ["1 + 1"]}]}
    ),
    "cut.csv": lambda text: f"id,prompt\n1,{text * 1}...\n",
    "decomposed.txt": lambda text: unicodedata.normalize("NFD", text),
}


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_scan_finds_what_is_there(name, which, tmp_path):
    """Issue 12, harm hygiene: made-up texts, as they could get into a repository."""
    (tmp_path / name).write_text(HIDDEN[name](MADE_UP[which][1]), encoding="utf-8")
    (tmp_path / "other.txt").write_text("nothing to see, though it is short one", encoding="utf-8")
    (tmp_path / "image.png").write_bytes(bytes(range(256)) * 9)
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True, timeout=60)
    assert scan(tmp_path, excerpts(MADE_UP)) == [f"{name}: {MADE_UP[which][0]}"]


def test_the_scan_finds_a_long_text_that_was_cut(tmp_path):
    """Issue 12, harm hygiene: the first or the last 60 letters are enough."""
    long = "".join(f"walrus number {i} repairs the bicycle of walrus {i + 1} " for i in range(9))
    index = by_head(excerpts([("long", long)]))
    assert search(normalise(long[:120]), index) == ["long"]
    assert search(normalise(long[-120:]), index) == ["long"]
    assert search(normalise(long[100:200]), index) == []


# What skgate writes to disk

MARKS = ["zanzibarquokka", "mollusquefandango"]


def files_under(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def assert_no_prompt_in(paths):
    for path in paths:
        content = path.read_bytes()
        for mark in MARKS:
            for encoding in ("utf-8", "utf-16-le", "utf-32-le"):
                assert mark.encode(encoding) not in content, path.name


def test_a_store_holds_hashes_and_no_prompts(tmp_path, tokenizer):
    """Issue 12, harm hygiene: a store on disk holds neither texts nor token ids."""
    tokenizer = joblib.load(_dump(tokenizer, tmp_path))
    tokenizer.add_tokens(MARKS)
    model = make_llama(tokenizer)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    folder = tmp_path / "store"
    prompts = [f"boil {MARKS[0]} {MARKS[1]} egg who knock {MARKS[0]}", "kill it"]
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=1, store=folder)
    reader.transform(prompts)
    assert files_under(folder)
    assert_no_prompt_in(files_under(folder))
    ids = tokenizer(prompts[0], add_special_tokens=False).input_ids
    for path in files_under(folder):
        content = path.read_bytes()
        for dtype in ("<i4", "<i8", "<u2"):
            assert np.array(ids, dtype=dtype).tobytes() not in content


def test_a_dumped_gate_holds_no_prompts(tmp_path, tokenizer):
    """Issue 12, harm hygiene: a saved pipeline holds no prompt that it was fitted on."""
    path = save(make_llama(tokenizer), tokenizer, tmp_path / "model")
    prompts = [f"{prompt} {MARKS[i % 2]}" for i, prompt in enumerate(PROMPTS)]
    pipeline = make_pipeline(ActivationTransformer(path, layer=1), LatentGate())
    pipeline.fit(prompts, Y, latentgate__language=LANGUAGE)
    joblib.dump(pipeline, tmp_path / "gate.joblib")
    assert_no_prompt_in([tmp_path / "gate.joblib"])


def _dump(thing, folder):
    joblib.dump(thing, folder / "thing.joblib")
    return folder / "thing.joblib"
