"""What is here, for others: compiled rows in TRL's column names, or everything that was said.

A folder that `datasets.load_dataset` reads as it is, with a card. What other trainers expect beside TRL was
taken from their code:

- LLaMA-Factory: hiyouga/LLaMA-Factory, `src/llamafactory/data/parser.py` (dataset_info.json) and `converter.py`
  (SharegptDatasetConverter: one list of messages, `chosen` and `rejected` as one message each, a bool `kto_tag`).
- Axolotl: axolotl-ai-cloud/axolotl, `src/axolotl/prompt_strategies/chat_template.py` (field_messages) and
  `dpo/chat_template.py` (field_messages, field_chosen, field_rejected).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.parquet

from feedback.drafts import drafted
from feedback.errors import RatchetError
from feedback.records import Example, Knowledge, Message, Review, Signal, Turn, digest

FileFormat = Literal["parquet", "jsonl"]
AT_ONCE = 5_000  # rows that are written together
SIDES = ("train", "validation")

_TEXT = pyarrow.string()
_TEXTS = pyarrow.list_(_TEXT)
_MESSAGE = pyarrow.struct([("role", _TEXT), ("content", _TEXT)])
_MESSAGES = pyarrow.list_(_MESSAGE)
_REVIEWS = pyarrow.list_(
    pyarrow.struct([("reviewer", _TEXT), ("verdict", _TEXT), ("text", _TEXT), ("timestamp", _TEXT)])
)
_ORIGIN = {
    "id": _TEXT,
    "rule": _TEXT,
    "origin": _TEXT,
    "sources": _TEXTS,
    "cluster": _TEXT,
    "weight": pyarrow.float64(),
}
# `dialogue`, `chosen_message` and `rejected_message` say the same again, as other trainers read it.
_SCHEMAS = {
    "sft": {"prompt": _MESSAGES, "completion": _MESSAGES, "dialogue": _MESSAGES, **_ORIGIN},
    "preference": {
        "prompt": _MESSAGES,
        "chosen": _MESSAGES,
        "rejected": _MESSAGES,
        "chosen_message": _MESSAGE,
        "rejected_message": _MESSAGE,
        **_ORIGIN,
    },
    "unpaired": {
        "prompt": _MESSAGES,
        "completion": _MESSAGES,
        "label": pyarrow.bool_(),
        "dialogue": _MESSAGES,
        **_ORIGIN,
    },
    "feedback": {
        "messages": _MESSAGES,
        "rating": pyarrow.int64(),
        "reasons": _TEXTS,
        "comment": _TEXT,
        "correction": _TEXT,
        "alternatives": _TEXTS,
        "choice": _TEXT,
        "turn": _TEXT,
        "user": _TEXT,
        "rater": _TEXT,
        "role": _TEXT,
        "topic": _TEXT,
        "timestamp": _TEXT,
        "model": _TEXT,
        "conversation": _TEXT,
        "finish": _TEXT,
        "red_flag": _TEXT,
        "withdrawn": _TEXTS,
        "reviews": _REVIEWS,
    },
    "knowledge": {name: _TEXT for name in ("question", "answer", "id", "source", "url", "topic")},
}
ROW_KINDS = ("sft", "preference", "unpaired")


def export_rows(folder: Path, kind: str, rows: Iterable[Example], file_format: FileFormat) -> dict[str, int]:
    """Write the rows of one of ROW_KINDS to `folder`; returns how many each side has."""
    ordered = sorted((row for row in rows if row.kind == kind), key=lambda row: row.id)
    if not ordered:
        raise RatchetError(
            f"there is no {kind} row to export; `ratchet compile` says what became of everything"
        )
    rules = Counter(row.rule for row in ordered)
    with drafted(folder) as draft:
        (draft / "data").mkdir()
        counts = {
            side: _write(
                draft, side, kind, (_columns(row) for row in ordered if row.side == side), file_format
            )
            for side in SIDES
        }
        files = {side: f"data/{side}.{file_format}" for side in SIDES if counts[side]}
        info = {f"ratchet_{kind}_{side}": _llama_factory(kind, file) for side, file in files.items()}
        (draft / "dataset_info.json").write_text(json.dumps(info, indent=2) + "\n", "utf-8")
        (draft / "README.md").write_text(_row_card(kind, counts, files, rules, file_format), "utf-8")
    return counts


def export_events(
    folder: Path,
    turns: Iterable[Turn],
    signals: Iterable[tuple[Signal, Turn]],
    reviews: Iterable[Review],
    knowledge: Iterable[Knowledge],
    file_format: FileFormat,
    redact: Callable[[str], str],
) -> dict[str, int]:
    """Write what was said to `folder`, in the formats that `ratchet import` reads; returns the counts.

    `turns` are those that nobody spoke of, each `signals` comes with its turn; all in the order of ids.
    `redact` takes personal data out of a text.
    """
    judged: dict[str, list[Review]] = {}
    for review in reviews:
        judged.setdefault(review.signal, []).append(review)
    lines = chain(
        (_turn_line(turn, redact) for turn in turns),
        (_signal_line(signal, turn, judged.get(signal.id, []), redact) for signal, turn in signals),
    )
    with drafted(folder) as draft:
        (draft / "data").mkdir()
        counts = {
            "feedback": _write(draft, "feedback", "feedback", lines, file_format),
            "knowledge": _write(
                draft, "knowledge", "knowledge", map(_knowledge_line, knowledge), file_format
            ),
        }
        if not any(counts.values()):
            raise RatchetError(
                "there is nothing to export: nobody has said anything and nothing was imported"
            )
        (draft / "README.md").write_text(_event_card(counts, file_format), "utf-8")
    return counts


def _write(
    folder: Path, name: str, schema: str, rows: Iterable[dict[str, Any]], file_format: FileFormat
) -> int:
    """Write `rows` to one file, some at a time; returns how many, and leaves no file where there are none."""
    file = folder / "data" / f"{name}.{file_format}"
    remaining, count = iter(rows), 0
    with _WRITERS[file_format](file, pyarrow.schema(_SCHEMAS[schema])) as write:
        while some := list(islice(remaining, AT_ONCE)):
            write(some)
            count += len(some)
    if not count:
        file.unlink()
    return count


@contextmanager
def _parquet(file: Path, schema: pyarrow.Schema) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        yield lambda rows: writer.write_table(pyarrow.Table.from_pylist(rows, schema))


@contextmanager
def _jsonl(file: Path, schema: pyarrow.Schema) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    with file.open("w", encoding="utf-8", newline="\n") as lines:
        yield lambda rows: lines.writelines(
            json.dumps({name: row.get(name) for name in schema.names}, ensure_ascii=False) + "\n"
            for row in rows
        )


_WRITERS = {"parquet": _parquet, "jsonl": _jsonl}


# rows


def _columns(row: Example) -> dict[str, Any]:
    prompt = list(row.prompt)
    chosen: Message = {"role": "assistant", "content": row.chosen or ""}
    columns = {name: getattr(row, name) for name in _ORIGIN} | {
        "prompt": prompt,
        "sources": list(row.sources),
    }
    if row.kind == "preference":
        rejected: Message = {"role": "assistant", "content": row.rejected or ""}
        return columns | {
            "chosen": [chosen],
            "rejected": [rejected],
            "chosen_message": chosen,
            "rejected_message": rejected,
        }
    return columns | {"completion": [chosen], "dialogue": [*prompt, chosen], "label": row.label}


def _llama_factory(kind: str, file: str) -> dict[str, Any]:
    """How LLaMA-Factory is told of one file, in its dataset_info.json."""
    columns = {
        "sft": {"messages": "dialogue"},
        "preference": {"messages": "prompt", "chosen": "chosen_message", "rejected": "rejected_message"},
        "unpaired": {"messages": "dialogue", "kto_tag": "label"},
    }[kind]
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user"}
    return {
        "file_name": file,
        "formatting": "sharegpt",
        "ranking": kind == "preference",
        "columns": columns,
        "tags": tags | {"assistant_tag": "assistant", "system_tag": "system"},
    }


_AXOLOTL = {
    "sft": """datasets:
  - path: {file}
    ds_type: {ds_type}
    type: chat_template
    field_messages: dialogue
    roles_to_train: [assistant]
    train_on_eos: turn
""",
    "preference": """rl: dpo
datasets:
  - path: {file}
    ds_type: {ds_type}
    split: train
    type: chat_template.default
    field_messages: prompt
    field_chosen: chosen_message
    field_rejected: rejected_message
""",
}


# events


def _signal_line(
    signal: Signal, turn: Turn, reviews: Sequence[Review], redact: Callable[[str], str]
) -> dict[str, Any]:
    """One statement as a line of feedback, with the turn it speaks of."""
    line = _turn_line(turn, redact)
    line |= {"rater": _name(signal.user, redact), "role": signal.role, "timestamp": signal.at.isoformat()}
    value = signal.value
    match signal.kind:
        case "rating":
            line |= {"rating": value["rating"], "reasons": [redact(reason) for reason in value["reasons"]]}
            if not value["rating"]:
                line |= {"rating": None, "withdrawn": ["rating"]}
        case "comment":
            line["comment"] = redact(value["text"])
        case "correction" if value["text"]:
            line["correction"] = redact(value["text"])
            line["reviews"] = [
                {
                    "reviewer": _name(review.reviewer, redact),
                    "verdict": review.verdict,
                    "text": review.text and redact(review.text),
                    "timestamp": review.at.isoformat(),
                }
                for review in reviews
            ]
        case "correction":
            line["withdrawn"] = ["correction"]
        case "choice":
            line["alternatives"] = [redact(answer) for answer in value["alternatives"]]
            line["choice"] = str(value["choice"])
    return line


def _turn_line(turn: Turn, redact: Callable[[str], str]) -> dict[str, Any]:
    """An answer with the conversation before it, about which the line itself says nothing yet."""
    system = [{"role": "system", "content": turn.system_prompt}] if turn.system_prompt else []
    spoken = [*turn.messages, {"role": "assistant", "content": turn.answer}]
    return {
        "messages": system + [{"role": m["role"], "content": redact(m["content"])} for m in spoken],
        "turn": turn.id,
        "conversation": turn.conversation,
        "user": _name(turn.user, redact),
        "role": "user",
        "topic": turn.topic,
        "timestamp": turn.at.isoformat(),
        "model": turn.version,
        "finish": turn.finish,
        "red_flag": turn.red_flag,
        "reasons": [],
        "alternatives": [],
        "withdrawn": [],
        "reviews": [],
    }


def _name(person: str, redact: Callable[[str], str]) -> str:
    """A person's id; one that is personal data itself becomes a number that is always the same."""
    return person if redact(person) == person else f"person-{digest(person)[:16]}"


def _knowledge_line(row: Knowledge) -> dict[str, Any]:
    kept = {name: getattr(row, name) for name in ("question", "answer", "source", "url", "topic")}
    return kept | {"id": row.metadata.get("id")}


# cards


def _card(configs: dict[str, tuple[str, dict[str, str]]], text: str) -> str:
    """A dataset card: `configs` are {name: (schema, {split: file})}, for `datasets.load_dataset(folder, name)`."""
    from datasets import DatasetInfo, Features
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    front = DatasetCardData(
        configs=[
            {"config_name": name, "data_files": [{"split": s, "path": f} for s, f in files.items()]}
            for name, (_, files) in configs.items()
        ]
    )
    # The types are written down, because JSON has none: a column may begin with many empty rows.
    infos = {
        name: DatasetInfo(
            config_name=name, features=Features.from_arrow_schema(pyarrow.schema(_SCHEMAS[schema]))
        )
        for name, (schema, _) in configs.items()
    }
    DatasetInfosDict(infos).to_dataset_card_data(front)
    return f"---\n{front.to_yaml()}\n---\n{text}"


def _row_card(
    kind: str, counts: dict[str, int], files: dict[str, str], rules: Counter, file_format: FileFormat
) -> str:
    table = "\n".join(f"| {rule} | {count} |" for rule, count in sorted(rules.items()))
    ds_type = "json" if file_format == "jsonl" else file_format
    axolotl = (
        f"Axolotl, with the path from where it is started:\n\n"
        f"```yaml\n{_AXOLOTL[kind].format(file=next(iter(files.values())), ds_type=ds_type)}```\n"
        if kind in _AXOLOTL
        else "Axolotl reads such rows as single strings only: train them with TRL or LLaMA-Factory.\n"
    )
    return _card(
        {"default": (kind, files)},
        f"""# Ratchet: {kind} rows

{counts["train"]:,} rows to train on and {counts["validation"]:,} to validate with, before any budget. Each names the \
`rule` that made it and its `sources`. What is held out for examining a model is not here.

| rule | rows |
|---|---|
{table}

## Use

TRL takes the columns as they are: `load_dataset(this_folder)`.

LLaMA-Factory, with `dataset_dir` set to this folder: `dataset: {", ".join(f"ratchet_{kind}_{s}" for s in files)}` \
(one of them may be `eval_dataset`).

{axolotl}""",
    )


def _event_card(counts: dict[str, int], file_format: FileFormat) -> str:
    configs = {
        name: (name, {"train": f"data/{name}.{file_format}"}) for name, count in counts.items() if count
    }
    table = "\n".join(f"| {name} | {count:,} |" for name, count in counts.items() if count)
    return _card(
        configs,
        f"""# Ratchet: what was said

Answers, ratings, comments, corrections, choices and reviews, and the knowledge that was brought in. Personal data
in texts is replaced where it was found. `ratchet import` reads this folder.

| | lines |
|---|---|
{table}
""",
    )
