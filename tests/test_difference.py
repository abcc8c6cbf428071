"""What changed between two frozen datasets."""

from pathlib import Path

import pytest

from feedback.compiling.budget import select
from feedback.compiling.curation import Curation
from feedback.compiling.dataset import freeze
from feedback.compiling.difference import difference
from feedback.errors import RatchetError
from tests.said import AT, BETTER, MANY, OTHER, choice, compiled, correction, knowledge, rating, turn


def frozen(folder: Path, *events, **settings) -> Path:
    """The dataset of what `events` compile to."""
    every = {
        "max_share_per_person": 1,
        "max_share_per_cluster": 1,
        "preference_share": 1,
        "knowledge_share": 0,
    }
    curation = Curation(validation_share=0, held_out_share=0, min_words=3, **every)
    result = compiled(*events, curation=curation)
    selection = select(result.rows, curation, lambda text: len(text.split()), 400)
    return folder / freeze(folder, selection, result.document(), settings, AT)["hash"]


def test_rows_that_came_went_and_turned_are_counted_by_rule(tmp_path):
    """A correction came, a like turned into a dislike, knowledge went."""
    first, second = turn("t1", MANY[0]), turn("t2", MANY[1])
    before = frozen(tmp_path, first, second, rating("s1", 1, turn="t1"), knowledge("k1"), seed=1)
    after = frozen(
        tmp_path, first, second, rating("s2", -1, turn="t1"), correction("s3", BETTER, turn="t2"), seed=2
    )
    assert difference(before, after) == {
        "from": before.name,
        "to": after.name,
        "in": {"preference: correction": 1, "sft: correction": 1},
        "out": {"sft: knowledge": 1, "sft: liked": 1},
        "changed_label": {"unpaired: thumb": 1},
        "same": 0,
        "settings": ["seed"],
    }


def test_a_pair_that_is_turned_round_has_changed_its_label(tmp_path):
    """Chosen and rejected in each other's place are the same pair."""
    before = frozen(tmp_path, turn(), choice("s1", [OTHER], 0), knowledge("k1"))
    after = frozen(tmp_path, turn(), choice("s1", [OTHER], 1), knowledge("k1"))
    changed = difference(before, after)
    assert (changed["changed_label"], changed["same"]) == ({"preference: choice": 1}, 1)
    assert changed["in"] == changed["out"] == {}


def test_a_dataset_that_was_touched_is_refused(tmp_path):
    """What was changed by hand is compared with nothing."""
    before = frozen(tmp_path, turn(), rating("s1", 1))
    after = frozen(tmp_path, turn(answer=OTHER), rating("s1", 1))
    (after / "sft" / "train.parquet").write_bytes(b"PAR1 something else")
    with pytest.raises(RatchetError, match="changed after it was frozen"):
        difference(before, after)
