"""A run can be trained again from its run.json: the same losses and the same adapter, or where they part."""

import json
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from tiny import tiny_model

from app.cli import main
from app.repetition import compare
from app.run_folder import only_round
from training.candidate import make_candidate
from training.interruption import Interruption
from training.weights import file_sha256

pytestmark = pytest.mark.usefixtures("one_thread")

SYSTEM = {"role": "system", "content": "You give plain, careful health information."}
RECIPE = {
    "sft": {"epochs": 2, "learning_rate": 5e-3},
    "dpo": {"learning_rate": 1e-4},
    "lora": {"dropout": 0.1},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one run of both stages, trained with one thread."""
    home = tmp_path_factory.mktemp("home")
    data, run = home / "datasets" / "feedbeef", home / "runs" / "r0001"
    for kind in ("sft", "preference"):
        (data / kind).mkdir(parents=True)
        for side, numbers in (("train", range(16)), ("validation", range(100, 104))):
            table = pyarrow.Table.from_pylist([row(kind, number) for number in numbers])
            pyarrow.parquet.write_table(table, data / kind / f"{side}.parquet")
    files = {str(file.relative_to(data)): file_sha256(file) for file in data.glob("*/*.parquet")}
    (data / "manifest.json").write_text(json.dumps({"files": files}))
    run.mkdir(parents=True)
    plan = {
        "run": "r0001",
        "dataset": str(data),
        "dataset_hash": "feedbeef",
        "base_model": str(tiny_model(home / "model")),
        "base_model_name": str(home / "model"),
        "recipe": RECIPE,
        "max_steps": 3,
    }
    (run / "plan.json").write_text(json.dumps(plan))
    make_candidate(run, Interruption())
    return home


def row(kind: str, number: int) -> dict:
    answer = [{"role": "assistant", "content": f"See a doctor about number {number}."}]
    prompt = [SYSTEM, {"role": "user", "content": f"What is number {number}?"}]
    if kind == "sft":
        return {"prompt": prompt, "completion": answer}
    return {"prompt": prompt, "chosen": answer, "rejected": [{"role": "assistant", "content": "Insulin."}]}


@pytest.fixture
def ratchet(home: Path, capsys: pytest.CaptureFixture):
    """Run a command on the home: (status, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["--home", str(home), *arguments])
        return status, *capsys.readouterr()

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_repetition_comes_to_the_same_from_run_json_alone(home: Path, ratchet):
    """The plan is not needed; every loss and the adapter's bytes are equal; the run stays as it was."""
    run = home / "runs" / "r0001"
    (run / "plan.json").rename(home / "plan.json")
    before = contents(run)
    status, out, _ = ratchet("repeat", "r0001", "--json")
    (home / "plan.json").rename(run / "plan.json")
    assert (status, json.loads(out)) == (
        0,
        {
            "run": "r0001",
            "version": json.loads(before["run.json"])["version"],
            "equal": True,
            "adapter_equal": True,
            "losses_compared": {"sft": 3, "dpo": 3},
            "first_difference": None,
            "changed": {},
        },
    )
    assert before == {name: text for name, text in contents(run).items() if name != "plan.json"}


def test_another_result_is_told_and_kept(home: Path, ratchet):
    """Where run.json says another seed than trained the run, the first loss that differs is named; still exit 0.

    A repetition that was kept earlier makes way for it.
    """
    run = home / "runs" / "r0002"
    shutil.copytree(home / "runs" / "r0001", run)
    shutil.copytree(home / "runs" / "r0001", run / "repeat")
    made = json.loads((run / "run.json").read_text())
    made["recipe"]["seed"], made["packages"]["torch"] = 7, "1.0"
    (run / "run.json").write_text(json.dumps(made))
    status, out, _ = ratchet("repeat", "r0002", "--json")
    document = json.loads(out)
    assert (status, document["equal"], document["adapter_equal"]) == (0, False, False)
    assert document["first_difference"]["stage"] == "sft"
    assert document["changed"].keys() == {"torch"} and document["changed"]["torch"]["then"] == "1.0"
    assert Path(document["folder_path"], "adapter").is_dir()
    shutil.rmtree(run)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda home: (home / "runs" / "r0001" / "run.json").unlink(), "never finished"),
        (lambda home: shutil.rmtree(home / "datasets"), "is no finished dataset"),
        (lambda home: (home / "datasets/feedbeef/sft/train.parquet").write_bytes(b""), "was changed after"),
        (lambda home: tiny_model(home / "model", seed=1), "restore it, then repeat"),
        (lambda home: shutil.rmtree(home / "runs" / "r0001"), "there is no run 'r0001'"),
    ],
)
def test_what_cannot_be_repeated_is_one_line(home: Path, tmp_path: Path, capsys, damage, says: str):
    """Without the same data and the same base nothing is trained."""
    copy = tmp_path / "home"
    shutil.copytree(home, copy)
    made = copy / "runs" / "r0001" / "run.json"
    made.write_text(made.read_text().replace(str(home), str(copy)))
    damage(copy)
    capsys.readouterr()
    assert main(["--home", str(copy), "repeat", "r0001"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and says in err and err.count("\n") == 1
    assert not (copy / "runs" / "r0001" / "repeat").exists()


def test_a_run_is_not_repeated_beside_a_round(home: Path, ratchet):
    """A repetition would slow the round down, and an erasure must not find it reading."""
    with only_round(home, "ann"):
        status, _, err = ratchet("repeat", "r0001")
    assert status == 1 and "a round is running" in err


def made(**changed) -> dict:
    run = {"run": "r0001", "version": "v", "adapter_sha256": "a", "device": "cpu", "threads": 2}
    return run | {"packages": {"torch": "2.13"}} | changed


def test_the_first_loss_that_differs_is_found_in_the_order_of_training():
    """A stage or a step that the repetition did not reach differs too; an adapter may differ where no loss does."""
    losses = {"sft": {1: 2.5, 2: 2.25}, "dpo": {1: 0.75}}
    for again, first in (
        ({"sft": {1: 2.5, 2: 2.0}, "dpo": {1: 0.5}}, ("sft", 2, 2.25, 2.0)),
        ({"sft": {1: 2.5, 2: 2.25}, "dpo": {1: 0.5}}, ("dpo", 1, 0.75, 0.5)),
        ({"sft": {1: 2.5}, "dpo": {1: 0.75}}, ("sft", 2, 2.25, None)),
        ({"sft": {1: 2.5, 2: 2.25}}, ("dpo", 1, 0.75, None)),
    ):
        document = compare(made(), made(), losses, again)
        assert tuple(document["first_difference"].values()) == first
        assert document["equal"] is False
    assert compare(made(), made(), losses, losses)["equal"] is True
    document = compare(made(), made(adapter_sha256="b", threads=4), losses, losses)
    assert (document["equal"], document["first_difference"]) == (False, None)
    assert document["changed"] == {"threads": {"then": 2, "now": 4}}
