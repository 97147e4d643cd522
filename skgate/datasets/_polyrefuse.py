"""PolyRefuse: harmful and harmless prompts in fourteen languages."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from sklearn.utils import Bunch

from skgate._base import find_stack_level, set_module
from skgate._docstrings import fill_docstring
from skgate.datasets._downloads import (
    Repository,
    check_n_retries,
    choose,
    download,
    find_local_root,
)
from skgate.metrics._tiers import LANGUAGE_TIERS

_REPOSITORY = Repository(
    name="PolyRefuse",
    url="https://github.com/mainlp/Multilingual-Refusal",
    contents="its folders PolyRefuse and dataset/splits",
)
_BASE_URL = "https://raw.githubusercontent.com/mainlp/Multilingual-Refusal/main/"
_REGISTRY = Path(__file__).with_name("_polyrefuse_registry.txt")

_SUBSETS = ("harmful", "harmless")
_SPLITS = ("train", "val", "test")
_LANGUAGES = ("en", "de", "fr", "es", "it", "nl", "pl", "ru", "zh", "ja", "ar", "ko", "th", "yo")
_UNPUBLISHED = ("harmless", "test", "zh")
_NOT_PARALLEL = (("harmless", "train", "zh"), ("harmless", "val", "zh"))

_DESCR = """\
.. _polyrefuse_dataset:

PolyRefuse: harmful and harmless prompts in fourteen languages
--------------------------------------------------------------

.. warning::
   The harmful prompts are harmful by design. Their purpose is to measure what a model refuses.
   Treat them as data: do not print or publish them, and do not train a model to answer them.

=============  ==================================================================================
Languages      high-resource en de fr es it nl pl ru zh ja, mid-resource ar ko th, low-resource yo
Harmful rows   260 train, 39 val, 572 test in each language
Harmless rows  200 train, 200 val, 500 test in each language (zh has no test file)
=============  ==================================================================================

``frame`` has one row per prompt and these columns:

- ``prompt``: the text, in ``language``, exactly as published.
- ``language``: its ISO 639-1 code.
- ``tier``: "high", "mid" or "low", by the language's share of Common Crawl
  (above 1 %, 0.1 to 1 %, below 0.1 %).
- ``harmful``: 1 or 0.
- ``split``: "train", "val" or "test".
- ``category``: the kind of harm, or None if the publication has none (all train rows and all
  harmless rows). The labels come from several source data sets, so one kind of harm can have
  several names.
- ``row_id``: the same for a prompt and its translations, such as "harmful-train-0017" (counted from
  0). Group by it when you split, so that a prompt and its translations stay on one side.

What to know before using it:

- Rows are parallel across languages, except for the zh harmless train and val files, which hold
  other prompts. These have ids of their own ("harmless-train-zh-0017").
- There are no zh harmless test prompts, so all zh test rows are harmful.
- Harmful test prompts repeat: in English, ten pairs of rows have the same text under different
  categories: 4 = 174, 14 = 163, 24 = 243, 39 = 402, 51 = 193, 53 = 257, 54 = 187, 60 = 145,
  61 = 470 and 63 = 491 (numbers as in ``row_id``). Most of their translations are equal too. Put
  both rows of a pair on one side when you split the test rows.
- Train and test are not fully disjoint. harmful-train-0226 equals harmful-test-0008 except for case
  and punctuation. In Thai, harmful-train-0009 = harmful-test-0050 and harmful-train-0252 =
  harmful-test-0079 too. Seven more pairs of train and test, and four of val and test, share at
  least three quarters of their English words.
- Some prompts contain zero-width spaces (U+200B), in every language except en, fr and zh and most
  often in nl.
- A few translations into languages with another script are mostly in Latin script (names, code).

None of this is corrected: the prompts are exactly the published ones.

.. rubric:: Source and license

https://github.com/mainlp/Multilingual-Refusal, Apache License 2.0.

.. rubric:: References

- Wang, Wang, Liu, Schuetze, Plank, "Refusal Direction is Universal Across Safety-Aligned
  Languages", arXiv 2505.17306 (2025): the data.
- Aziz, Hanif, Koto, "Low-Resource Safety Failures Are Action Failures, Not Representation
  Failures", arXiv 2606.01196 (2026): its use for per-language gates.
"""


class _File(NamedTuple):
    """One published file: the prompts of a subset and split in one language."""

    subset: str
    split: str
    language: str

    @property
    def path(self) -> str:
        if self.language == "en" and self.split != "test":
            sampled = "_200_sampled" if self.subset == "harmless" else ""
            return f"dataset/splits/{self.subset}_{self.split}{sampled}.json"
        return f"PolyRefuse/{self.subset}_{self.split}_translated_{self.language}.json"

    @property
    def prompt_field(self) -> str:
        translated_test = self.split == "test" and self.language != "en"
        return "instruction_translated" if translated_test else "instruction"

    @property
    def id_prefix(self) -> str:
        own = f"-{self.language}" if self in _NOT_PARALLEL else ""
        return f"{self.subset}-{self.split}{own}"


@set_module("skgate.datasets")
@fill_docstring
def fetch_polyrefuse(
    *,
    subset: str | Iterable[str] | None = None,
    split: str | Iterable[str] | None = None,
    languages: str | Iterable[str] | None = None,
    data_home: str | os.PathLike[str] | None = None,
    base_path: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    n_retries: int = 3,
    verbose: bool = True,
) -> Bunch:
    """Load PolyRefuse, a data set of harmful and harmless prompts in fourteen languages.

    Only the files that the filters select are downloaded (8 MB for all of them). They are compared
    with known SHA-256 checksums and kept, so a second call needs no network.

    The harmful prompts are harmful by design: use them as data, and do not print them.

    Parameters
    ----------
    subset : {"harmful", "harmless"}, iterable of these or None, default=None
        Which prompts to load. If None, both kinds.
    split : {"train", "val", "test"}, iterable of these or None, default=None
        Which splits to load. If None, all three.
    languages : str, iterable of str or None, default=None
        Which languages to load: ISO 639-1 codes among en de fr es it nl pl ru zh ja ar ko th yo. If
        None, all of them.
    data_home : path-like or None, default=None
        The folder for downloads, which are kept in its subfolder ``polyrefuse``: the texts of
        prompts, harmful ones among them. If None, the user's cache folder,
        ``pooch.os_cache("skgate")``. Not used if the files are read from
        ``base_path`` or ``SKGATE_DATA``.
    base_path : path-like or None, default=None
        A local copy of the public repository, with its folders ``PolyRefuse`` and
        ``dataset/splits``. Nothing is downloaded then. If None, the files are read from the
        subfolder ``polyrefuse`` of the folder that the environment variable ``SKGATE_DATA`` names.
        If that is not set, they are downloaded.
    {download}

    Returns
    -------
    polyrefuse : Bunch
        A dictionary with attributes:

        frame : DataFrame
            One row per prompt with the columns prompt, language, tier, harmful, split, category and
            row_id, which ``DESCR`` describes. The rows are ordered by subset, split, language and
            row.
        data : Series
            ``frame["prompt"]``.
        target : Series of int
            ``frame["harmful"]``.
        target_names : list of str
            ``["harmless", "harmful"]``, the meanings of 0 and 1.
        DESCR : str
            A description of the data, their peculiarities, license and source.

    Raises
    ------
    ValueError
        If a filter names something that PolyRefuse does not have, or if files are not as expected,
        for example not parallel across languages.
    OSError
        If files are missing and ``download_if_missing=False``, if a download fails (a
        ``ConnectionError``), or if a downloaded file differs from the published one.

    Warns
    -----
    UserWarning
        If ``languages`` includes zh and harmless test prompts are selected: there are none in zh.

    Notes
    -----
    Files from ``base_path`` or ``SKGATE_DATA`` are not compared with checksums, because they may be
    a newer version of the public repository. All files are checked for their fields and for being
    parallel, because ``row_id`` relies on that.

    A prompt and its translations share a ``row_id``. Split by it, for example with ``GroupKFold``.

    Examples
    --------
    >>> from skgate.datasets import fetch_polyrefuse
    >>> polyrefuse = fetch_polyrefuse(
    ...     split="train", languages=["en", "yo"]
    ... )  # doctest: +SKIP
    >>> polyrefuse.frame.groupby(["language", "harmful"]).size()  # doctest: +SKIP
    language  harmful
    en        0          200
              1          260
    yo        0          200
              1          260
    dtype: int64
    """
    files = _select_files(subset, split, languages)
    check_n_retries(n_retries)
    root = find_local_root(_REPOSITORY, base_path)
    if root is None:
        lines = _REGISTRY.read_text(encoding="utf-8").splitlines()
        root = download(
            _REPOSITORY,
            _BASE_URL,
            dict(line.split() for line in lines),
            [file.path for file in files],
            data_home=data_home,
            download_if_missing=download_if_missing,
            n_retries=n_retries,
            verbose=verbose,
        )
    frame = _build_frame(files, root)
    return Bunch(
        frame=frame,
        data=frame["prompt"],
        target=frame["harmful"],
        target_names=["harmless", "harmful"],
        DESCR=_DESCR,
    )


def _select_files(
    subset: str | Iterable[str] | None,
    split: str | Iterable[str] | None,
    languages: str | Iterable[str] | None,
) -> list[_File]:
    selected = [
        _File(*key)
        for key in (
            (one_subset, one_split, language)
            for one_subset in choose("subset", subset, _SUBSETS)
            for one_split in choose("split", split, _SPLITS)
            for language in choose("languages", languages, _LANGUAGES)
        )
    ]
    files = [file for file in selected if file != _UNPUBLISHED]
    if not files:
        raise ValueError(
            f"Got subset={subset!r}, split={split!r}, languages={languages!r}, expected a "
            "selection that has files: PolyRefuse has no harmless test prompts in 'zh'."
        )
    if languages is not None and len(files) < len(selected):
        warnings.warn(
            "PolyRefuse has no harmless test prompts in 'zh': its test rows are all harmful.",
            UserWarning,
            stacklevel=find_stack_level(),
        )
    return files


def _build_frame(files: list[_File], root: Path) -> pd.DataFrame:
    rows = {file: _read(file, root) for file in files}
    _check_parallel(rows)
    return pd.DataFrame(
        {
            "prompt": [row[file.prompt_field] for file in files for row in rows[file]],
            "language": [file.language for file in files for _ in rows[file]],
            "tier": [LANGUAGE_TIERS[file.language] for file in files for _ in rows[file]],
            "harmful": [int(file.subset == "harmful") for file in files for _ in rows[file]],
            "split": [file.split for file in files for _ in rows[file]],
            "category": pd.Series(
                [row.get("category") for file in files for row in rows[file]], dtype=object
            ),
            "row_id": [
                f"{file.id_prefix}-{number:04d}"
                for file in files
                for number in range(len(rows[file]))
            ],
        }
    )


def _read(file: _File, root: Path) -> list[dict[str, Any]]:
    path = root / file.path
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is missing, expected a complete copy of {_REPOSITORY.url} in {root}."
        ) from error
    try:
        rows: list[dict[str, Any]] = json.loads(content)
        valid = all(
            isinstance(row[field], str) and row[field].strip()
            for row in rows
            for field in {"instruction", file.prompt_field}
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(_malformed(path, file)) from error
    if not valid or not rows:
        raise ValueError(_malformed(path, file))
    return rows


def _malformed(path: Path, file: _File) -> str:
    fields = " and ".join(sorted({"instruction", file.prompt_field}))
    return f"{path} is not as expected: a JSON list of objects, each with text in {fields}."


def _check_parallel(rows: dict[_File, list[dict[str, Any]]]) -> None:
    """Raise a ValueError if row i is not the same prompt in every language.

    Train and val files share only their length. Test files repeat the English original in each
    language.
    """
    first: dict[str, _File] = {}
    for file, content in rows.items():
        other = first.setdefault(file.id_prefix, file)
        parallel = len(content) == len(rows[other])
        if parallel and file.split == "test":
            pairs = zip(content, rows[other], strict=True)
            parallel = all(row["instruction"] == same["instruction"] for row, same in pairs)
        if not parallel:
            raise ValueError(
                f"{file.path} is not parallel to {other.path}, expected row i of both to be the "
                "same prompt: a prompt and its translations share one row_id."
            )
