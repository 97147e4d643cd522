"""sample_for_review and read_review: what is drawn, what is written, what comes back."""

from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from skgate.judges import agreement, read_review, sample_for_review

LANGUAGE = np.repeat(["en", "yo"], [150, 50])
REFUSED = np.r_[np.arange(150) < 30, np.arange(50) < 4]
REPLIES = [f"reply {i}" for i in range(200)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "review.csv"


def draw(path, n=60, random_state=0, **changes):
    given = {"language": LANGUAGE, "refused": REFUSED, **changes}
    return sample_for_review(REPLIES, path=path, n=n, random_state=random_state, **given)


def rows_of(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows, delimiter=",", encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def fill(path, verdict):
    """Enter verdicts in the sheet as a person would."""
    rows = [{**row, "verdict": verdict(row)} for row in rows_of(path)]
    write_rows(path, rows)
    return rows


# The draw


def test_languages_and_verdicts_are_drawn_evenly(path):
    sample = draw(path)
    sizes = sample.groupby(["language", "refused"]).size()
    # 4 is all that there are; the others share the rest
    assert sizes["yo", True] == 4
    assert sorted(sizes.drop(("yo", True))) == [18, 19, 19]
    assert len(sample) == 60


def test_the_sample_is_indexed_by_position_and_each_reply_is_drawn_once(path):
    sample = draw(path)
    assert sample.index.name == "position"
    assert sample.index.is_monotonic_increasing
    assert sample.index.is_unique
    assert sample["language"].tolist() == LANGUAGE[sample.index].tolist()
    assert sample["refused"].tolist() == REFUSED[sample.index].tolist()


def test_weights_are_the_inverse_of_the_share_drawn(path):
    sample = draw(path)
    for (language, refused), group in sample.groupby(["language", "refused"]):
        n_all = ((language == LANGUAGE) & (refused == REFUSED)).sum()
        np.testing.assert_allclose(group["weight"], n_all / len(group))
    assert sample["weight"].sum() == pytest.approx(200)


def test_weighted_estimates_are_unbiased(tmp_path):
    """The true rate is the mean of the weighted share over draws; that of the plain share isn't."""
    true = REFUSED | (np.arange(200) % 10 == 9)
    weighted, plain = [], []
    for seed in range(200):
        sample = draw(tmp_path / f"{seed}.csv", random_state=seed)
        weighted.append(np.average(true[sample.index], weights=sample["weight"]))
        plain.append(true[sample.index].mean())
    assert np.mean(weighted) == pytest.approx(true.mean(), abs=0.01)
    assert np.mean(plain) > true.mean() + 0.1


def test_the_seed_determines_the_draw(tmp_path):
    first, again = (draw(tmp_path / f"{i}.csv") for i in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert rows_of(tmp_path / "0.csv") == rows_of(tmp_path / "1.csv")
    assert not first.index.equals(draw(tmp_path / "2.csv", random_state=1).index)


def test_abstentions_are_a_third_verdict(path):
    refused = np.where(np.arange(200) % 20 == 0, np.nan, REFUSED)
    sample = draw(path, refused=refused, language=None, n=30)
    assert list(sample) == ["refused", "weight"]
    assert Counter(sample["refused"].fillna(-1)) == {-1: 10, 0: 10, 1: 10}


def test_without_languages_and_verdicts_every_reply_is_as_likely(path):
    sample = draw(path, language=None, refused=None)
    assert list(sample) == ["weight"]
    np.testing.assert_allclose(sample["weight"], 200 / 60)


def test_all_replies_if_there_are_fewer_than_n(path):
    sample = draw(path, n=1000)
    assert sample.index.tolist() == list(range(200))
    assert set(sample["weight"]) == {1}


# The sheet


def test_the_sheet_is_blind_shuffled_and_has_every_reply_of_the_sample(path):
    sample = draw(path, prompts=[f"prompt {i}" for i in range(200)])
    rows = rows_of(path)
    assert list(rows[0]) == ["id", "language", "prompt", "reply", "verdict"]
    found = [int(row["reply"].removeprefix("reply ")) for row in rows]
    assert sorted(found) == sample.index.tolist()
    assert found != sorted(found)
    for row, i in zip(rows, found, strict=True):
        assert row["prompt"] == f"prompt {i}"
        assert row["language"] == LANGUAGE[i]
        assert row["verdict"] == ""
    # Refusals are not all at one end
    assert 20 < np.mean(np.flatnonzero(REFUSED[found])) < 40


def test_spreadsheets_see_utf_8(path):
    reply = 'ọ̀rọ̀, "with" quotes;\nand a second line'
    sample_for_review([reply, "\ud800 half"], path=path, random_state=0)
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    assert {row["reply"] for row in rows_of(path)} == {reply, "\\ud800 half"}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", "\n="])
def test_no_cell_is_a_formula(path, start):
    text = f"{start}1+1"
    sample_for_review([text, "a=1"], [text, "b"], language=["-en", "yo"], path=path)
    by_prompt = {row["prompt"]: row for row in rows_of(path)}
    assert by_prompt["b"]["reply"] == "a=1"
    guarded = by_prompt[f"'{text}"]
    assert guarded["reply"] == f"'{text}"
    assert guarded["language"] == "'-en"


def test_a_chat_is_shown_message_by_message(path):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
    ]
    sample_for_review(["Hi"], [chat], path=path)
    assert rows_of(path)[0]["prompt"] == "system: Be brief.\nuser: Hello"


def test_an_existing_sheet_is_not_overwritten(path):
    path.write_text("verdicts", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"review\.csv"):
        draw(path)
    assert path.read_text(encoding="utf-8") == "verdicts"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n": 3}, ValueError, "Got n=3, expected at least 4, one for each combination"),
        ({"n": 0}, ValueError, "n == 0"),
        ({"refused": [True]}, ValueError, "Got 1 values of refused, expected 200"),
        ({"refused": ["no"] * 200}, ValueError, r"Got refused\[0\]='no'"),
        ({"language": ["en"]}, ValueError, "language of length 1, expected 200"),
        ({"prompts": ["a"]}, ValueError, "Got 1 prompts, expected 200"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(path, changes, error, message):
    with pytest.raises(error, match=message):
        draw(path, **changes)
    assert not path.exists()


def test_bad_replies(path):
    with pytest.raises(ValueError, match="Got no replies"):
        sample_for_review([], path=path)
    with pytest.raises(TypeError, match=r"Got replies\[0\]=None"):
        sample_for_review([None], path=path)


# The way back


def test_verdicts_come_back_by_position(path):
    sample = draw(path)
    answers = ["refused", " Refused ", "Y", "answered", "n", "GARBLED", "", " "]
    expected = ["refused"] * 3 + ["answered"] * 2 + ["garbled", None, None]
    rows = fill(path, lambda row: answers[int(row["reply"].split()[1]) % 8])
    review = read_review(path)
    assert review.index.equals(sample.index)
    assert review.index.name == "position"
    assert review["verdict"].tolist() == [expected[i % 8] for i in review.index]
    assert len(rows) == len(review)


def test_judge_and_person_are_compared(path):
    sample = draw(path)
    fill(path, lambda row: "ny"[int(REFUSED[int(row["reply"].split()[1])])])
    review = sample.join(read_review(path))
    table = agreement("refused", "verdict", data=review, by="language", sample_weight="weight")
    assert table["kappa"].tolist() == [1, 1, 1]
    assert table.loc["all", "n"] == 60


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_sheets_that_a_spreadsheet_has_saved(path, delimiter, encoding):
    """Sorted, with another separator, with a further column and empty rows at the end."""
    sample = draw(path, prompts=["a; b, c\t\nd"] * 200)
    rows = sorted(rows_of(path), key=lambda row: row["reply"])
    rows = [{"comment": "", **row, "Verdict ": "n"} for row in rows]
    for row in rows:
        del row["verdict"]
    write_rows(path, [*rows, dict.fromkeys(rows[0], "")], delimiter, encoding)
    review = read_review(path)
    assert review.index.equals(sample.index)
    assert set(review["verdict"]) == {"answered"}


def test_a_long_reply_survives(path):
    sample_for_review(["word " * 60_000], path=path)
    assert read_review(path)["verdict"].tolist() == [None]


def edit(change):
    def apply(path):
        rows = rows_of(path)
        change(rows)
        write_rows(path, rows)

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (edit(lambda rows: rows[3].update(verdict="maybe")), "Got verdict='maybe' in row 5 of rev"),
        (edit(lambda rows: rows[3].update(id="7")), "Got id='7' in row 5 of review.csv"),
        (edit(lambda rows: rows.pop(3)), r"Got 59 of 60 rows .*Missing: rows \[4\]"),
        (edit(lambda rows: rows.append(rows[3])), r"Got rows \[4\] of 60 more than once"),
        (edit(lambda rows: rows[3].update(id="r7-4of61")), "Got rows of 2 sheets"),
        (edit(lambda rows: rows.__delitem__(slice(1, None)) or rows[0].update(
            dict.fromkeys(rows[0], ""))), "Got no rows in review.csv"),
        (lambda path: path.write_text("id,reply\nr1-1of1,no\n"), "with one column 'verdict'"),
        (lambda path: path.write_text(""), "Got a file that can't be read, expected a sheet"),
        (lambda path: path.write_bytes(b"id,verdict\n\xff,y\n"), "a CSV file in UTF-8"),
    ],
)  # fmt: skip
def test_a_spoilt_sheet_is_an_error_that_names_what_is_wrong(path, spoil, message):
    draw(path)
    spoil(path)
    with pytest.raises(ValueError, match=message):
        read_review(path)


def test_no_sheet(path):
    with pytest.raises(FileNotFoundError, match=r"review\.csv"):
        read_review(path)
