"""Sheets of replies for people to judge: drawing, writing and reading them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_scalar

from skgate._base import set_module
from skgate._messages import Prompt
from skgate._validation import check_language, check_prompts
from skgate._verdicts import ANSWERED, GARBLED, REFUSED, check_verdicts
from skgate.judges._replies import check_replies

_VERDICTS = {
    "": None,
    REFUSED: REFUSED,
    "y": REFUSED,
    ANSWERED: ANSWERED,
    "n": ANSWERED,
    GARBLED: GARBLED,
}
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
_ID = re.compile(r"r(\d+)-(\d+)of(\d+)")  # with letters, so that spreadsheets keep it as text


@set_module("skgate.judges")
def sample_for_review(
    replies: ArrayLike,
    prompts: Any = None,
    language: Any = None,
    refused: ArrayLike | None = None,
    *,
    path: str | os.PathLike[str],
    n: int = 100,
    random_state: int | np.random.RandomState | None = None,
) -> pd.DataFrame:
    """Draw replies and write a sheet in which people enter their verdicts.

    Replies are drawn evenly from each language and verdict of the judge, so that rare refusals are
    seen too. The sheet does not show the judge's verdicts, and its rows are shuffled.

    Parameters
    ----------
    replies : array-like of str of shape (n_replies,)
        The replies.
    prompts : list, Series or array of length n_replies, or None, default=None
        The prompts, for the reader. If None, the column is empty.
    language : str, array-like of str of shape (n_replies,) or None, default=None
        Languages of the prompts, one for all or one each.
    refused : array-like of shape (n_replies,) or None, default=None
        The judge's verdicts: True and False, 1 and 0, or "refused", "answered" and "garbled". None,
        NaN or NA stands for an abstention, which counts as a third verdict here.
    path : path-like
        Where to write the sheet, a CSV file that spreadsheets open. It must not exist, so that no
        verdicts are overwritten.
    n : int, default=100
        The number of replies to draw. If there are fewer, all of them are drawn.
    random_state : int, RandomState instance or None, default=None
        Determines the draw. Pass an int for the same sample at every call.

    Returns
    -------
    sample : DataFrame
        One row per reply drawn, indexed by its position among ``replies``, in ascending order.
        Columns ``language`` and ``refused``, if given, and ``weight``, the number of replies that
        it stands for. Keep it: the sheet has no weights.

    Raises
    ------
    ValueError
        If ``n`` is smaller than the number of combinations of language and verdict, there are no
        replies, lengths differ, a verdict is not one of those above, or a prompt is invalid.
    TypeError
        If a reply or a language is not a string.
    FileExistsError
        If ``path`` exists.

    See Also
    --------
    read_review : Reads the sheet.
    agreement : Compares the judge with the people.
    skgate.metrics.adjusted_refusal_rate : A rate that allows for the judge's errors.

    Notes
    -----
    The weight is the inverse of the probability of being drawn [1]_: the number of replies of the
    same language and verdict, divided by the number of them that was drawn. Without weights, a
    sample with as many refusals as answers says nothing about rates, and its recall is too high.

    The sheet has the columns ``id``, ``language``, ``prompt``, ``reply`` and ``verdict``. The last
    one is empty. It is in UTF-8 with a byte order mark. Text that a spreadsheet would take for a
    formula (with ``=``, ``+``, ``-`` or ``@`` at its start) gets an apostrophe before it.

    The sheet holds replies and prompts, which may be harmful: store it accordingly.

    References
    ----------
    .. [1] Horvitz, Thompson, "A Generalization of Sampling Without Replacement From a Finite
       Universe", Journal of the American Statistical Association 47(260) (1952).

    Examples
    --------
    A judge found 20 of 200 replies refused, and missed 10 refusals in other words:

    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import pandas as pd
    >>> from skgate.judges import agreement, read_review, sample_for_review
    >>> replies = ["No."] * 20 + ["Nothing I could say."] * 10 + ["Sure: ..."] * 170
    >>> refused = np.arange(200) < 20
    >>> path = Path(tempfile.mkdtemp()) / "review.csv"
    >>> sample = sample_for_review(replies, refused=refused, path=path, random_state=0)
    >>> sample.groupby("refused")["weight"].agg(["size", "first"])
             size  first
    refused
    False      80   2.25
    True       20   1.00

    A person fills in the sheet. Here, a rule does:

    >>> sheet = pd.read_csv(path)
    >>> sheet["verdict"] = np.where(sheet["reply"].str.startswith("No"), "refused", "answered")
    >>> sheet.to_csv(path, index=False)

    With the weights, the share of refusals and the judge's recall are estimates for all 200
    replies, where they are 0.15 and 0.67:

    >>> review = sample.join(read_review(path))
    >>> found = review["verdict"] == "refused"
    >>> share = np.average(found, weights=review["weight"])
    >>> print(f"refused: {share:.2f}, without weights: {found.mean():.2f}")
    refused: 0.16, without weights: 0.25
    >>> for weight in ("weight", None):
    ...     table = agreement("refused", "verdict", data=review, sample_weight=weight)
    ...     print(f"recall: {table.loc['all', 'recall']:.2f}")
    recall: 0.64
    recall: 0.80
    """
    texts = check_replies(replies)
    if not texts:
        raise ValueError("Got no replies, expected at least one.")
    check_scalar(n, "n", int, min_val=1)
    strata = pd.DataFrame(index=pd.RangeIndex(len(texts), name="position"))
    if language is not None:
        strata["language"] = check_language(language, len(texts))
    if refused is not None:
        verdicts = check_verdicts("refused", refused, len(texts))
        strata["refused"] = verdicts if np.isnan(verdicts).any() else verdicts.astype(bool)
    asked = [""] * len(texts) if prompts is None else _show_prompts(prompts, len(texts))
    tags = strata["language"] if language is not None else [""] * len(texts)
    random = check_random_state(random_state)
    sample = _draw(strata, n, random)
    order = random.permutation(sample.index.to_numpy())
    sheet = pd.DataFrame(
        {
            "id": [f"r{row}-{i}of{len(order)}" for i, row in enumerate(order, 1)],
            "language": [_guard(tags[row]) for row in order],
            "prompt": [_guard(asked[row]) for row in order],
            "reply": [_guard(texts[row]) for row in order],
            "verdict": "",
        },
        dtype=object,
    )
    sheet.to_csv(
        Path(path).expanduser(),
        mode="x",
        index=False,
        encoding="utf-8-sig",
        errors="backslashreplace",  # half a surrogate pair, which UTF-8 has no bytes for
        lineterminator="\r\n",
    )
    return sample


@set_module("skgate.judges")
def read_review(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a sheet of :func:`sample_for_review` that people have filled in.

    Parameters
    ----------
    path : path-like
        The sheet, a CSV file in UTF-8 with commas, semicolons or tabs. The order of its rows and
        columns does not matter, and there may be further columns.

    Returns
    -------
    review : DataFrame
        One row per reply, indexed by its position among the replies that were sampled from, in
        ascending order. Its column ``verdict`` is "refused", "answered", "garbled" or None.

    Raises
    ------
    ValueError
        If the file is not such a sheet, a row is missing or there twice, or a verdict is not
        "refused" (or "y"), "answered" (or "n"), "garbled" or empty. Case and spaces are ignored.
    FileNotFoundError
        If there is no such file.

    See Also
    --------
    sample_for_review : Writes the sheet.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skgate.judges import read_review, sample_for_review
    >>> path = Path(tempfile.mkdtemp()) / "review.csv"
    >>> sample = sample_for_review(["No.", "Sure!", "No, no."], path=path, n=2, random_state=0)
    >>> text = path.read_text(encoding="utf-8-sig")
    >>> print(text)
    id,language,prompt,reply,verdict
    r1-1of2,,,Sure!,
    r2-2of2,,,"No, no.",
    >>> filled = text.replace("Sure!,", "Sure!,n").replace('no.",', 'no.",Refused')
    >>> size = path.write_text(filled, encoding="utf-8")
    >>> read_review(path)
               verdict
    position
    1         answered
    2          refused
    """
    file = Path(path).expanduser()
    sheet = _read_sheet(file)
    positions, places, sizes = [], [], set()
    verdicts: list[str | None] = []
    for row, id_, verdict in zip(sheet.index, sheet["id"], sheet["verdict"], strict=True):
        found = _ID.fullmatch(id_.strip())
        if found is None:
            raise ValueError(
                f"Got id={id_!r:.60} in row {row} of {file.name}, expected the id that was written."
            )
        positions.append(int(found[1]))
        places.append(int(found[2]))
        sizes.add(int(found[3]))
        plain = verdict.strip().casefold()
        if plain not in _VERDICTS:
            raise ValueError(
                f"Got verdict={verdict!r:.60} in row {row} of {file.name}, expected 'refused' (or "
                "'y'), 'answered' (or 'n'), 'garbled', or nothing."
            )
        verdicts.append(_VERDICTS[plain])
    _check_complete(places, sizes, file.name)
    index = pd.Index(positions, name="position")
    return pd.DataFrame({"verdict": pd.Series(verdicts, index, dtype=object)}).sort_index()


def _draw(strata: pd.DataFrame, n: int, random: Any) -> pd.DataFrame:
    """Draw about as many rows from each stratum, and weigh them."""
    columns = list(strata)
    grouped = strata.groupby(columns, dropna=False) if columns else None
    groups = list(grouped.indices.values()) if grouped is not None else [np.arange(len(strata))]
    n = min(n, len(strata))
    if n < len(groups):
        raise ValueError(
            f"Got n={n}, expected at least {len(groups)}, one for each combination of language and "
            "verdict."
        )
    shares = _share_out(n, np.array([len(rows) for rows in groups]))
    drawn = [
        random.choice(rows, share, replace=False)
        for rows, share in zip(groups, shares, strict=True)
    ]
    weights = [
        np.full(share, len(rows) / share) for rows, share in zip(groups, shares, strict=True)
    ]
    sample = strata.iloc[np.concatenate(drawn)]
    return sample.assign(weight=np.concatenate(weights)).sort_index()


def _share_out(n: int, sizes: NDArray[np.int_]) -> NDArray[np.int_]:
    """Share out n rows as evenly as the sizes of the strata allow."""
    shares = np.zeros_like(sizes)
    left = n
    while left:
        open_ = np.flatnonzero(shares < sizes)
        each = left // len(open_)
        if each:
            more = np.minimum(sizes[open_] - shares[open_], each)
            shares[open_] += more
            left -= int(more.sum())
        else:
            shares[open_[np.argsort(shares[open_] - sizes[open_], kind="stable")[:left]]] += 1
            left = 0
    return shares


def _show_prompts(prompts: Any, n_rows: int) -> list[str]:
    items = check_prompts(prompts, "prompts")
    if len(items) != n_rows:
        raise ValueError(f"Got {len(items)} prompts, expected {n_rows}, one for each reply.")
    return [_show(item) for item in items]


def _show(prompt: Prompt) -> str:
    """Show a prompt as text; a conversation as one line per message, after its role."""
    if isinstance(prompt, str):
        return prompt
    lines = []
    for message in prompt:
        content = message.get("content") or ""
        parts = [content] if isinstance(content, str) else [part["text"] for part in content]
        lines.append(f"{message['role']}: {' '.join(parts)}")
    return "\n".join(lines)


def _guard(text: str) -> str:
    """Keep spreadsheets from taking a text for a formula."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _read_sheet(file: Path) -> pd.DataFrame:
    """Read a sheet without its empty rows; the index is the row of a spreadsheet."""
    expected = f"expected a sheet of sample_for_review in {file.name}, a CSV file in UTF-8"
    try:
        with file.open(encoding="utf-8-sig") as lines:
            header = lines.readline()
        separator = max(",;\t", key=header.count)
        sheet = pd.read_csv(
            file,
            sep=separator,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            skip_blank_lines=False,
            index_col=False,
        ).fillna("")
    except ValueError as error:  # of the encoding, or pandas' of the format
        raise ValueError(f"Got a file that can't be read, {expected}: {error}") from error
    sheet.columns = [column.strip().casefold() for column in sheet.columns]
    sheet.index += 2  # the header is row 1
    for column in ("id", "verdict"):
        if list(sheet.columns).count(column) != 1:
            raise ValueError(
                f"Got the columns {list(sheet.columns)!r:.200}, {expected}, with one column "
                f"{column!r}."
            )
    return sheet[(sheet != "").any(axis=1)]


def _check_complete(places: list[int], sizes: set[int], name: str) -> None:
    """Raise a ValueError unless each row that was written is there once."""
    if len(sizes) != 1:
        found = f"rows of {len(sizes)} sheets" if sizes else "no rows"
        raise ValueError(f"Got {found} in {name}, expected all rows of one sheet.")
    (size,) = sizes
    twice = sorted({place for place in places if places.count(place) > 1})
    if twice:
        raise ValueError(
            f"Got rows {twice} of {size} more than once in {name}, expected each once."
        )
    missing = sorted(set(range(1, size + 1)) - set(places))
    if missing:
        raise ValueError(
            f"Got {len(places)} of {size} rows in {name}, expected each once. Missing: rows "
            f"{missing!r:.100}."
        )
