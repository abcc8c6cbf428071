"""What an objective may say of a judge."""

from pathlib import Path

import pytest

from eval.objective import load_objective
from tests.test_objective import refusal, write

JUDGE = """
[judge]
model = {model!r}
floor = 0.4
margin = {margin}
items = {items}
{more}
"""


def judge(model="local", margin=0.2, items=100, more=""):
    return JUDGE.format(model=model, margin=margin, items=items, more=more)


def test_a_judge_is_optional_and_has_a_default_question(tmp_path):
    """Without the table there is none; the local one needs nothing else."""
    assert load_objective(write(tmp_path)).judge is None
    found = load_objective(write(tmp_path, gate=judge())).judge
    assert (found.model, found.endpoint, found.key_variable, found.floor) == ("local", None, None, 0.4)
    assert "A or B" in found.question
    asked = load_objective(write(tmp_path, gate=judge(more='question = "Which one?"'))).judge
    assert asked.question == "Which one?"


def test_another_model_needs_an_endpoint(tmp_path):
    """With the name of the variable that holds its key, never with the key itself."""
    more = 'endpoint = "http://127.0.0.1:8000/v1"\nkey_variable = "JUDGE_KEY"'
    found = load_objective(write(tmp_path, gate=judge("tester", more=more))).judge
    assert (found.endpoint, found.key_variable) == ("http://127.0.0.1:8000/v1", "JUDGE_KEY")
    assert "judge: a model needs an endpoint" in refusal(write(tmp_path, gate=judge("tester")))
    assert "judge: a model needs an endpoint" in refusal(write(tmp_path, gate=judge(more=more)))
    assert "key_variable is for an endpoint" in refusal(
        write(tmp_path, gate=judge(more='key_variable = "K"'))
    )


@pytest.mark.parametrize(
    "endpoint",
    [
        "127.0.0.1:8000",
        "ftp://host/v1",
        "http:///v1",
        "https://me:secret@host/v1",
        "https://host/v1?key=secret",
    ],
)
def test_an_endpoint_is_a_plain_address(tmp_path, endpoint):
    """No other scheme, and no secret in it."""
    more = f'endpoint = "{endpoint}"'
    assert "is no plain http or https address" in refusal(write(tmp_path, gate=judge("tester", more=more)))


def test_an_unknown_key_of_the_judge_is_refused(tmp_path):
    """Such as the key itself."""
    assert "judge.key: unknown key" in refusal(write(tmp_path, gate=judge(more='key = "secret"')))


def test_a_margin_that_the_items_cannot_resolve_is_refused(tmp_path):
    """Verdicts are spread by 1 at most; the primary suite may be the smaller one."""
    assert (
        "judge: 90 items cannot resolve a margin of 0.2 (the interval may reach 0.207 to each side); give it 97"
        in (refusal(write(tmp_path, gate=judge(items=90))))
    )
    assert "judge: 240 items cannot resolve a margin of 0.1" in refusal(
        write(tmp_path, gate=judge(items=1000, margin=0.1))
    )


def test_there_must_be_answers_to_compare(tmp_path):
    """A suite that only looks at likelihoods has none."""
    folder = write(tmp_path, gate=judge())
    text = (folder / "objective.toml").read_text().replace('"similarity", "token_f1"', '"log_likelihood"')
    (folder / "objective.toml").write_text(
        text.replace('primary = "similarity"', 'primary = "log_likelihood"')
    )
    assert "judge: the suite of the primary metric asks for no answers" in refusal(folder)


def test_the_table_in_the_readme_loads(tmp_path):
    """As it is written there, and with the lines that are commented out."""
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    table = readme.split("```toml\n")[1].split("```")[0]
    assert load_objective(write(tmp_path, gate=table)).judge.model == "local"
    elsewhere = (
        table.replace("# endpoint", "endpoint").replace("# key_", "key_").replace('"local"', '"tester"')
    )
    assert load_objective(write(tmp_path, gate=elsewhere)).judge.key_variable == "JUDGE_KEY"
