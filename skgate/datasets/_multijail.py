"""MultiJail: harmful prompts in ten languages."""

from __future__ import annotations

import ast
import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from sklearn.utils import Bunch

from skgate._base import set_module
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
    name="MultiJail",
    url="https://github.com/DAMO-NLP-SG/multilingual-safety-for-LLMs",
    contents="its file data/MultiJail.csv",
)
# Of a commit, so that the file stays the one with this checksum.
_BASE_URL = (
    "https://raw.githubusercontent.com/DAMO-NLP-SG/multilingual-safety-for-LLMs/"
    "577ac511437e07a256130945ef312a99158a18ad/data/"
)
_FILE = "MultiJail.csv"
_REGISTRY = {_FILE: "2798ed6fe470b80b1f486976e0fb3baa3ce008e62b6ca0abbf2e1ed5b1dfb355"}

_LANGUAGES = ("en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv")
_N_PROMPTS = 315
_COLUMNS = ("id", "source", "tags", *_LANGUAGES)

_DESCR = """\
.. _multijail_dataset:

MultiJail: harmful prompts in ten languages
-------------------------------------------

.. warning::
   The prompts are harmful by design. Their purpose is to measure what a model refuses. Treat them
   as data: do not print or publish them, and do not train a model to answer them.

=============  ==================================================================================
Languages      high-resource en zh it vi, mid-resource ar ko th, low-resource bn sw jv
Harmful rows   315 in each language
Harmless rows  none
=============  ==================================================================================

``frame`` has one row per prompt and these columns:

- ``prompt``: the text, in ``language``, exactly as published.
- ``language``: its ISO 639-1 code.
- ``tier``: "high", "mid" or "low", by the language's share of Common Crawl
  (above 1 %, 0.1 to 1 %, below 0.1 %).
- ``harmful``: always 1.
- ``category``: the kinds of harm, in alphabetical order and joined by "; ", such as
  "Violence & incitement; Weapons". 195 of the 315 prompts have one, the others two to four of 18
  kinds. ``frame["category"].str.get_dummies(sep="; ")`` gives a column for each kind. (The file
  has lists of Python as text, in no fixed order.)
- ``source``: where the English original comes from, as published: "anthropics" (300) or "openai"
  (the last 15).
- ``row_id``: the same for a prompt and its translations, such as "multijail-0017" (the file's own
  number, from 0). Group by it when you split, so that a prompt and its translations stay on one
  side.

What to know before using it:

- There are no harmless prompts. A rate of false alarms, a ROC curve or a balanced accuracy cannot
  be computed from it, and a gate that calls everything harmful catches all of it. Use the harmless
  prompts of PolyRefuse (``fetch_polyrefuse``) in the same language: it has en zh it ar ko th (zh
  in train and val only), and none of vi bn sw jv.
- Harmless prompts from elsewhere differ in more than harm, for example in topic, length and style.
  What separates them from MultiJail need not be harm.
- No cell is empty. No two rows have the same text in one language, except 4 and 11, which are
  equal in ar and sw (numbers as in ``row_id``).
- Four prompts are in PolyRefuse's harmful test rows too: in English, 305 = harmful-test-0345,
  306 = harmful-test-0405, 307 = harmful-test-0530 and 312 = harmful-test-0548, except for case,
  punctuation and line breaks. Leave them out if PolyRefuse's test rows were used to fit or to tune.
  Their translations differ.
- 306 and 307 have line breaks, in every language but zh: CR LF in ar and bn, LF elsewhere.
- White space begins or ends some prompts: vi 165, 250, 266 and 309, sw 189 and 268, jv 10, 155, 181
  and 307. vi 112 contains zero-width spaces (U+200B).
- 41 of the bn prompts are not in Unicode's normal form NFC. Normalize both sides before you compare
  them with other texts.
- Nine zh prompts and one th prompt are partly in Latin script: more than 30 % of their letters.

None of this is corrected: the prompts are exactly the published ones.

.. rubric:: Source and license

https://github.com/DAMO-NLP-SG/multilingual-safety-for-LLMs, file data/MultiJail.csv of commit
577ac51, MIT License, Copyright (c) 2023 Multilingual NLP Team at Alibaba DAMO Academy. The SHA-256
checksum that downloads are compared with was taken from a copy of that file.

.. rubric:: References

- Deng, Zhang, Pan, Bing, "Multilingual Jailbreak Challenges in Large Language Models", arXiv
  2310.06474 (2023): the data, translated by native speakers.
- Aziz, Hanif, Koto, "Low-Resource Safety Failures Are Action Failures, Not Representation
  Failures", arXiv 2606.01196 (2026): its use as prompts unlike those a gate was fitted on.
"""


@set_module("skgate.datasets")
@fill_docstring
def fetch_multijail(
    *,
    languages: str | Iterable[str] | None = None,
    data_home: str | os.PathLike[str] | None = None,
    base_path: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    n_retries: int = 3,
    verbose: bool = True,
) -> Bunch:
    """Load MultiJail, a data set of 315 harmful prompts in ten languages.

    The prompts were translated from English by native speakers [1]_. There are no harmless prompts,
    so a rate of false alarms cannot be measured on it. Use the harmless prompts of
    :func:`fetch_polyrefuse` in the same language for that.

    One file is downloaded (0.3 MB). It is compared with a known SHA-256 checksum and kept, so a
    second call needs no network.

    The prompts are harmful by design: use them as data, and do not print them.

    .. versionadded:: 0.1.0

    Parameters
    ----------
    languages : str, iterable of str or None, default=None
        Which languages to load: ISO 639-1 codes among en zh it vi ar ko th bn sw jv. If None, all
        of them.
    data_home : path-like or None, default=None
        The folder for downloads, which are kept in its subfolder ``multijail``: the texts of
        harmful prompts. If None, the user's cache folder, ``pooch.os_cache("skgate")``. Not used if
        the file is read from ``base_path`` or ``SKGATE_DATA``.
    base_path : path-like or None, default=None
        A local copy of the public repository, with its file ``data/MultiJail.csv``, or a folder
        with ``MultiJail.csv`` itself. Nothing is downloaded then. If None, the file is read from
        the subfolder ``multijail`` of the folder that the environment variable ``SKGATE_DATA``
        names. If that is not set, it is downloaded.
    {download}

    Returns
    -------
    multijail : Bunch
        A dictionary with attributes:

        frame : DataFrame
            One row per prompt with the columns prompt, language, tier, harmful, category, source
            and row_id, which ``DESCR`` describes. The rows are ordered by language and row.
        data : Series
            ``frame["prompt"]``.
        target : Series of int
            ``frame["harmful"]``, which is 1 in every row.
        target_names : list of str
            ``["harmless", "harmful"]``, the meanings of 0 and 1. No row is harmless.
        DESCR : str
            A description of the data, their peculiarities, license and source.

    Raises
    ------
    ValueError
        If ``languages`` names one that MultiJail does not have, or if the file is not as expected,
        for example truncated.
    OSError
        If the file is missing and ``download_if_missing=False``, if the download fails (a
        ``ConnectionError``), or if the downloaded file differs from the published one.

    See Also
    --------
    fetch_polyrefuse : Harmful and harmless prompts, in more languages.

    Notes
    -----
    A file from ``base_path`` or ``SKGATE_DATA`` is not compared with the checksum, because its line
    ends may have been converted. Every file is checked for its columns, its 315 rows and text in
    each cell.

    The checksum was taken from a copy of the published file.

    A prompt and its translations share a ``row_id``. Split by it, for example with ``GroupKFold``.

    References
    ----------
    .. [1] Deng, Zhang, Pan, Bing, "Multilingual Jailbreak Challenges in Large Language Models",
       arXiv 2310.06474 (2023).

    Examples
    --------
    >>> from skgate.datasets import fetch_multijail
    >>> multijail = fetch_multijail(languages=["en", "sw"])  # doctest: +SKIP
    >>> multijail.frame.groupby(["language", "tier", "harmful"]).size()  # doctest: +SKIP
    language  tier  harmful
    en        high  1          315
    sw        low   1          315
    dtype: int64

    A prompt can have several kinds of harm:

    >>> kinds = multijail.frame["category"].str.get_dummies(sep="; ")  # doctest: +SKIP
    >>> int(kinds["Theft"].sum())  # doctest: +SKIP
    56
    """
    selected = choose("languages", languages, _LANGUAGES)
    check_n_retries(n_retries)
    root = find_local_root(_REPOSITORY, base_path)
    if root is None:
        root = download(
            _REPOSITORY,
            _BASE_URL,
            _REGISTRY,
            [_FILE],
            data_home=data_home,
            download_if_missing=download_if_missing,
            n_retries=n_retries,
            verbose=verbose,
        )
    frame = _build_frame(_read(_find_file(root)), selected)
    return Bunch(
        frame=frame,
        data=frame["prompt"],
        target=frame["harmful"],
        target_names=["harmless", "harmful"],
        DESCR=_DESCR,
    )


def _find_file(root: Path) -> Path:
    """Find the file in a copy of the repository, or in a folder of its own."""
    for path in (root / _FILE, root / "data" / _FILE):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{_FILE} is missing in {root} and in its subfolder data, expected a copy of "
        f"{_REPOSITORY.url}."
    )


def _read(path: Path) -> list[dict[str, str]]:
    """Read the rows of the file, with the tags of each as they are joined in ``category``."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # the file begins with a BOM
        # Without newline="", line breaks inside prompts would be converted.
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(_malformed(path, f"it cannot be read ({error})")) from error
    missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(_malformed(path, f"it has no column {', '.join(missing)}"))
    for number, row in enumerate(rows):
        # DictReader fills what is missing with None, and keeps what is too much under None.
        if None in row or not all((row[column] or "").strip() for column in _COLUMNS):
            raise ValueError(_malformed(path, f"row {number} has empty, missing or surplus cells"))
        # No cell is quoted: if the columns are mixed up, it may be a prompt.
        if row["id"] != str(number):
            raise ValueError(_malformed(path, f"row {number} has another id"))
        tags = _parse_tags(row["tags"])
        if not tags:
            raise ValueError(_malformed(path, f"the tags of row {number} are no list of str"))
        row["tags"] = "; ".join(sorted(tags))
    if len(rows) != _N_PROMPTS:
        raise ValueError(_malformed(path, f"it has {len(rows)} rows"))
    return rows


def _parse_tags(text: str) -> list[str] | None:
    """Read a list of Python that is written as text; None if it is something else."""
    try:
        tags = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    valid = isinstance(tags, list) and all(isinstance(tag, str) and tag for tag in tags)
    return tags if valid else None


def _malformed(path: Path, problem: str) -> str:
    return (
        f"{path} is not as expected: {problem}. Expected a CSV file in UTF-8 with the columns "
        f"{', '.join(_COLUMNS)}, {_N_PROMPTS} rows with the ids 0 to {_N_PROMPTS - 1}, text in "
        "each cell, and tags that are a list of str. It may be truncated, or another file."
    )


def _build_frame(rows: list[dict[str, str]], languages: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "prompt": row[language],
                "language": language,
                "tier": LANGUAGE_TIERS[language],
                "harmful": 1,
                "category": row["tags"],
                "source": row["source"],
                "row_id": f"multijail-{int(row['id']):04d}",
            }
            for language in languages
            for row in rows
        ]
    )
