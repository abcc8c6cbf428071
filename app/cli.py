"""The command line: reads what was asked, hands it to an operation or to a round, and prints the answer.

Nothing heavy is imported before a command needs it, so `ratchet --help` answers at once.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from getpass import getpass
from pathlib import Path
from typing import Any

from app.settings import Settings, read_settings
from feedback.errors import RatchetError, UsageError

Document = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 done, 1 could not be done, 2 wrong use."""
    options = _parser().parse_args(arguments)
    try:
        settings = read_settings(options.home, options.objective)
        document = options.run(settings, options)
        if document is not None:
            print(
                json.dumps(document, ensure_ascii=False, allow_nan=False)
                if options.json
                else options.show(document)
            )
        return 0
    except UsageError as error:
        return _complain(error, 2)
    except (RatchetError, OSError) as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return _complain("stopped", 1)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - whoever read the output has left
        return 1


def _complain(error: object, status: int) -> int:
    print(f"ratchet: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# commands: settings and options in, a document out


def _ask(settings: Settings, operation: str, **arguments: Any) -> Any:
    from app.domain import load_domain
    from app.door import open_door

    return open_door(settings, load_domain(settings))(operation, **arguments)


def _serve(settings: Settings, options: argparse.Namespace) -> None:
    from app.serve import serve

    serve(settings, options.host, options.port, take_password(), _log)


def _prepare(settings: Settings, _: argparse.Namespace) -> Document:
    from app.domain import load_domain
    from training.base_model import base_model_folder
    from training.encoder import encoder_folder

    objective = load_domain(settings)
    return {
        "base_model_path": str(base_model_folder(objective.base_model, settings.cache, log=_log)),
        "encoder_path": str(encoder_folder(objective.encoder, settings.cache, log=_log)),
    }


def _import(settings: Settings, options: argparse.Namespace) -> Document:
    from app.domain import load_domain
    from app.door import open_door
    from feedback.exchange.importers import import_files

    ask = open_door(settings, load_domain(settings))
    return import_files([Path(file).absolute() for file in options.files], partial(ask, "import_part"), _log)


def _compile(settings: Settings, _: argparse.Namespace) -> Document:
    return _ask(settings, "compile")


def _export(settings: Settings, options: argparse.Namespace) -> Document:
    folder = os.path.abspath(options.out)
    if options.kind == "model":
        return _export_model(settings, options, Path(folder))
    if options.version or options.form:
        raise UsageError("a VERSION and a --form go with `export model`")
    file_format = options.format or "parquet"
    return _ask(settings, "export", kind=options.kind, folder=folder, file_format=file_format)


def _export_model(settings: Settings, options: argparse.Namespace, folder: Path) -> Document:
    from app.domain import load_domain
    from app.door import open_door
    from app.model_export import export_model

    if options.format:
        raise UsageError("--format is of rows and events; `export model` takes a --form")
    objective = load_domain(settings)
    ask = open_door(settings, objective)
    return export_model(settings, objective, ask, options.version, options.form or "adapter", folder)


def _review(settings: Settings, options: argparse.Namespace) -> Document:
    if options.correction is None:
        if options.approve or options.reject or options.text:
            raise UsageError("name the correction to approve or reject; `ratchet review` lists them")
        return _ask(settings, "corrections")
    if options.approve == options.reject:
        raise UsageError("say either --approve or --reject")
    if options.reject and options.text is not None:
        raise UsageError("--text goes with --approve: it is the answer to train on")
    verdict = "approve" if options.approve else "reject"
    return _ask(
        settings, "review", signal=options.correction, verdict=verdict, text=options.text, who=options.who
    )


def _round(settings: Settings, options: argparse.Namespace) -> Document:
    from app.domain import load_domain
    from app.door import open_door
    from app.rounds import run_round

    objective = load_domain(settings)
    ask = open_door(settings, objective)
    return run_round(settings, objective, ask, not options.no_promote, options.max_steps, _log, options.who)


def _tune(settings: Settings, options: argparse.Namespace) -> Document:
    from app.domain import load_domain
    from app.door import open_door
    from app.tuning import Limit, tune

    objective = load_domain(settings)
    limit = Limit(options.trials, options.minutes, options.max_steps)
    return tune(settings, objective, open_door(settings, objective), limit, _log, options.who)


def _rounds(settings: Settings, options: argparse.Namespace) -> Document:
    return _ask(settings, "rounds", run=options.round)


def _repeat(settings: Settings, options: argparse.Namespace) -> Document:
    from app.repetition import repeat

    return repeat(settings, options.run_id, _log)


def _datasets(settings: Settings, options: argparse.Namespace) -> Document:
    match options.dataset:
        case []:
            return _ask(settings, "datasets", dataset=None)
        case ["diff", before, after]:
            return _ask(settings, "datasets_diff", before=before, after=after)
        case [dataset] if dataset != "diff":
            return _ask(settings, "datasets", dataset=dataset)
    raise UsageError("say `datasets`, `datasets ID`, or `datasets diff ID ID`")


def _status(settings: Settings, _: argparse.Namespace) -> Document:
    return _ask(settings, "status")


def _evaluate(settings: Settings, options: argparse.Namespace) -> Document:
    from app.domain import load_domain
    from app.examination import examine_version
    from eval.suites import Suite
    from training.registry import adapter_of

    objective = load_domain(settings)
    version = options.version or _ask(settings, "status")["champion"]
    adapter = adapter_of(settings.home, version)
    suites = [Suite.from_json(document) for document in _ask(settings, "suites")]
    evaluation = examine_version(settings, objective, suites, version, adapter, _show_suite)
    suites = {
        name: {"items": len(result["clusters"])} | result["figures"]
        for name, result in evaluation.suites.items()
    }
    return {"version": version, "suites": suites}


def _show_suite(suite: str, done: int, total: int) -> None:
    _log(f"{suite}: {done} of {total}")


def _gate(settings: Settings, options: argparse.Namespace) -> Document:
    from app.domain import load_domain
    from eval.simulation import load_recorded, simulate

    objective = load_domain(settings)
    return simulate(objective, load_recorded(objective.folder), options.rounds)


def _promote(settings: Settings, options: argparse.Namespace) -> Document:
    return _ask(settings, "promote", version=options.version, who=options.who, why=options.why)


def _rollback(settings: Settings, options: argparse.Namespace) -> Document:
    return _ask(settings, "rollback", who=options.who, why=options.why)


def _erase(settings: Settings, options: argparse.Namespace) -> Document:
    return _ask(settings, "erase", user=options.user, who=options.who)


def _account(settings: Settings, options: argparse.Namespace) -> Document:
    if options.name is None and options.role is None:
        return _ask(settings, "accounts")
    if options.name is None or options.role is None:
        raise UsageError("say both the NAME and the --role; `ratchet account` lists the accounts")
    password = None if options.role == "closed" else take_password() or _asked_password()
    return _ask(settings, "set_account", name=options.name, role=options.role, password=password)


def take_password() -> str | None:
    """RATCHET_PASSWORD, which is taken out of the environment: no child process sees it."""
    return os.environ.pop("RATCHET_PASSWORD", None)


def _asked_password() -> str:
    """A password from the terminal, unseen and twice, or the first line of what is piped in."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass("Password: ")
    if password != getpass("The same again: "):
        raise RatchetError("the two passwords differ; nothing was changed")
    return password


# what people read


def _show_plain(document: Any) -> str:
    """Any document as indented lines."""
    return "\n".join(_lines(document, ""))


def _lines(value: Any, indent: str) -> list[str]:
    if isinstance(value, dict):
        entries = [(f"{name}:", entry) for name, entry in value.items()]
    else:
        entries = [("-", entry) for entry in value]
    lines: list[str] = []
    for name, entry in entries:
        if isinstance(entry, dict | list) and entry:
            lines += [f"{indent}{name}", *_lines(entry, indent + "  ")]
        else:
            lines.append(f"{indent}{name} {_plain(entry)}")
    return lines


def _plain(value: Any) -> str:
    if value is None or value == [] or value == {}:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _show_round(document: Document) -> str:
    lines = [
        f"{document['round']}: {document['decision']}"
        + (f", {document['version']} serves now" if document["promoted"] else f" ({document['version']})"),
        *(f"  {reason}" for reason in document["reasons"]),
        "",
        f"  {'metric':24}{'champion':>10}{'candidate':>11}{'difference':>12}{'low':>9}{'high':>9}{'n':>6}",
    ]
    for name, m in document["metrics"].items():
        means = f"{m['champion']:10.3f}{m['candidate']:11.3f}"
        interval = f"{m['difference']:+12.3f}{m['low']:+9.3f}{m['high']:+9.3f}"
        lines.append(f"  {name:24}{means}{interval}{m['n']:6d}")
    lines.append("")
    for role in ("champion", "candidate"):
        figures = ", ".join(f"{name} {value:.3g}" for name, value in document["figures"][role].items())
        lines.append(f"  {role}: {figures}")
    return "\n".join(lines)


def _show_rounds(document: Document) -> str:
    return _show_round(document) if "metrics" in document else _show_plain(document)


def _show_search(document: Document) -> str:
    from app.found_settings import FILE
    from app.searches import setting_words

    lines = [f"{document['search']}: {len(document['trials'])} trials on dataset {document['dataset']}"]
    for trial in document["trials"]:
        value = "" if trial["value"] is None else f"{trial['value']:.4f}"
        marks = [word for word in ("present", "best") if document[word] == trial["number"]]
        lines.append(
            f"  {trial['number']:3d}  {trial['outcome']:9}{value:>9}{trial['seconds']:8.0f} s  "
            f"{setting_words(trial)}{' <- ' if marks else ''}{', '.join(marks)}"
        )
    gain = document["gain"]
    lines.append(
        f"  gain over the present settings: {gain['difference']:+.4f} nats a token "
        f"({gain['low']:+.4f} to {gain['high']:+.4f}, {gain['n']} validation answers)"
    )
    kept = (
        f"the next round goes by them, as {FILE} in the home says" if document["kept"] else "nothing was kept"
    )
    return "\n".join([*lines, f"  {kept}"])


def _show_gate(document: Document) -> str:
    def rate(name: str) -> str:
        low, high = document[f"{name}_interval"]
        return f"{document[name]:.1%} ({low:.1%} to {high:.1%})"

    primary, effect, needed = document["primary"], document["effect"], document["items_needed"]
    lines = [
        f"of {document['rounds']:,} rounds each, with {document['items'][primary]} items of {primary}:",
        f"  without a gain promoted:       {rate('false_promotion')}",
        f"  with a gain of {effect:g} promoted: {rate('power')}",
        f"  items for 80 % of those:       {needed or 'none would do: the guards are in the way'}",
        "  guards: " + ", ".join(f"{m} {margin:g}" for m, margin in document["margins"].items()),
    ]
    if document["left_out"]:
        lines.append(f"  never recorded, so left out: {', '.join(document['left_out'])}")
    return "\n".join([*lines, f"  {document['recorded']}"])


def _show_erasure(document: Document) -> str:
    if not document["store_rewritten"]:
        swept = document["files_removed"]
        return "nothing of this person is here" + (f"; {swept} files were removed" if swept else "")
    lines = [
        f"erased: {document['turns']} answers and {document['signals']} statements; the store was written anew, "
        f"{document['files_removed']} files were removed",
        *(
            f"  {what}: {', '.join(document[key])}"
            for key, what in (
                ("datasets", "datasets that held their words, removed"),
                ("versions", "versions that were trained on them, never to serve again"),
                ("suites_drawn_anew", "suites that asked their questions, drawn anew by the next round"),
                ("backups_not_read", "backups that could not be read: remove them by hand"),
            )
            if document[key]
        ),
    ]
    if document["clean_round_queued"]:
        lines.append(
            "  the champion was one of them; a clean round is queued: a running server starts it by itself, else "
            "`ratchet round`"
        )
    return "\n".join([*lines, f"  {document['serves_now']} serves now"])


def _show_corrections(document: Document) -> str:
    if "waiting" not in document:
        return f"{document['signal']}: {document['verdict']}"
    if not document["waiting"]:
        return "no correction waits for a review"
    return "\n\n".join(
        f"{c['id']}  from {c['user']}\n  asked:     {c['question']}\n  answered:  {c['answer']}\n"
        f"  corrected: {c['correction']}"
        for c in document["waiting"]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ratchet",
        description="A chat application whose model gets better from its users' feedback and never slips back.",
    )
    parser.add_argument(
        "--home", metavar="DIR", help="store, datasets and runs (default: $RATCHET_HOME or ./.ratchet)"
    )
    parser.add_argument(
        "--objective",
        metavar="DIR",
        help="the domain's folder (default: $RATCHET_OBJECTIVE or objectives/medical)",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, run: Any, text: str, show: Any = _show_plain, reports: bool = True
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.set_defaults(run=run, show=show, json=False)
        if reports:
            added.add_argument("--json", action="store_true", help="print one JSON document on stdout")
        return added

    def say_who(added: argparse.ArgumentParser, why: bool = True) -> None:
        added.add_argument("--who", metavar="NAME", help="who does it, for the log (default: your login)")
        if why:
            added.add_argument("--why", metavar="TEXT", default="by hand", help="why, for the log")

    added = command("serve", _serve, "serve the chat page and the API; one process", reports=False)
    added.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    added.add_argument("--port", type=_port, default=7860, help="port to listen on (default: %(default)s)")

    command("prepare", _prepare, "convert the base model and the encoder into the cache")

    added = command(
        "import", _import, "bring in knowledge, multiple choice, feedback or preferences from files"
    )
    added.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="a .jsonl, .json, .csv, .parquet, .arrow or .xml file of one format, or a folder of such files, "
        "or of Markdown or text leaflets",
    )

    command(
        "compile", _compile, "show what becomes of every signal and knowledge row, without writing a dataset"
    )

    added = command(
        "export", _export, "write compiled rows, what was said or a model to a folder, for other programs"
    )
    added.add_argument(
        "kind",
        choices=("sft", "preference", "unpaired", "events", "model"),
        help="rows before the budget in TRL's column names; everything that was said, for `ratchet import`; or a "
        "version of the model",
    )
    added.add_argument("version", nargs="?", metavar="VERSION", help="of the model (default: the champion)")
    added.add_argument("--out", metavar="DIR", required=True, help="a new folder, with a card")
    added.add_argument(
        "--format", choices=("parquet", "jsonl"), help="of the files with rows or events (default: parquet)"
    )
    added.add_argument(
        "--form",
        choices=("adapter", "merged", "gguf"),
        help="of the model: the adapter for PEFT and vLLM, merged safetensors for transformers and vLLM, or one "
        "file for llama.cpp (default: adapter)",
    )

    added = command(
        "review",
        _review,
        "list users' corrections that wait, or approve or reject one",
        show=_show_corrections,
    )
    added.add_argument("correction", nargs="?", metavar="ID", help="the correction to judge")
    added.add_argument("--approve", action="store_true", help="it may be trained on")
    added.add_argument("--reject", action="store_true", help="it is never trained on")
    added.add_argument("--text", help="approve this text in its place")
    say_who(added, why=False)

    added = command(
        "round", _round, "freeze, train, evaluate, decide and promote: one whole round", show=_show_round
    )
    added.add_argument("--no-promote", action="store_true", help="decide, but leave the champion where it is")
    added.add_argument(
        "--max-steps", type=_positive, metavar="N", help="at most N training steps a stage, for a trial"
    )
    say_who(added, why=False)

    added = command(
        "tune",
        _tune,
        "search for better training settings on the validation side; later rounds use what was found",
        show=_show_search,
    )
    added.add_argument(
        "--trials", type=_positive, default=12, metavar="N", help="how many (default: %(default)s)"
    )
    added.add_argument("--minutes", type=_minutes, metavar="M", help="begin no trial after M minutes")
    added.add_argument(
        "--max-steps", type=_positive, metavar="N", help="at most N training steps a stage of each trial"
    )
    say_who(added, why=False)

    added = command("rounds", _rounds, "past rounds, or one in full", show=_show_rounds)
    added.add_argument("round", nargs="?", metavar="ID", help="such as r0001")

    added = command("repeat", _repeat, "train a run again, and say whether it comes to the same")
    added.add_argument("run_id", metavar="RUN", help="such as r0001")

    added = command("datasets", _datasets, "frozen datasets, the manifest of one, or `diff` of two")
    added.add_argument("dataset", nargs="*", metavar="HASH", help="the dataset's name, or: diff HASH HASH")

    command("status", _status, "champion, signals waiting, last decision, what runs now")

    added = command("evaluate", _evaluate, "run the suites on a version")
    added.add_argument("version", nargs="?", metavar="VERSION", help="default: the champion")

    added = command("gate", _gate, "how often the gate errs, simulated from recorded runs", show=_show_gate)
    added.add_argument("what", choices=("simulate",), help="draw many rounds and decide each")
    added.add_argument(
        "--rounds", type=_positive, default=2000, metavar="N", help="how many (default: %(default)s)"
    )

    added = command("promote", _promote, "let a version serve, in a running chat too")
    added.add_argument("version", metavar="VERSION", help="such as v0001-0a1b2c3d")
    say_who(added)

    say_who(command("rollback", _rollback, "let the version serve that served before"))

    added = command(
        "erase",
        _erase,
        "remove a person's words everywhere and withdraw what had learnt from them",
        show=_show_erasure,
    )
    added.add_argument(
        "user", metavar="USER", help="the number of a chat's cookie, or a user or rater of a file"
    )
    say_who(added, why=False)

    added = command(
        "account", _account, "list who may review or operate, or make, change or close an account"
    )
    added.add_argument("name", nargs="?", metavar="NAME", help="whose; without it the accounts are listed")
    added.add_argument(
        "--role",
        choices=("reviewer", "operator", "closed"),
        help="reviewer: the desk; operator: the rounds page too; closed: neither. The password is asked for, "
        "or read from RATCHET_PASSWORD or standard input",
    )
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise argparse.ArgumentTypeError("a port lies from 1 to 65535")
    return port


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError("more than 0")
    return minutes


if __name__ == "__main__":
    sys.exit(main())
