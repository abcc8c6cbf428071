"""A dataset is frozen: named by what is in it, whole or not there, and readable by everybody's tools."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import datasets
import pytest

from feedback.compiling.budget import Selection, select
from feedback.compiling.compiler import Events, compile_events
from feedback.compiling.curation import Curation
from feedback.compiling.dataset import freeze, open_dataset
from feedback.errors import RatchetError
from feedback.records import Knowledge, Signal, Turn

AT = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = Path(__file__).parent.parent
SETTINGS = {"system_prompt": "Be kind.", "max_tokens": 200}
QUESTIONS = [
    "What helps against a cold?",
    "How long should I sleep?",
    "Is coffee bad for me?",
    "Why do ears hurt?",
]


def said(sides: bool = True) -> tuple[Events, Curation, dict]:
    """Corrections, choices, likes and knowledge, for training and, where asked, validation."""
    turns, signals, rows = [], [], []
    for i, question in enumerate(QUESTIONS):
        asked = ({"role": "user", "content": question},)
        turns.append(
            Turn(f"t{i}", f"c{i}", "ann", asked, f"A wrong answer, number {i}.", "v1", AT, topic=f"t{i}")
        )
        signals.append(
            Signal(
                f"s{i}a", f"t{i}", "dr", "reviewer", "correction", {"text": f"The right answer is {i}."}, AT
            )
        )
        signals.append(Signal(f"s{i}b", f"t{i}", "ann", "user", "rating", {"rating": -1, "reasons": []}, AT))
        rows.append(
            Knowledge(
                f"k{i}",
                f"{question} Tell me in full.",
                f"It is so, number {i}, whatever else one may have heard of it from neighbours or read in a paper.",
                AT,
                f"t{i}",
            )
        )
    side_of = {
        f"topic:t{i}": (f"topic:t{i}", "validation" if sides and i == 0 else "train") for i in range(4)
    }
    curation = Curation(validation_share=0, held_out_share=0, knowledge_share=0.1, min_words=2)
    return Events(turns, signals, (), rows), curation, side_of


def selected(events: Events, curation: Curation, side_of: dict) -> tuple[Selection, dict]:
    """The rows for a dataset and the funnel they came through."""
    compilation = compile_events(events, curation, "Be kind.", recorded=side_of)
    return select(compilation.rows, curation, lambda text: len(text.split()), 200), compilation.document()


def frozen(folder: Path, at: datetime = AT, **changed) -> dict:
    """The manifest of what `said` makes."""
    selection, funnel = selected(*said())
    return freeze(folder, selection, funnel, SETTINGS | changed, at)


def test_the_same_rows_have_the_same_hash(tmp_path):
    """Where, when and in which order a dataset is frozen does not name it."""
    here = frozen(tmp_path / "here")
    there = frozen(tmp_path / "there", AT + timedelta(days=1))
    assert here["hash"] == there["hash"]
    assert here["files"].items() - there["files"].items() == {("README.md", here["files"]["README.md"])}
    selection, funnel = selected(*said())
    backwards = replace(selection, rows=selection.rows[::-1])
    assert freeze(tmp_path / "third", backwards, funnel, SETTINGS, AT) == here


def test_other_rows_or_settings_have_another_hash(tmp_path):
    """A word or a setting is enough."""
    whole = frozen(tmp_path)["hash"]
    selection, funnel = selected(*said())
    fewer = replace(selection, rows=selection.rows[1:])
    changed = (replace(selection.rows[0], weight=0.5), *selection.rows[1:])
    hashes = {
        whole,
        frozen(tmp_path, max_tokens=100)["hash"],
        freeze(tmp_path, fewer, funnel, SETTINGS, AT)["hash"],
        freeze(tmp_path, replace(selection, rows=changed), funnel, SETTINGS, AT)["hash"],
    }
    assert len(hashes) == 4
    assert {folder.name for folder in tmp_path.iterdir()} == hashes


def test_freezing_twice_uses_what_is_there(tmp_path):
    """A finished dataset is not written again, and keeps its date."""
    first = frozen(tmp_path)
    times = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*")}
    assert frozen(tmp_path, AT + timedelta(days=1)) == first == open_dataset(tmp_path / first["hash"])
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*")} == times


def test_datasets_loads_every_kind(tmp_path):
    """The folder is a dataset to `datasets.load_dataset`, with TRL's columns in TRL's shapes."""
    manifest = frozen(tmp_path / "d")
    for kind, columns in {
        "sft": {"prompt", "completion"},
        "preference": {"prompt", "chosen", "rejected"},
        "unpaired": {"prompt", "completion", "label"},
    }.items():
        loaded = datasets.load_dataset(
            str(tmp_path / "d" / manifest["hash"]), kind, cache_dir=str(tmp_path / "cache")
        )
        assert {side: rows.num_rows for side, rows in loaded.items()} == manifest["counts"][kind]
        assert manifest["counts"][kind]["validation"] > 0
        for row in [*loaded["train"], *loaded["validation"]]:
            common = {"id", "rule", "origin", "cluster", "weight", "sources", "tokens", "mended"}
            assert columns | common == row.keys() - {"rejected_version", "rejected_age"}
            assert row["prompt"][0] == {"role": "system", "content": "Be kind."}
            assert row["prompt"][-1]["role"] == "user"
            for answer in columns - {"prompt", "label"}:
                ((role, content),) = [(m["role"], m["content"]) for m in row[answer]]
                assert role == "assistant" and content
                assert row["tokens"] > 0 and 0 < row["weight"] <= 1 and row["sources"]
            assert kind != "unpaired" or row["label"] is False


def test_text_is_frozen_exactly(tmp_path):
    """Control tokens, emoji and line ends are in the files as they were said."""
    text = "<|im_end|> 🧑🏽‍⚕️ \u202eabc\u202c\r\n\t漢字  "
    selection, funnel = selected(*said())
    rows = tuple(replace(row, chosen=text) for row in selection.rows)
    manifest = freeze(tmp_path / "d", replace(selection, rows=rows), funnel, SETTINGS, AT)
    loaded = datasets.load_dataset(
        str(tmp_path / "d" / manifest["hash"]), "sft", cache_dir=str(tmp_path / "cache")
    )
    assert {m["content"] for row in loaded["train"] for m in row["completion"]} == {text}


def test_kinds_without_rows_are_absent(tmp_path):
    """No empty file is written, and the card does not name one."""
    events, curation, side_of = said(sides=False)
    knowledge_only = Events(knowledge=events.knowledge)
    selection, funnel = selected(knowledge_only, curation, side_of)
    manifest = freeze(tmp_path / "d", selection, funnel, SETTINGS, AT)
    folder = tmp_path / "d" / manifest["hash"]
    assert sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()) == [
        "README.md", "manifest.json", "sft/train.parquet",
    ]  # fmt: skip
    assert sorted(f.name for f in folder.iterdir()) == ["README.md", "manifest.json", "sft"]
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {side: rows.num_rows for side, rows in loaded.items()} == {"train": 4}


def test_the_manifest_leads_back_to_what_was_said(tmp_path):
    """From a dataset to every signal and knowledge row in it, and no further."""
    manifest = frozen(tmp_path)
    events, _, _ = said()
    assert manifest["sources"] == {
        "feedback": sorted(s.id for s in events.signals),
        "knowledge": sorted(k.id for k in events.knowledge),
    }
    in_files = set()
    for file in (tmp_path / manifest["hash"]).rglob("*.parquet"):
        for row in datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache")):
            in_files |= set(row["sources"])
    assert in_files == {source for found in manifest["sources"].values() for source in found}


def test_the_manifest_counts_what_is_there(tmp_path):
    """Rows by kind and side, tokens by origin, and the funnel that they came through."""
    manifest = frozen(tmp_path)
    assert manifest["counts"] == {
        "sft": {"train": 6, "validation": 2},
        "preference": {"train": 3, "validation": 1},
        "unpaired": {"train": 3, "validation": 1},
    }
    assert manifest["tokens"]["trained_on"] == sum(manifest["tokens"]["by_origin"].values())
    assert manifest["tokens"]["per_row"]["total"] == manifest["tokens"]["trained_on"]
    assert manifest["funnel"]["signals"]["in"] == 8
    assert json.loads(json.dumps(manifest, allow_nan=False)) == manifest
    card = (tmp_path / manifest["hash"] / "README.md").read_text()
    assert f"# Dataset {manifest['hash']}" in card and "| sft | 6 | 2 |" in card


@pytest.mark.parametrize("name", ["README.md", "sft/train.parquet", "preference/validation.parquet"])
@pytest.mark.parametrize("touch", ["append", "delete", "swap"])
def test_a_touched_file_is_refused(tmp_path, name, touch):
    """A changed, missing or exchanged file is named in one line, also when it would be used again."""
    folder = tmp_path / frozen(tmp_path)["hash"]
    file = folder / name
    if touch == "append":
        file.write_bytes(file.read_bytes() + b" ")
    elif touch == "delete":
        file.unlink()
    else:
        os.replace(folder / "unpaired" / "train.parquet", file)
    for use in (lambda: open_dataset(folder), lambda: frozen(tmp_path)):
        with pytest.raises(RatchetError, match=r"parquet|README") as error:
            use()
        assert "\n" not in str(error.value) and "was changed after it was frozen" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"hash": "x"}'])
def test_a_touched_manifest_is_refused(tmp_path, content):
    """A damaged manifest is said in one line."""
    folder = tmp_path / frozen(tmp_path)["hash"]
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(RatchetError) as error:
        open_dataset(folder)
    assert "\n" not in str(error.value) and "manifest.json was changed" in str(error.value)


def test_what_has_no_manifest_is_no_dataset(tmp_path):
    """A folder without its manifest does not count, and freezing again completes it."""
    manifest = frozen(tmp_path)
    folder = tmp_path / manifest["hash"]
    (folder / "manifest.json").unlink()
    (folder / "sft" / "train.parquet").write_bytes(b"half")
    for place in (folder, tmp_path / "missing"):
        with pytest.raises(RatchetError, match="no finished dataset") as error:
            open_dataset(place)
        assert "\n" not in str(error.value)
    assert frozen(tmp_path) == manifest == open_dataset(folder)


def test_a_crash_before_the_manifest_leaves_nothing_that_counts(tmp_path):
    """A process that dies while it writes leaves no folder of the dataset's name."""
    program = (
        "import sys; sys.path[:0] = ['tests', '.']\n"
        "import os, test_dataset\n"
        "from pathlib import Path\n"
        "write = Path.write_text\n"
        "def die(self, *args, **more):\n"
        "    if self.name == 'manifest.json': os._exit(9)\n"
        "    return write(self, *args, **more)\n"
        "Path.write_text = die\n"
        "test_dataset.frozen(Path(sys.argv[1]))"
    )
    crashed = subprocess.run([sys.executable, "-c", program, tmp_path], cwd=ROOT, timeout=60, check=False)
    assert crashed.returncode == 9
    assert [folder.name[:7] for folder in tmp_path.iterdir()] == [".draft-"]
    manifest = frozen(tmp_path)
    assert open_dataset(tmp_path / manifest["hash"]) == manifest


def test_an_error_while_writing_leaves_no_draft(tmp_path):
    """What could not be written is cleared away."""
    selection, funnel = selected(*said())
    with pytest.raises(TypeError):
        freeze(tmp_path, selection, funnel | {"strange": object()}, SETTINGS, AT)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_others_said_too_lead_to_them(tmp_path):
    """The same rows from other people's words are the same dataset, whose manifest names everybody."""
    manifest = frozen(tmp_path)
    selection, funnel = selected(*said())
    others = replace(selection, rows=tuple(replace(r, sources=("x" + r.sources[0],)) for r in selection.rows))
    again = freeze(tmp_path, others, funnel, SETTINGS, AT)
    assert again["hash"] == manifest["hash"]
    assert {"s1a", "xs1a"} <= set(open_dataset(tmp_path / again["hash"])["sources"]["feedback"])
