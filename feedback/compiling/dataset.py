"""An immutable folder of examples, named by the hash of what is in it, loadable by `datasets`."""

import hashlib
import json
import os
import shutil
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from feedback.compiling.budget import Selection
from feedback.compiling.suspicion import length_lean
from feedback.errors import RatchetError
from feedback.records import Example, digest

KINDS = ("sft", "preference", "unpaired")
SIDES = ("train", "validation")
_MESSAGES = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
_COMMON = [
    ("id", pyarrow.string()),
    ("rule", pyarrow.string()),
    ("origin", pyarrow.string()),
    ("cluster", pyarrow.string()),
    ("weight", pyarrow.float64()),
    ("sources", pyarrow.list_(pyarrow.string())),
    ("tokens", pyarrow.int64()),
    ("mended", pyarrow.list_(pyarrow.string())),
]
_SCHEMAS = {
    "sft": pyarrow.schema([("prompt", _MESSAGES), ("completion", _MESSAGES), *_COMMON]),
    "preference": pyarrow.schema(
        [
            ("prompt", _MESSAGES),
            ("chosen", _MESSAGES),
            ("rejected", _MESSAGES),
            *_COMMON,
            ("rejected_version", pyarrow.string()),
            ("rejected_age", pyarrow.int64()),
        ]
    ),
    "unpaired": pyarrow.schema(
        [("prompt", _MESSAGES), ("completion", _MESSAGES), ("label", pyarrow.bool_()), *_COMMON]
    ),
}


def freeze(
    folder: Path, selection: Selection, funnel: dict[str, Any], settings: dict[str, Any], at: datetime
) -> dict[str, Any]:
    """Write `selection` under `folder`/<hash>, manifest last; returns the manifest.

    `funnel` is the compilation's document; `settings` what the rows depend on beside the signals. The same
    rows and settings give the same hash on every machine; a dataset that is there already is checked and used.
    """
    rows = sorted(selection.rows, key=lambda row: (row.kind, row.side, row.id))
    content_hash = digest({"rows": [_canonical(row) for row in rows], "settings": settings})[:16]
    target = folder / content_hash
    if (target / "manifest.json").exists():
        return _reached_again(target, _sources(rows))
    folder.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder))
    try:
        for kind in KINDS:
            for side in SIDES:
                _write_rows(
                    draft / kind, side, kind, [r for r in rows if (r.kind, r.side) == (kind, side)], selection
                )
        manifest = _manifest(content_hash, rows, selection, funnel, settings, at)
        (draft / "README.md").write_text(_card(manifest), "utf-8")
        manifest["files"] = {
            str(f.relative_to(draft)): _sha256(f) for f in sorted(draft.rglob("*")) if f.is_file()
        }
        (draft / "manifest.json").write_text(_as_text(manifest), "utf-8")
        shutil.rmtree(target, ignore_errors=True)  # one without a manifest was never finished
        os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


def _reached_again(folder: Path, sources: dict[str, list[str]]) -> dict[str, Any]:
    """The manifest of a dataset whose very rows were compiled again, by now perhaps from other people's words.

    The files stay; the manifest leads to everybody whose words are in them.
    """
    manifest = open_dataset(folder)
    known = manifest["sources"]
    united = {origin: sorted({*known[origin], *sources[origin]}) for origin in known}
    if united != known:
        manifest["sources"] = united
        draft = folder / ".manifest.json.new"
        draft.write_text(_as_text(manifest), "utf-8")
        os.replace(draft, folder / "manifest.json")
    return manifest


def manifests(folder: Path) -> list[dict[str, Any]]:
    """Of every frozen dataset in `folder`, the oldest first."""
    found = [json.loads(file.read_text("utf-8")) for file in folder.glob("*/manifest.json")]
    return sorted(found, key=lambda manifest: manifest["created_at"])


def trained_rows(folder: Path, kinds: Iterable[str]) -> Iterator[Example]:
    """The rows of these kinds that a training on the dataset in `folder` learns from."""
    open_dataset(folder)
    for kind in kinds:
        file = folder / kind / "train.parquet"
        if file.exists():
            yield from (_row(kind, columns) for columns in pyarrow.parquet.read_table(file).to_pylist())


def open_dataset(folder: Path) -> dict[str, Any]:
    """The manifest of a frozen dataset; RatchetError when it is unfinished or was touched."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        files = dict(manifest["files"])
    except FileNotFoundError:
        raise RatchetError(
            f"{folder} is no finished dataset; `ratchet datasets` lists those that are"
        ) from None
    except (ValueError, TypeError, KeyError):
        raise RatchetError(
            f"{folder / 'manifest.json'} was changed after it was frozen; run a new round, or restore the file"
        ) from None
    for name, expected in files.items():
        if not (folder / name).exists() or _sha256(folder / name) != expected:
            raise RatchetError(
                f"{folder / name} was changed after it was frozen; run a new round, or restore the file"
            )
    return manifest


def _as_text(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)


def _sources(rows: Sequence[Example]) -> dict[str, list[str]]:
    return {
        origin: sorted({source for row in rows if row.origin == origin for source in row.sources})
        for origin in ("feedback", "knowledge")
    }


def _canonical(row: Example) -> list[Any]:
    # Source ids depend on when things were said here; the words and why they are kept do not.
    return [
        row.kind,
        row.side,
        row.prompt,
        row.chosen,
        row.rejected,
        row.label,
        row.rule,
        row.cluster,
        row.weight,
    ]


def _write_rows(folder: Path, side: str, kind: str, rows: Sequence[Example], selection: Selection) -> None:
    if rows:
        folder.mkdir(exist_ok=True)
        table = pyarrow.Table.from_pylist(
            [_columns(row, selection.tokens[row.id]) for row in rows], _SCHEMAS[kind]
        )
        pyarrow.parquet.write_table(table, folder / f"{side}.parquet")


def _columns(row: Example, tokens: int) -> dict[str, Any]:
    """A row in TRL's column names; the rest is there to say why it exists."""
    chosen = [{"role": "assistant", "content": row.chosen}]
    columns = {
        "prompt": list(row.prompt),
        "id": row.id,
        "rule": row.rule,
        "origin": row.origin,
        "cluster": row.cluster,
        "weight": row.weight,
        "sources": list(row.sources),
        "tokens": tokens,
        "mended": list(row.mended),
    }
    if row.kind == "preference":
        rejected = [{"role": "assistant", "content": row.rejected}]
        written = {"rejected_version": row.rejected_version, "rejected_age": row.rejected_age}
        return columns | {"chosen": chosen, "rejected": rejected} | written
    return columns | {"completion": chosen, "label": row.label}


def _row(kind: str, columns: dict[str, Any]) -> Example:
    """The row of the train side that `_columns` wrote, less its people."""
    said = {name: columns[name] for name in ("id", "rule", "origin", "cluster", "weight")}
    said |= {name: tuple(columns.get(name) or ()) for name in ("prompt", "sources", "mended")}
    said |= {name: columns.get(name) for name in ("label", "rejected_version", "rejected_age")}
    [chosen] = columns["chosen" if kind == "preference" else "completion"]
    rejected = columns["rejected"][0]["content"] if kind == "preference" else None
    return Example(kind=kind, side="train", chosen=chosen["content"], rejected=rejected, **said)


def _manifest(
    content_hash: str,
    rows: Sequence[Example],
    selection: Selection,
    funnel: dict[str, Any],
    settings: dict[str, Any],
    at: datetime,
) -> dict[str, Any]:
    trained = [row for row in rows if row.side == "train" and row.kind in selection.taught]
    by_origin = Counter()
    for row in trained:
        by_origin[row.origin] += selection.tokens[row.id]
    pairs = [(row.chosen, row.rejected) for row in trained if row.kind == "preference"]
    return {
        "hash": content_hash,
        "counts": {
            kind: {side: sum((r.kind, r.side) == (kind, side) for r in rows) for side in SIDES}
            for kind in KINDS
        },
        "rules": dict(sorted(Counter(f"{row.kind}: {row.rule}" for row in rows).items())),
        "tokens": {
            "trained_on": sum(by_origin.values()),
            "by_origin": dict(sorted(by_origin.items())),
            "per_row": _statistics([selection.tokens[row.id] for row in trained]),
            "by_kind": {
                kind: _statistics([selection.tokens[row.id] for row in trained if row.kind == kind])
                for kind in sorted({row.kind for row in trained})
            },
        },
        "excluded_by_budget": dict(sorted(selection.excluded.items())),
        "truncations": 0,  # a row that is longer than the model's window is left out whole, never cut
        "funnel": funnel,
        "length_lean": length_lean(pairs) if pairs else None,
        "mended": dict(sorted(Counter(rule for row in rows for rule in row.mended).items())),
        "rejected_by": _authors([row for row in trained if row.kind == "preference"]),
        "sources": _sources(rows),
        "settings": settings,
        "created_at": at.isoformat(),
    }


def _authors(pairs: Sequence[Example]) -> dict[str, float] | None:
    """How many rejected answers the last version wrote, older ones, and models that are none of ours."""
    if not pairs:
        return None
    last = sum(row.rejected_age == 0 for row in pairs)
    others = sum(row.rejected_age is None for row in pairs)
    return {
        "last_version": last,
        "older_versions": len(pairs) - last - others,
        "others": others,
        "on_policy": round(last / len(pairs), 6),
    }


def _statistics(values: list[int]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values), "total": sum(values)}


def _card(manifest: dict[str, Any]) -> str:
    """The dataset card: its front matter is what `datasets.load_dataset(folder)` reads."""
    configs = []
    for kind in KINDS:
        files = [side for side in SIDES if manifest["counts"][kind][side]]
        if files:
            default = "\n  default: true" if not configs else ""
            paths = "".join(f"\n  - split: {side}\n    path: {kind}/{side}.parquet" for side in files)
            configs.append(f"- config_name: {kind}{default}\n  data_files:{paths}")
    counts = "\n".join(
        f"| {kind} | {n['train']} | {n['validation']} |"
        for kind, n in manifest["counts"].items()
        if sum(n.values())
    )
    funnel = "\n".join(_funnel_rows(manifest["funnel"]))
    budget = (
        "\n".join(f"| {name} | {n} |" for name, n in manifest["excluded_by_budget"].items()) or "| none | 0 |"
    )
    tokens = manifest["tokens"]
    lengths = "\n".join(
        f"| {kind} | {n['min']} | {n['median']:g} | {n['max']} | {n['total']:,} |"
        for kind, n in tokens["by_kind"].items()
    )
    mended = "\n".join(f"| {rule} | {n} |" for rule, n in manifest["mended"].items()) or "| none | 0 |"
    rules = "\n".join(f"| {rule} | {n} |" for rule, n in manifest["rules"].items())
    return f"""---
configs:
{chr(10).join(configs)}
---
# Dataset {manifest["hash"]}

Frozen on {manifest["created_at"]}. Every row names its `rule` and its `sources`.

| kind | train | validation |
|---|---|---|
{counts}

| kind: rule | rows |
|---|---|
{rules}

{tokens["trained_on"]:,} tokens are trained on ({", ".join(f"{n:,} {o}" for o, n in tokens["by_origin"].items())}). \
Rows longer than the model's window are left out; truncated: {manifest["truncations"]}.

| tokens of a row | min | median | max | total |
|---|---|---|---|---|
{lengths}
{_pairs(manifest)}
## Mended

| rule | rows |
|---|---|
{mended}

## What became of everything

| | outcome | count |
|---|---|---|
{funnel}

## Left out by the budget

| limit | rows |
|---|---|
{budget}
"""


def _pairs(manifest: dict[str, Any]) -> str:
    """Who wrote what the pairs reject, whether they teach length, and how far people differ."""
    sentences = [pairs_in_words(manifest)] if manifest["rejected_by"] else []
    differing = manifest["funnel"]["disagreement"]
    if differing["judged_twice"]:
        sentences.append(
            f"Two people who judged the same thing differed {differing['share']:.0%} of the time, on average over "
            f"{differing['judged_twice']} things."
        )
    return f"\n{' '.join(sentences)}\n" if sentences else ""


def pairs_in_words(said: Mapping[str, Any]) -> str:
    """What `rejected_by` and `length_lean`, as a manifest has them, say of the pairs that are trained on."""
    by, lean = said["rejected_by"], said["length_lean"]
    words = (
        f"Of {lean['pairs']} pairs {by['on_policy']:.0%} reject an answer of the last version "
        f"({by['older_versions']} one of an older version, {by['others']} another model's)"
    )
    if "share" in lean:  # some have a longer answer
        words += (
            f", and {lean['share']:.0%} prefer the longer answer "
            f"(95 % interval {lean['low']:.0%} to {lean['high']:.0%})"
        )
    return f"{words}."


def _funnel_rows(funnel: dict[str, Any]) -> list[str]:
    rows = []
    for name in ("signals", "knowledge"):
        tally = funnel[name]
        rows.append(f"| {name} | in | {tally['in']} |")
        rows += [f"| {name} | dropped: {rule} | {count} |" for rule, count in tally["dropped"].items()]
        rows += [f"| {name} | held out | {tally['held_out']} |", f"| {name} | kept | {tally['kept']} |"]
    return rows


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
