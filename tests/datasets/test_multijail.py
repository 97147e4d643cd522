"""fetch_multijail, on a made-up copy of the file and, where it is at hand, the real one."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import unicodedata
from pathlib import Path

import pytest
from serving import serve

from skgate.datasets import _multijail, fetch_multijail, fetch_polyrefuse

REAL_DATA = os.environ.get("SKGATE_DATA")
LANGUAGES = ["en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv"]
COLUMNS = ["prompt", "language", "tier", "harmful", "category", "source", "row_id"]
N_PROMPTS = 315


@pytest.fixture(autouse=True)
def no_data_from_the_environment(monkeypatch):
    monkeypatch.delenv("SKGATE_DATA", raising=False)


def _rows():
    """Made-up rows; one prompt has line breaks, quotes, a comma and space around it."""
    rows = [
        {
            "id": str(number),
            "source": "anthropics" if number < 300 else "openai",
            "tags": "['Silly', 'Odd (e.g. this, that, etc.)']" if number % 2 else "['Silly']",
            **{language: f"{language} {number}" for language in LANGUAGES},
        }
        for number in range(N_PROMPTS)
    ]
    rows[7]["sw"] = ' one,\r\n"two"\n\nthree '
    return rows


def _write(path, rows, columns=("id", "source", "tags", *LANGUAGES)):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.getvalue().encode("utf-8-sig"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "copy" / "MultiJail.csv"
    _write(path, _rows())
    return path


@pytest.fixture
def server(file, monkeypatch):
    """Serve the made-up file on loopback; give the list of paths that were asked for."""
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(_multijail, "_REGISTRY", {"MultiJail.csv": checksum})
    with serve(file.parent) as (url, requested):
        monkeypatch.setattr(_multijail, "_BASE_URL", url)
        yield requested


# What comes back


def test_bunch_holds_frame_data_target_and_description(file):
    bunch = fetch_multijail(base_path=file.parent)
    assert list(bunch.frame.columns) == COLUMNS
    assert len(bunch.frame) == 10 * N_PROMPTS
    assert bunch.data.equals(bunch.frame["prompt"])
    assert bunch.target.equals(bunch.frame["harmful"])
    assert bunch.target_names[bunch.target.unique().item()] == "harmful"
    for needed in ("harmful by design", "no harmless prompts", "MIT License", "2310.06474"):
        assert needed in bunch.DESCR


def test_prompt_is_the_cell_of_its_language_unchanged(file):
    frame = fetch_multijail(base_path=file.parent).frame
    expected = [row[language] for language in LANGUAGES for row in _rows()]
    assert frame["prompt"].tolist() == expected
    assert frame["language"].tolist() == [name for name in LANGUAGES for _ in range(N_PROMPTS)]


def test_tier_is_by_language(file):
    frame = fetch_multijail(base_path=file.parent).frame
    tiers = frame.groupby("tier")["language"].unique().map(set).to_dict()
    assert tiers == {
        "high": {"en", "zh", "it", "vi"},
        "mid": {"ar", "ko", "th"},
        "low": {"bn", "sw", "jv"},
    }


def test_row_id_is_shared_by_translations_and_unique_within_a_language(file):
    frame = fetch_multijail(base_path=file.parent).frame
    assert not frame.duplicated(["language", "row_id"]).any()
    shared = frame[frame["row_id"] == "multijail-0012"]
    assert shared["prompt"].tolist() == [f"{language} 12" for language in LANGUAGES]


def test_category_joins_the_tags_in_alphabetical_order(file):
    frame = fetch_multijail(base_path=file.parent, languages="en").frame
    assert frame["category"].iloc[:2].tolist() == ["Silly", "Odd (e.g. this, that, etc.); Silly"]
    kinds = frame["category"].str.get_dummies(sep="; ")
    assert kinds.sum().to_dict() == {"Odd (e.g. this, that, etc.)": 157, "Silly": 315}


def test_source_is_as_published(file):
    frame = fetch_multijail(base_path=file.parent, languages="jv").frame
    assert frame["source"].value_counts().to_dict() == {"anthropics": 300, "openai": 15}


def test_a_file_without_byte_order_mark_gives_the_same(file):
    frame = fetch_multijail(base_path=file.parent).frame
    file.write_bytes(file.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    assert fetch_multijail(base_path=file.parent).frame.equals(frame)


# Parameters


def test_languages_are_selected_in_the_order_of_the_file(file):
    one = fetch_multijail(base_path=file.parent, languages=["sw", "en"]).frame
    other = fetch_multijail(base_path=file.parent, languages={"en", "sw"}).frame
    assert one.equals(other)
    assert one["language"].unique().tolist() == ["en", "sw"]


@pytest.mark.parametrize("value", ["yo", "", [], ["en", "klingon"], [1]])
def test_unknown_language_is_named_with_what_is_expected(file, value):
    with pytest.raises(ValueError, match=r"Got languages=.*, expected None or one or more of 'en'"):
        fetch_multijail(base_path=file.parent, languages=value)


def test_languages_of_another_type(file):
    with pytest.raises(TypeError, match="Got languages=3, expected"):
        fetch_multijail(base_path=file.parent, languages=3)


def test_n_retries_must_be_a_count(file):
    with pytest.raises(ValueError, match="Got n_retries=-1, expected"):
        fetch_multijail(base_path=file.parent, n_retries=-1)


# Local copies


def test_base_path_may_be_a_copy_of_the_repository(file, tmp_path):
    frame = fetch_multijail(base_path=file.parent).frame
    file.parent.rename(tmp_path / "data")
    assert fetch_multijail(base_path=str(tmp_path)).frame.equals(frame)


def test_environment_variable_names_the_folder_that_holds_multijail(file, tmp_path, monkeypatch):
    file.parent.rename(tmp_path / "multijail")
    monkeypatch.setenv("SKGATE_DATA", str(tmp_path))
    assert len(fetch_multijail(languages="sw").frame) == N_PROMPTS


def test_base_path_comes_before_the_environment(file, tmp_path, monkeypatch):
    monkeypatch.setenv("SKGATE_DATA", str(tmp_path / "nowhere"))
    assert len(fetch_multijail(base_path=file.parent, languages="sw").frame) == N_PROMPTS
    with pytest.raises(FileNotFoundError, match="environment variable SKGATE_DATA"):
        fetch_multijail()


def test_base_path_that_is_no_folder(file):
    with pytest.raises(FileNotFoundError, match=r"csv' from base_path, expected a folder"):
        fetch_multijail(base_path=file)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"MultiJail\.csv is missing in .* expected a copy"):
        fetch_multijail(base_path=tmp_path)


# Files that are not as expected


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it has no column id, source, tags, en, zh"),
        (b"404: Not Found", "it has no column id"),
        ("id,source,é".encode("latin-1"), "it cannot be read"),
    ],
)
def test_another_file(file, content, problem):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"MultiJail\.csv is not as expected: {problem}"):
        fetch_multijail(base_path=file.parent)


def test_file_without_a_language_is_an_error_even_if_it_is_not_asked_for(file):
    _write(file, _rows(), ["id", "source", "tags", *LANGUAGES[:-1]])
    with pytest.raises(ValueError, match="it has no column jv"):
        fetch_multijail(base_path=file.parent, languages="en")


@pytest.mark.parametrize(
    ("end", "problem"),
    [
        (b"\n200,", "it has 200 rows"),
        (b"th 200,", "row 200 has empty, missing or surplus cells"),
        (b"three", "it cannot be read"),
    ],
    ids=["between rows", "within a row", "within quotes"],
)
def test_truncated_file(file, end, problem):
    content = file.read_bytes()
    file.write_bytes(content[: content.index(end)])
    with pytest.raises(ValueError, match=rf"not as expected: {problem}.* truncated"):
        fetch_multijail(base_path=file.parent)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"sw": " "}, "row 3 has empty"),
        ({"source": ""}, "row 3 has empty"),
        ({"id": "4"}, "row 3 has another id"),
        ({"tags": "Theft"}, "the tags of row 3 are no list of str"),
        ({"tags": "'Theft'"}, "the tags of row 3 are no list of str"),
        ({"tags": "[1]"}, "the tags of row 3 are no list of str"),
        ({"tags": "[]"}, "the tags of row 3 are no list of str"),
    ],
)
def test_malformed_row_is_named(file, change, problem):
    rows = _rows()
    rows[3] |= change
    _write(file, rows)
    with pytest.raises(ValueError, match=f"not as expected: {problem}"):
        fetch_multijail(base_path=file.parent)


def test_row_with_a_surplus_cell(file):
    file.write_bytes(file.read_bytes().replace(b"jv 3\n", b"jv 3,more\n"))
    with pytest.raises(ValueError, match="row 3 has empty, missing or surplus cells"):
        fetch_multijail(base_path=file.parent)


# Downloads


def test_download_fetches_the_file_once(server, file, tmp_path, capfd):
    home = tmp_path / "home"
    frame = fetch_multijail(data_home=home).frame
    assert "MultiJail" in capfd.readouterr().err  # the progress bar
    again = fetch_multijail(data_home=home, download_if_missing=False).frame
    assert server == ["/MultiJail.csv"]
    assert again.equals(frame)
    assert fetch_multijail(base_path=file.parent).frame.equals(frame)


def test_data_home_serves_as_environment_folder(server, tmp_path, monkeypatch):
    frame = fetch_multijail(data_home=tmp_path / "home", verbose=False).frame
    monkeypatch.setenv("SKGATE_DATA", str(tmp_path / "home"))
    assert fetch_multijail().frame.equals(frame)
    assert len(server) == 1


def test_verbose_false_prints_nothing(server, tmp_path, capfd):
    fetch_multijail(data_home=tmp_path / "home", verbose=False)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_download_with_another_checksum_is_refused(server, file, tmp_path):
    _write(file, _rows()[::-1])
    with pytest.raises(OSError, match="another SHA-256 checksum than expected"):
        fetch_multijail(data_home=tmp_path / "home", n_retries=0)
    assert not list((tmp_path / "home").rglob("MultiJail.csv"))


def test_offline_error_says_what_to_do(server, tmp_path, monkeypatch):
    monkeypatch.setattr(_multijail, "_BASE_URL", "http://127.0.0.1:1/")
    with pytest.raises(ConnectionError) as caught:
        fetch_multijail(data_home=tmp_path / "home", n_retries=0)
    for needed in (
        "Could not download http://127.0.0.1:1/MultiJail.csv",
        "https://github.com/DAMO-NLP-SG/multilingual-safety-for-LLMs",
        "base_path, or name it 'multijail'",
        "SKGATE_DATA",
    ):
        assert needed in str(caught.value)


def test_download_if_missing_false(server, tmp_path):
    with pytest.raises(OSError, match=r"1 file of MultiJail is .*download_if_missing=False"):
        fetch_multijail(data_home=tmp_path / "home", download_if_missing=False)
    assert server == []


# The published file


@pytest.fixture
def published(monkeypatch):
    if REAL_DATA is None or not Path(REAL_DATA, "multijail").is_dir():
        pytest.skip("SKGATE_DATA names no folder with multijail/")
    monkeypatch.setenv("SKGATE_DATA", REAL_DATA)
    return fetch_multijail().frame


def _numbers(frame, language, chosen):
    """The numbers of the rows in a language for whose prompts a condition holds."""
    part = frame[frame["language"] == language]
    return [int(row_id[-4:]) for row_id in part.loc[part["prompt"].map(chosen), "row_id"]]


def _words(text):
    return tuple(re.sub(r"\W+", " ", text).casefold().split())


def test_published_file_has_the_registered_checksum(published):
    # Private: what a download is compared with is not public.
    from skgate.datasets._multijail import _REGISTRY

    content = Path(REAL_DATA, "multijail", "MultiJail.csv").read_bytes()
    assert {"MultiJail.csv": hashlib.sha256(content).hexdigest()} == _REGISTRY


def test_published_counts(published):
    assert published.groupby("language").size().to_dict() == dict.fromkeys(LANGUAGES, N_PROMPTS)
    english = published[published["language"] == "en"]
    assert english["source"].value_counts().to_dict() == {"anthropics": 300, "openai": 15}
    assert english["source"].iloc[-15:].eq("openai").all()
    kinds = english["category"].str.get_dummies(sep="; ")
    assert kinds.shape[1] == 18
    assert kinds.sum(axis=1).value_counts().to_dict() == {1: 195, 2: 104, 3: 15, 4: 1}


def test_published_prompts_repeat_as_described(published):
    repeated = published[published.duplicated(["language", "prompt"], keep=False)]
    assert list(zip(repeated["language"], repeated["row_id"], strict=True)) == [
        (language, f"multijail-{number:04d}") for language in ("ar", "sw") for number in (4, 11)
    ]
    assert published.groupby("prompt")["language"].nunique().max() == 1


def test_published_prompts_have_the_form_that_is_described(published):
    for language in LANGUAGES:
        broken = [] if language == "zh" else [306, 307]
        assert _numbers(published, language, lambda text: "\n" in text.strip()) == broken
        ends = [306, 307] if language in ("ar", "bn") else []
        assert _numbers(published, language, lambda text: "\r\n" in text) == ends
        padded = {"vi": [165, 250, 266, 309], "sw": [189, 268], "jv": [10, 155, 181, 307]}
        found = _numbers(published, language, lambda text: text != text.strip())
        assert found == padded.get(language, [])
        found = _numbers(published, language, lambda text: "\u200b" in text)
        assert found == ([112] if language == "vi" else [])
        found = _numbers(
            published, language, lambda text: not unicodedata.is_normalized("NFC", text)
        )
        assert len(found) == (41 if language == "bn" else 0)


def test_published_prompts_are_partly_in_latin_script_as_described(published):
    def latin(text):
        names = [unicodedata.name(letter, "") for letter in text if letter.isalpha()]
        return sum(name.startswith("LATIN") for name in names) > 0.3 * len(names)

    counts = {
        name: len(_numbers(published, name, latin)) for name in ("zh", "ar", "ko", "th", "bn")
    }
    assert counts == {"zh": 9, "ar": 0, "ko": 0, "th": 1, "bn": 0}


def test_published_prompts_are_in_polyrefuse_as_described(published):
    if not Path(REAL_DATA, "polyrefuse").is_dir():
        pytest.skip("SKGATE_DATA names no folder with polyrefuse/")
    other = fetch_polyrefuse(languages=["en", "it", "ar", "ko", "th"]).frame
    ours, theirs = (one.assign(prompt=one["prompt"].map(_words)) for one in (published, other))
    both = ours.merge(theirs, on=["language", "prompt"])
    assert both[["language", "row_id_x", "row_id_y"]].to_numpy().tolist() == [
        ["en", "multijail-0305", "harmful-test-0345"],
        ["en", "multijail-0306", "harmful-test-0405"],
        ["en", "multijail-0307", "harmful-test-0530"],
        ["en", "multijail-0312", "harmful-test-0548"],
    ]
