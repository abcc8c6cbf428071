"""A search for settings: around the present ones, those first, the same after a stop, the hopeless given up."""

from pathlib import Path

import pytest

from training.recipe import Recipe
from training.search import Study, due, merged, mixes, point_of, settings_of, space

RECIPE = Recipe.model_validate(
    {"sft": {"learning_rate": 2e-4, "batch_size": 1}, "dpo": {"min_pairs": 4, "sft_weight": 0.8}}
)
VARIED = space(RECIPE, pairs=4, mixes=2)
PRESENT = point_of(RECIPE, tuple(VARIED))


def study(folder: Path) -> Study:
    return Study(folder / "journal.jsonl", VARIED, PRESENT)


def test_settings_are_varied_around_the_present_ones():
    """The present value of each can be drawn; sizes stay whole and above nothing."""
    assert PRESENT["sft.learning_rate"] == 2e-4 and PRESENT["mix"] == 0
    for name, distribution in VARIED.items():
        assert distribution._contains(distribution.to_internal_repr(PRESENT[name])), name
    assert VARIED["sft.batch_size"].choices == (1, 2)
    assert VARIED["lora.rank"].choices == (8, 16, 32)
    assert (VARIED["dpo.sft_weight"].low, VARIED["dpo.sft_weight"].high) == (0, 1.6)


def test_nothing_is_varied_that_has_no_effect():
    """Without pairs enough DPO is left out, and with one data mix there is no choice of one."""
    assert not any(name.startswith("dpo.") for name in space(RECIPE, pairs=3, mixes=2))
    assert "mix" not in space(RECIPE, pairs=4, mixes=1)


def test_data_shares_are_moved_one_at_a_time():
    """The present shares come first; each stays within its bounds; none is there twice."""
    first, *moved = mixes(0.6, 0.15)
    assert first == {"knowledge_share": 0.6, "preference_share": 0.15}
    assert [tuple(mix.values()) for mix in moved] == [(0.4, 0.15), (0.8, 0.15), (0.6, 0.075), (0.6, 0.3)]
    assert [mix["knowledge_share"] for mix in mixes(0.0, 0.0)] == [0.0, 0.2]


def test_a_point_becomes_training_settings():
    """Dotted names are nested as [training] has them, and put over what stands there."""
    found = settings_of({"sft.epochs": 2.0, "dpo.beta": 0.2, "mix": 1})
    assert found == {"sft": {"epochs": 2.0}, "dpo": {"beta": 0.2}}
    before = {"max_length": 256, "sft": {"epochs": 1.0, "batch_size": 4}}
    assert merged(before, found) == {
        "max_length": 256,
        "sft": {"epochs": 2.0, "batch_size": 4},
        "dpo": {"beta": 0.2},
    }
    assert before["sft"]["epochs"] == 1.0


def test_the_present_settings_come_first(tmp_path: Path):
    """The first trial has them, and it is known by it."""
    searched = study(tmp_path)
    assert searched.next() == (0, PRESENT)
    assert searched.is_present(0)
    searched.end(0, -2.0, {})
    number, point = searched.next()
    assert number == 1 and point != PRESENT and not searched.is_present(1)
    Recipe.model_validate(merged(RECIPE.model_dump(), settings_of(point)))


def test_a_search_that_was_cut_off_draws_what_it_would_have_drawn(tmp_path: Path):
    """A trial that has not ended comes again; opened anew, or never closed, the same settings follow."""
    calm, cut_off = tmp_path / "calm", tmp_path / "cut_off"
    drawn: dict[Path, list] = {calm: [], cut_off: []}
    for folder, points in drawn.items():
        folder.mkdir()
        searched = study(folder)
        for value in (-2.0, -1.5, -2.5, -1.8, -1.2, -1.3):
            points.append(searched.next())
            if folder == cut_off:
                (folder / "journal.jsonl.lock").symlink_to("journal.jsonl")  # as a kill leaves it
                searched = study(folder)
                assert searched.next() == points[-1]
            searched.end(points[-1][0], value, {1: value - 1})
    assert drawn[calm] == drawn[cut_off]
    assert len({str(point) for _, point in drawn[calm]}) == 6


def test_present_settings_that_failed_are_tried_again(tmp_path: Path):
    """Without them nothing could be compared."""
    searched = study(tmp_path)
    searched.next()
    searched.end(0, None, {})
    assert searched.next() == (1, PRESENT) and searched.is_present(1)


def test_what_lies_behind_the_median_is_given_up(tmp_path: Path):
    """Once four have ended, a trial whose look is below half of theirs is hopeless; the present never is."""
    searched = study(tmp_path)
    for value in (-2.1, -2.2, -2.3, -2.4):
        number, _ = searched.next()
        assert not searched.is_hopeless(number, {1: 2 * value}), "too few have ended"
        searched.end(number, value, {})
    number, _ = searched.next()
    assert not searched.is_hopeless(number, {})
    assert not searched.is_hopeless(number, {1: -4.4})
    assert not searched.is_hopeless(number, {1: -4.4, 2: -9.0}), "nobody else looked a second time"
    searched.end(number, -2.2, {1: -4.4, 2: -9.0})
    number, _ = searched.next()
    assert searched.is_hopeless(number, {1: -4.7})
    searched.end(number, None, {1: -4.7}, pruned=True)
    assert searched.next()[0] == number + 1
    assert not searched.is_hopeless(0, {1: -99.0}), "the present settings are needed"


@pytest.mark.parametrize(
    ("finished", "at_last_search", "searches"),
    [(2, None, False), (3, None, True), (5, 3, False), (6, 3, True), (9, 3, True)],
)
def test_a_search_is_due_every_so_many_rounds(finished: int, at_last_search: int | None, searches: bool):
    """Rounds are counted from the last search, or from the first round."""
    assert due(3, finished, at_last_search) is searches
