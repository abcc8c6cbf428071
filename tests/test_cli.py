"""What the command line promises: exit codes, one JSON document, one line for an error, never a traceback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli import main

KNOWLEDGE = (
    '{"question": "What is a cold?", "answer": "A cold is a mild infection of the nose and throat."}\n'
)
RATED = (
    '{"messages": [{"role": "user", "content": "What is flu?"}, {"role": "assistant", "content": "A thing."}], '
    '"correction": "Flu is an infection of the airways by a virus.", "user": "ann"}\n'
)


@pytest.fixture
def ratchet(tmp_path: Path, capsys: pytest.CaptureFixture):
    """Run a command on a home of its own: (status, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["--home", str(tmp_path / "home"), "--objective", "objectives/medical", *arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run


def test_help_answers_at_once_and_without_torch():
    """Neither the help nor a refused word loads a library for models, pages or the store."""
    code = (
        "import sys; from app.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'gradio', 'duckdb', 'numpy'} & sys.modules.keys()\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "promote" in done.stdout


def test_a_report_is_one_json_document(ratchet, tmp_path: Path):
    """`--json` prints one document on stdout that adds up, and nothing else there."""
    file = tmp_path / "k.jsonl"
    file.write_text(KNOWLEDGE + "rubbish\n" + KNOWLEDGE)
    status, out, _ = ratchet("import", str(file), "--json")
    document = json.loads(out)
    assert status == 0
    assert document["read"] == 3 == document["accepted"] + sum(document["skipped"].values())
    assert json.loads(ratchet("status", "--json")[1])["champion"] == "base"
    compiled = [ratchet("compile", "--json")[1] for _ in range(2)]
    assert compiled[0] == compiled[1]
    for tally in (json.loads(compiled[0])[name] for name in ("signals", "knowledge")):
        assert tally["in"] == tally["kept"] + tally["held_out"] + sum(tally["dropped"].values())


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["import", "missing.jsonl"], 1, "does not exist"),
        (["promote", "v9999-00000000"], 1, "there are: base"),
        (["promote", "base"], 1, "champion already"),
        (["rollback"], 1, "nothing to go back to"),
        (["round"], 1, "nothing to train on yet"),
        (["rounds", "r0007"], 1, "`ratchet rounds` lists them"),
        (["datasets", "feed"], 1, "`ratchet datasets` lists"),
        (["evaluate", "v9"], 1, "there is no version"),
        (["review", "x", "--approve"], 1, "`ratchet review` lists"),
        (["review", "x"], 2, "--approve or --reject"),
        (["review", "--approve"], 2, "name the correction"),
    ],
)
def test_what_cannot_be_done_is_one_line(ratchet, arguments: list[str], status: int, says: str):
    """An error is one line on stderr that says what and how to mend it; nothing on stdout."""
    got, out, err = ratchet(*arguments)
    assert (got, out) == (status, "")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["dance"], ["serve", "--port", "70000"], ["round", "--max-steps", "0"], ["gate"], []]
)
def test_wrong_use_exits_with_2(words: list[str]):
    """argparse's refusals exit with 2."""
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2


def test_an_unknown_key_in_the_objective_is_wrong_use(ratchet, tmp_path: Path, capsys):
    """The file and the key are named, exit status 2."""
    folder = tmp_path / "objective"
    folder.mkdir()
    text = Path("objectives/medical/objective.toml").read_text("utf-8")
    (folder / "objective.toml").write_text('colour = "blue"\n' + text, "utf-8")
    assert main(["--objective", str(folder), "--home", str(tmp_path / "h"), "status"]) == 2
    assert "colour: unknown key" in capsys.readouterr().err


def test_a_home_that_cannot_be_used_is_one_line(tmp_path: Path, capsys):
    """A file where the home should be is refused by name."""
    (tmp_path / "home").write_text("in the way")
    status = main(["--home", str(tmp_path / "home"), "--objective", "objectives/medical", "status"])
    assert status == 1
    assert "home" in capsys.readouterr().err


def test_a_users_correction_waits_for_a_reviewer(ratchet, tmp_path: Path):
    """It trains nothing until it is approved; rejected it never does."""
    file = tmp_path / "f.jsonl"
    file.write_text(RATED)
    ratchet("import", str(file))
    assert json.loads(ratchet("compile", "--json")[1])["signals"]["dropped"] == {"awaiting_review": 1}
    (waiting,) = json.loads(ratchet("review", "--json")[1])["waiting"]
    assert ratchet("review", waiting["id"], "--approve", "--who", "rita")[0] == 0
    assert json.loads(ratchet("review", "--json")[1])["waiting"] == []
    assert json.loads(ratchet("compile", "--json")[1])["signals"]["kept"] == 1
    assert ratchet("review", waiting["id"], "--reject")[0] == 0
    assert json.loads(ratchet("compile", "--json")[1])["signals"]["dropped"] == {"rejected_by_reviewer": 1}


def test_the_gate_is_simulated_without_a_store(ratchet, tmp_path: Path):
    """The same rates twice, as one document and in words; an objective that recorded nothing is wrong use."""
    folder = tmp_path / "objective"
    shutil.copytree("objectives/medical", folder)
    (folder / "differences.json").unlink(missing_ok=True)
    command = ("--objective", str(folder), "gate", "simulate", "--rounds", "20")
    status, out, err = ratchet(*command)
    assert (status, out) == (2, "") and "differences.json does not exist" in err
    pair = {"metrics": {"similarity": [[change] for change in (-0.1, 0.0, 0.1)] * 5}}
    (folder / "differences.json").write_text(json.dumps({"made": "by hand", "null": pair, "gain": pair}))
    documents = [ratchet(*command, "--json")[1] for _ in range(2)]
    assert documents[0] == documents[1]
    found = json.loads(documents[0])
    assert 0 <= found["false_promotion"] < 0.5 < found["power"] <= 1
    assert found["items"] == {"similarity": 240} and found["effect"] > 0
    assert "token_f1" in found["left_out"]
    assert "without a gain promoted" in ratchet(*command)[1]
    assert not (tmp_path / "home").exists()


def test_a_store_that_is_open_elsewhere_is_waited_for(
    ratchet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A command gives up in one line when another process keeps the store."""
    monkeypatch.setattr("app.door.PATIENCE_S", 0.5)
    (tmp_path / "home").mkdir()
    code = (
        f"import sys, time; from pathlib import Path; from feedback.store import Store\n"
        f"with Store.open(Path({str(tmp_path / 'home' / 'store.duckdb')!r})):\n"
        f"    print('open', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"open\n"
        status, _, err = ratchet("status")
        assert status == 1
        assert "open in another process" in err
    finally:
        holder.communicate()


def test_who_reads_half_of_it_is_no_error(tmp_path: Path):
    """`ratchet ... | head -1` ends without a traceback."""
    environment = os.environ | {"RATCHET_HOME": str(tmp_path)}
    command = f"{sys.executable} -m app.cli status | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment)
    assert "Traceback" not in done.stderr


def test_an_unknown_training_setting_is_named(ratchet, tmp_path: Path):
    """A misspelt key under [training] is one line with its name, before anything starts."""
    folder = tmp_path / "objective"
    shutil.copytree("objectives/medical", folder)
    toml = (folder / "objective.toml").read_text()
    (folder / "objective.toml").write_text(toml.replace("max_length = 512", "max_lenght = 512"))
    status, out, err = ratchet("--objective", str(folder), "round")
    assert (status, out) == (2, "")
    assert err.endswith("objective.toml: training.max_lenght: unknown key\n") and err.count("\n") == 1


def test_a_folder_comes_in_and_what_was_said_goes_out_and_back(ratchet, tmp_path: Path):
    """Leaflets are imported as a folder; progress is on stderr; exported events say the same in another home."""
    (tmp_path / "leaflets").mkdir()
    (tmp_path / "leaflets" / "cold.md").write_text(
        "# Cold\n\n## Causes\n\nA virus of the nose and the throat.\n"
    )
    (tmp_path / "f.jsonl").write_text(RATED)
    status, out, err = ratchet("import", str(tmp_path / "leaflets"), str(tmp_path / "f.jsonl"), "--json")
    assert (status, json.loads(out)["accepted"]) == (0, 2)
    assert err.splitlines() == ["leaflets: 1 of 1 rows", "f.jsonl: 1 of 1 rows"]
    compiled = ratchet("compile", "--json")[1]
    status, out, _ = ratchet("export", "events", "--out", str(tmp_path / "out"), "--json")
    assert (status, json.loads(out)["rows"]) == (0, {"feedback": 1, "knowledge": 1})
    assert ratchet("--home", str(tmp_path / "other"), "import", str(tmp_path / "out"))[0] == 0
    assert ratchet("--home", str(tmp_path / "other"), "compile", "--json")[1] == compiled
    assert ratchet("export", "sft", "--out", str(tmp_path / "rows"), "--format", "jsonl")[0] == 0
    status, out, err = ratchet("export", "sft", "--out", str(tmp_path / "rows"))
    assert (status, out) == (1, "") and "is not empty" in err
