"""fetch_polyrefuse, on a made-up copy of the repository and, where it is at hand, the real one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from serving import serve

import skgate.datasets
from skgate.datasets import _polyrefuse, fetch_polyrefuse

REGISTRY = Path(skgate.datasets.__file__).with_name("_polyrefuse_registry.txt")
REAL_DATA = os.environ.get("SKGATE_DATA")
COLUMNS = ["prompt", "language", "tier", "harmful", "split", "category", "row_id"]
TRANSLATED = ["de", "fr", "es", "it", "nl", "pl", "ru", "zh", "ja", "ar", "ko", "th", "yo"]


@pytest.fixture(autouse=True)
def no_data_from_the_environment(monkeypatch):
    monkeypatch.delenv("SKGATE_DATA", raising=False)


@pytest.fixture
def repository(tmp_path):
    """Write a made-up copy of the repository: 3 prompts per file, schema traps included."""
    root = tmp_path / "repository"
    for subset in ("harmful", "harmless"):
        for split in ("train", "val", "test"):
            category = "silly" if (subset, split) == ("harmful", "test") else None
            for language in ["en", *TRANSLATED]:
                rows = []
                for number in range(3):
                    english, local = (f"{subset} {split} {x} {number}" for x in ("en", language))
                    row = {"instruction": local, "category": category}
                    if split == "test":
                        row["instruction"] = english
                        if (subset, language) != ("harmful", "en"):
                            row["instruction_translated"] = local
                    rows.append(row)
                path = f"PolyRefuse/{subset}_{split}_translated_{language}.json"
                if language == "en" and split != "test":
                    sampled = "_200_sampled" if subset == "harmless" else ""
                    path = f"dataset/splits/{subset}_{split}{sampled}.json"
                if (subset, split, language) != ("harmless", "test", "zh"):
                    (root / path).parent.mkdir(parents=True, exist_ok=True)
                    (root / path).write_text(json.dumps(rows), encoding="utf-8")
    return root


@pytest.fixture
def server(repository, tmp_path, monkeypatch):
    """Serve the made-up repository on loopback; give the list of paths that were asked for."""
    registry = tmp_path / "registry.txt"
    paths = sorted(repository.rglob("*.json"))
    registry.write_text(
        "".join(
            f"{path.relative_to(repository).as_posix()} "
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
            for path in paths
        )
    )
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(_polyrefuse, "_REGISTRY", registry)
    with serve(repository) as (url, requested):
        monkeypatch.setattr(_polyrefuse, "_BASE_URL", url)
        yield requested


def _edit(path: Path, change) -> None:
    rows = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(rows)), encoding="utf-8")


# What comes back


def test_bunch_holds_frame_data_target_and_description(repository):
    bunch = fetch_polyrefuse(base_path=repository)
    assert list(bunch.frame.columns) == COLUMNS
    assert len(bunch.frame) == 83 * 3
    assert bunch.data.equals(bunch.frame["prompt"])
    assert bunch.target.equals(bunch.frame["harmful"])
    assert bunch.target_names == ["harmless", "harmful"]
    for needed in ("harmful by design", "Apache License 2.0", "2505.17306", "row_id"):
        assert needed in bunch.DESCR


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("subset", ["harmful", "harmless"])
@pytest.mark.parametrize("language", ["en", "de", "yo"])
def test_prompt_is_the_text_in_the_row_s_language(repository, subset, split, language):
    frame = fetch_polyrefuse(
        subset=subset, split=split, languages=language, base_path=repository
    ).frame
    assert frame["prompt"].tolist() == [f"{subset} {split} {language} {i}" for i in range(3)]
    assert frame["language"].unique().tolist() == [language]
    assert frame["split"].unique().tolist() == [split]
    assert frame["harmful"].unique().tolist() == [int(subset == "harmful")]


def test_tier_is_by_language(repository):
    frame = fetch_polyrefuse(base_path=repository).frame
    tiers = frame.groupby("tier")["language"].unique().map(set).to_dict()
    assert tiers == {
        "high": {"en", "de", "fr", "es", "it", "nl", "pl", "ru", "zh", "ja"},
        "mid": {"ar", "ko", "th"},
        "low": {"yo"},
    }


def test_row_id_is_shared_by_translations_and_unique_within_a_language(repository):
    frame = fetch_polyrefuse(base_path=repository).frame
    assert not frame.duplicated(["language", "row_id"]).any()
    shared = frame[frame["row_id"] == "harmful-train-0001"]
    assert shared["language"].nunique() == 14
    assert all(prompt.endswith(" 1") for prompt in shared["prompt"])


def test_zh_harmless_train_and_val_have_ids_of_their_own(repository):
    frame = fetch_polyrefuse(base_path=repository).frame
    chinese = frame[(frame["language"] == "zh") & (frame["harmful"] == 0)]
    others = frame[frame["language"] != "zh"]
    assert set(chinese["split"]) == {"train", "val"}
    assert not set(chinese["row_id"]) & set(others["row_id"])
    assert "harmless-train-zh-0002" in set(chinese["row_id"])
    chinese = frame[(frame["language"] == "zh") & (frame["harmful"] == 1)]
    assert set(chinese["row_id"]) <= set(others["row_id"])


def test_category_is_none_where_the_source_has_none(repository):
    frame = fetch_polyrefuse(base_path=repository, languages="en").frame
    given = frame["category"].notna()
    assert frame.loc[given, "category"].tolist() == ["silly"] * 3
    assert all(category is None for category in frame.loc[~given, "category"])


def test_order_of_filters_does_not_change_the_result(repository):
    one = fetch_polyrefuse(base_path=repository, split=["test", "train"], languages=["yo", "en"])
    other = fetch_polyrefuse(base_path=repository, split=("train", "test"), languages={"en", "yo"})
    assert one.frame.equals(other.frame)
    assert one.frame["row_id"].iloc[0] == "harmful-train-0000"


# Filters


@pytest.mark.parametrize("name", ["subset", "split", "languages"])
@pytest.mark.parametrize("value", ["sw", "", [], ["en", "klingon"], [1]])
def test_unknown_value_is_named_with_what_is_expected(repository, name, value):
    with pytest.raises(ValueError, match=rf"Got {name}=.*, expected None or one or more of '"):
        fetch_polyrefuse(base_path=repository, **{name: value})


def test_filter_of_another_type(repository):
    with pytest.raises(TypeError, match="Got split=3, expected"):
        fetch_polyrefuse(base_path=repository, split=3)


def test_selecting_only_what_was_never_published(repository):
    with pytest.raises(ValueError, match="no harmless test prompts in 'zh'"):
        fetch_polyrefuse(subset="harmless", split="test", languages="zh", base_path=repository)


def test_naming_zh_warns_that_its_test_rows_are_all_harmful(repository):
    with pytest.warns(UserWarning, match="no harmless test prompts in 'zh'"):
        frame = fetch_polyrefuse(split="test", languages=["en", "zh"], base_path=repository).frame
    assert len(frame) == 9


def test_n_retries_must_be_a_count(repository):
    assert len(fetch_polyrefuse(base_path=repository, n_retries=np.int64(2)).frame)
    with pytest.raises(ValueError, match="Got n_retries=-1, expected"):
        fetch_polyrefuse(base_path=repository, n_retries=-1)


# Local copies


def test_environment_variable_names_the_folder_that_holds_polyrefuse(
    repository, tmp_path, monkeypatch
):
    repository.rename(tmp_path / "polyrefuse")
    monkeypatch.setenv("SKGATE_DATA", str(tmp_path))
    assert len(fetch_polyrefuse().frame) == 83 * 3


def test_base_path_comes_before_the_environment(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("SKGATE_DATA", str(tmp_path / "nowhere"))
    assert len(fetch_polyrefuse(base_path=str(repository)).frame) == 83 * 3
    with pytest.raises(FileNotFoundError, match="environment variable SKGATE_DATA"):
        fetch_polyrefuse()


def test_base_path_that_is_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere' from base_path, expected a folder"):
        fetch_polyrefuse(base_path=tmp_path / "nowhere")


def test_missing_file_is_named(repository):
    (repository / "PolyRefuse/harmful_val_translated_th.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"harmful_val_translated_th\.json is missing"):
        fetch_polyrefuse(base_path=repository)
    assert len(fetch_polyrefuse(base_path=repository, split="train").frame) == 28 * 3


@pytest.mark.parametrize(
    "content",
    [
        b"no json",
        b"[]",
        b"[1]",
        b"{}",
        b'[{"instruction": " "}]',
        b'[{"instruction": null}]',
        '[{"instruction": "é"}]'.encode("latin-1"),
    ],
)
def test_malformed_file_is_named(repository, content):
    (repository / "dataset/splits/harmful_val.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"harmful_val\.json is not as expected"):
        fetch_polyrefuse(base_path=repository, split="val", languages="en")


def test_test_file_without_translation_is_an_error_rather_than_english(repository):
    path = repository / "PolyRefuse/harmful_test_translated_yo.json"
    _edit(path, lambda rows: [{"instruction": row["instruction"]} for row in rows])
    with pytest.raises(ValueError, match="instruction and instruction_translated"):
        fetch_polyrefuse(base_path=repository)


@pytest.mark.parametrize(
    ("split", "change"), [("train", lambda rows: rows[:-1]), ("test", lambda rows: rows[::-1])]
)
def test_files_that_are_not_parallel(repository, split, change):
    _edit(repository / f"PolyRefuse/harmful_{split}_translated_yo.json", change)
    with pytest.raises(ValueError, match=rf"harmful_{split}_translated_yo\.json is not parallel"):
        fetch_polyrefuse(base_path=repository)


def test_zh_harmless_files_may_have_another_length(repository):
    _edit(repository / "PolyRefuse/harmless_train_translated_zh.json", lambda rows: rows[:-1])
    assert len(fetch_polyrefuse(base_path=repository).frame) == 83 * 3 - 1


# Downloads


def test_download_fetches_what_is_selected_once(server, repository, tmp_path, capfd):
    home = tmp_path / "home"
    frame = fetch_polyrefuse(subset="harmful", languages=["en", "yo"], data_home=home).frame
    assert len(server) == 6
    assert "PolyRefuse" in capfd.readouterr().err  # the progress bar
    again = fetch_polyrefuse(
        subset="harmful", languages=["en", "yo"], data_home=home, download_if_missing=False
    ).frame
    assert len(server) == 6
    assert again.equals(frame)
    local = fetch_polyrefuse(subset="harmful", languages=["en", "yo"], base_path=repository).frame
    assert local.equals(frame)
    assert capfd.readouterr().err == ""


def test_data_home_serves_as_environment_folder(server, tmp_path, monkeypatch):
    frame = fetch_polyrefuse(split="val", data_home=tmp_path / "home", verbose=False).frame
    monkeypatch.setenv("SKGATE_DATA", str(tmp_path / "home"))
    monkeypatch.setattr(_polyrefuse, "_BASE_URL", "http://127.0.0.1:1/")
    assert fetch_polyrefuse(split="val").frame.equals(frame)


def test_verbose_false_prints_nothing(server, tmp_path, capfd):
    fetch_polyrefuse(split="val", languages="en", data_home=tmp_path, verbose=False)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_default_data_home_is_the_user_s_cache(server, tmp_path, monkeypatch):
    import pooch

    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    fetch_polyrefuse(split="val", languages="en")
    assert (tmp_path / "cache/skgate/polyrefuse/dataset/splits/harmful_val.json").is_file()


def test_damaged_cached_file_is_downloaded_again(server, tmp_path):
    select = {"split": "val", "languages": "en", "data_home": tmp_path}
    frame = fetch_polyrefuse(**select).frame
    cached = tmp_path / "polyrefuse/dataset/splits/harmful_val.json"
    cached.write_text(cached.read_text().replace("harmful val", "hacked"))
    assert fetch_polyrefuse(**select).frame.equals(frame)
    assert len(server) == 3


def test_download_with_another_checksum_is_refused(server, repository, tmp_path):
    (repository / "dataset/splits/harmful_val.json").write_text('[{"instruction": "hacked"}]')
    with pytest.raises(OSError, match="another SHA-256 checksum than expected"):
        fetch_polyrefuse(split="val", languages="en", data_home=tmp_path / "home", n_retries=0)
    assert not list((tmp_path / "home").rglob("harmful_val.json"))


def test_failed_download_is_tried_again(server, repository, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    (repository / "dataset/splits/harmful_val.json").unlink()
    with pytest.raises(ConnectionError, match=r"harmful_val\.json \(HTTPError\)"):
        fetch_polyrefuse(split="val", languages="en", data_home=tmp_path / "home", n_retries=2)
    assert server.count("/dataset/splits/harmful_val.json") == 3


def test_offline_error_says_what_to_do(server, tmp_path, monkeypatch):
    monkeypatch.setattr(_polyrefuse, "_BASE_URL", "http://127.0.0.1:1/")
    with pytest.raises(ConnectionError) as caught:
        fetch_polyrefuse(data_home=tmp_path / "home", n_retries=0)
    for needed in (
        "Could not download http://127.0.0.1:1/",
        "https://github.com/mainlp/Multilingual-Refusal",
        "base_path",
        "SKGATE_DATA",
    ):
        assert needed in str(caught.value)


def test_download_if_missing_false(server, tmp_path):
    with pytest.raises(OSError, match=r"2 files .* download_if_missing=False.* base_path"):
        fetch_polyrefuse(split="val", languages="en", data_home=tmp_path, download_if_missing=False)
    assert server == []


def test_data_home_that_cannot_be_written_is_not_blamed_on_the_network(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file") as caught:
        fetch_polyrefuse(data_home=tmp_path / "file", n_retries=0)
    assert not isinstance(caught.value, ConnectionError)


def test_pooch_is_imported_when_needed():
    code = "import sys, skgate.datasets; print({'pooch', 'torch', 'tqdm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# The published files


@pytest.fixture
def published(monkeypatch):
    if REAL_DATA is None:
        pytest.skip("SKGATE_DATA is not set: no local copy of PolyRefuse")
    monkeypatch.setenv("SKGATE_DATA", REAL_DATA)
    return fetch_polyrefuse().frame


def test_published_counts(published):
    counts = published.groupby(["language", "harmful", "split"]).size()
    expected = {
        (1, "train"): 260,
        (1, "val"): 39,
        (1, "test"): 572,
        (0, "train"): 200,
        (0, "val"): 200,
        (0, "test"): 500,
    }
    for language in ["en", *TRANSLATED]:
        zh = language == "zh"
        per_language = {k: v for k, v in expected.items() if not (zh and k == (0, "test"))}
        assert counts[language].to_dict() == per_language


def test_published_translations_differ_from_the_english_and_between_rows_as_described(published):
    english = set(published.loc[published["language"] == "en", "prompt"])
    untranslated = published[(published["language"] != "en") & published["prompt"].isin(english)]
    assert untranslated["row_id"].tolist() == []
    test = published[(published["language"] == "en") & published["harmful"].eq(1)]
    repeated = test[test.duplicated("prompt", keep=False)].groupby("prompt")["row_id"]
    pairs = sorted(" = ".join(str(int(i[-4:])) for i in ids) for _, ids in repeated)
    assert len(pairs) == 10
    described = fetch_polyrefuse(split="val").DESCR.replace("\n ", "")
    assert all(pair in described for pair in pairs)


def test_published_labels_never_contradict(published):
    assert published.groupby("prompt")["harmful"].nunique().max() == 1


def test_published_files_have_the_registered_checksums(published):
    root = Path(REAL_DATA) / "polyrefuse"
    registry = dict(line.split() for line in REGISTRY.read_text().splitlines())
    assert len(registry) == 83
    for path, expected in registry.items():
        assert hashlib.sha256((root / path).read_bytes()).hexdigest() == expected, path


def test_registry_names_every_file_that_can_be_selected():
    # Private: the files that a download would ask for are not public.
    from skgate.datasets._polyrefuse import _select_files

    registry = {line.split()[0] for line in REGISTRY.read_text().splitlines()}
    assert {file.path for file in _select_files(None, None, None)} == registry
