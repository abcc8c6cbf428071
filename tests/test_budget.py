"""What one training may cost, and whose it is."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.compiling.budget import TEMPLATE_TOKENS, VALIDATION_ROWS, Selection, select
from feedback.compiling.curation import Curation
from feedback.errors import RatchetError
from feedback.records import OWN, Example

WINDOW = 200  # tokens
SYSTEM_AND_QUESTION = 2 + 2 * TEMPLATE_TOKENS  # a word each


def words_in(text: str) -> int:
    """A tokenizer to whom a word is a token."""
    return len(text.split())


def example(row_id: str, kind: str = "sft", words: int = 20, **more) -> Example:
    """A row whose answer has `words` words."""
    prompt = ({"role": "system", "content": "Help."}, {"role": "user", "content": "What?"})
    defaults = {
        "prompt": prompt,
        "chosen": "good " * words,
        "rejected": "bad " * words if kind == "preference" else None,
        "label": True if kind == "unpaired" else None,
        "side": "train",
        "rule": "liked",
        "origin": "feedback",
        "sources": ("s" + row_id,),
        "cluster": "c" + row_id,
    }
    return Example(**{"id": row_id, "kind": kind, **defaults, **more})


def knowledge(row_id: str, **more) -> Example:
    """A knowledge row."""
    return example(row_id, **{"rule": "knowledge", "origin": "knowledge"} | more)


def cost(selection: Selection, **having) -> int:
    """The tokens of the selected rows that are trained on and have these fields."""
    return sum(
        selection.tokens[row.id]
        for row in selection.rows
        if row.side == "train"
        and row.kind in selection.taught
        and all(getattr(row, name) == value for name, value in having.items())
    )


def chosen(selection: Selection) -> list[str]:
    """The ids of the selected rows."""
    return [row.id for row in selection.rows]


def test_a_row_costs_its_prompt_and_answer_and_a_pair_twice_that():
    """Tokens are counted as a training step reads them."""
    rows = [example("1", words=20), example("2", "preference", words=20)]
    selection = select(rows, Curation(knowledge_share=0, preference_share=1), words_in, WINDOW)
    one = SYSTEM_AND_QUESTION + 20 + TEMPLATE_TOKENS
    assert selection.tokens == {"1": one, "2": 2 * one}


def test_the_budget_is_never_passed():
    """What does not fit is left out and counted."""
    rows = [knowledge(f"{i:02}") for i in range(50)]
    selection = select(rows, Curation(token_budget=400), words_in, WINDOW)
    assert 360 < cost(selection) <= 400
    assert selection.excluded == {"token_budget": 50 - len(selection.rows)}


def test_knowledge_has_at_least_its_share():
    """However much feedback waits, it takes no more than its part."""
    rows = [knowledge(f"k{i:02}") for i in range(50)] + [example(f"f{i:02}") for i in range(50)]
    selection = select(rows, Curation(token_budget=1200, knowledge_share=0.6), words_in, WINDOW)
    assert cost(selection, origin="knowledge") >= 0.6 * cost(selection)
    assert cost(selection, origin="feedback") > 0.3 * cost(selection)


def test_little_knowledge_leaves_little_room_for_feedback():
    """The share holds of what is really trained on, not of the budget."""
    rows = [knowledge("k1"), knowledge("k2"), knowledge("k3"), *(example(f"f{i:02}") for i in range(50))]
    selection = select(rows, Curation(knowledge_share=0.6), words_in, WINDOW)
    assert sorted(chosen(selection)) == ["f48", "f49", "k1", "k2", "k3"]


def test_feedback_that_does_not_leave_room_for_big_knowledge_rows_gives_way():
    """Knowledge rows too big for what is left do not count towards the share."""
    rows = [
        knowledge("k1", words=150),
        knowledge("k2", words=150),
        *(example(f"f{i}", words=10) for i in range(9)),
    ]
    selection = select(rows, Curation(token_budget=340, knowledge_share=0.5), words_in, WINDOW)
    assert cost(selection, origin="knowledge") >= 0.5 * cost(selection)
    assert cost(selection) <= 340


def test_preference_pairs_have_at_most_their_share_of_the_budget():
    """A flood of pairs leaves the rest for supervised rows."""
    rows = [example(f"p{i:02}", "preference") for i in range(40)] + [example(f"f{i:02}") for i in range(40)]
    curation = Curation(token_budget=1000, knowledge_share=0, preference_share=0.15)
    selection = select(rows, curation, words_in, WINDOW)
    assert 0 < cost(selection, kind="preference") <= 150
    assert cost(selection, kind="sft") > 800


def test_one_persons_likes_have_at_most_their_share():
    """Many rows that stand on one person's word alone are cut at a share of the budget."""
    rows = [example(f"a{i:02}", people=("ann",)) for i in range(20)]
    rows += [example(f"b{i:02}", people=("bob",)) for i in range(2)]
    curation = Curation(token_budget=1000, knowledge_share=0, max_share_per_person=0.1)
    selection = select(rows, curation, words_in, WINDOW)
    assert Counter(name[0] for name in chosen(selection)) == {"a": 2, "b": 2}
    assert cost(selection, people=("ann",)) <= 100
    assert selection.excluded["person_share"] == 18


def test_a_persons_share_counts_over_pairs_and_likes_together():
    """Choosing does not open a second purse."""
    rows = [example(f"p{i}", "preference", people=("ann",)) for i in range(5)]
    rows += [example(f"l{i}", people=("ann",)) for i in range(5)]
    curation = Curation(token_budget=1000, knowledge_share=0, preference_share=1, max_share_per_person=0.1)
    assert cost(select(rows, curation, words_in, WINDOW)) <= 100


def test_one_clusters_likes_have_at_most_their_share():
    """Many people who like answers to one question do not make it what is trained on; corrections may."""
    rows = [example(f"a{i:02}", people=(f"p{i}",), cluster="one") for i in range(20)]
    rows += [example(f"b{i:02}", people=(f"q{i}",)) for i in range(5)]
    rows += [example(f"c{i:02}", rule="correction", cluster="one") for i in range(5)]
    curation = Curation(token_budget=1000, knowledge_share=0, max_share_per_cluster=0.1)
    selection = select(rows, curation, words_in, WINDOW)
    assert Counter(name[0] for name in chosen(selection)) == {"a": 2, "b": 5, "c": 5}
    assert selection.excluded["cluster_share"] == 18


def test_a_share_is_of_what_can_be_trained_on():
    """Where little waits, a person's share is a share of that, not of a budget that nobody fills."""
    rows = [example(f"a{i:02}", people=("ann",)) for i in range(20)] + [knowledge(f"k{i}") for i in range(20)]
    selection = select(rows, Curation(knowledge_share=0, max_share_per_person=0.1), words_in, WINDOW)
    assert Counter(name[0] for name in chosen(selection)) == {"a": 4, "k": 20}


def test_personal_data_is_taken_out_of_what_is_trained_on():
    """Questions and answers are rewritten; the system prompt is the domain's own."""
    row = example("1", "preference")
    selection = select([row], Curation(knowledge_share=0, preference_share=1), words_in, WINDOW)
    (redacted,) = selection.redacted(lambda text: text.replace("good", "<X>").replace("What", "<Y>")).rows
    assert redacted.prompt == (row.prompt[0], {"role": "user", "content": "<Y>?"})
    assert (redacted.chosen, redacted.rejected) == (row.chosen.replace("good", "<X>"), row.rejected)


def test_what_reviewers_stand_behind_is_nobodys_share():
    """Corrections are not cut for their number."""
    rows = [example(f"c{i:02}", rule="correction") for i in range(10)]
    curation = Curation(token_budget=1000, knowledge_share=0, max_share_per_person=0.01)
    assert len(select(rows, curation, words_in, WINDOW).rows) == 10


def test_corrections_come_before_likes_and_the_newest_first():
    """A short budget goes to what was said last by those who know."""
    rows = [example("1", rule="correction"), example("2", rule="correction"), example("3"), example("4")]
    budget = 3 * (SYSTEM_AND_QUESTION + 20 + TEMPLATE_TOKENS)
    selection = select(rows, Curation(token_budget=budget, knowledge_share=0), words_in, WINDOW)
    assert chosen(selection) == ["1", "2", "4"]


def test_knowledge_goes_round_the_topics():
    """No topic gives a second row before every topic gave one."""
    rows = [knowledge(f"big{i}", cluster="big") for i in range(20)]
    rows += [knowledge(f"small{i}", cluster=f"small{i}") for i in range(3)]
    budget = 4 * (SYSTEM_AND_QUESTION + 20 + TEMPLATE_TOKENS)
    selection = select(rows, Curation(token_budget=budget), words_in, WINDOW)
    assert sorted(row.cluster for row in selection.rows) == ["big", "small0", "small1", "small2"]


def test_the_order_of_arrival_does_not_matter():
    """The same rows in another order give the same selection, also within a topic."""
    rows = [knowledge(f"{i:02}", cluster=f"c{i % 2}") for i in range(12)]
    rows += [example(f"f{i}", people=("ann",)) for i in range(6)]
    curation = Curation(token_budget=250)
    selections = [
        select(order, curation, words_in, WINDOW) for order in (rows, rows[::-1], rows[5:] + rows[:5])
    ]
    assert len({tuple(sorted(chosen(selection))) for selection in selections}) == 1
    assert 0 < len(selections[0].rows) < len(rows)


def test_a_row_longer_than_the_window_is_left_out_whole():
    """Nothing is cut."""
    rows = [knowledge("1"), knowledge("2", words=WINDOW)]
    selection = select(rows, Curation(), words_in, WINDOW)
    assert chosen(selection) == ["1"]
    assert selection.excluded == {"longer_than_the_window": 1}


def test_validation_and_unpaired_rows_cost_nothing():
    """They are not trained on; validation is capped by number."""
    rows = [knowledge("k1")]
    rows += [example(f"v{i:03}", side="validation") for i in range(VALIDATION_ROWS + 5)]
    rows += [example(f"u{i:03}", "unpaired") for i in range(30)]
    selection = select(rows, Curation(token_budget=50), words_in, WINDOW)
    assert Counter(name[0] for name in chosen(selection)) == {"k": 1, "v": VALIDATION_ROWS, "u": 30}


def test_thumbs_have_at_most_their_share_of_the_budget():
    """With a share they are chosen and paid for, the newest first; the rest of them is no part of the dataset."""
    rows = [example(f"u{i:02}", "unpaired") for i in range(40)] + [example(f"f{i:02}") for i in range(40)]
    curation = Curation(token_budget=1000, knowledge_share=0, unpaired_share=0.15)
    selection = select(rows, curation, words_in, WINDOW)
    assert [name for name in chosen(selection) if name[0] == "u"] == ["u37", "u38", "u39"]
    paid = sum(selection.tokens[row.id] for row in selection.rows)
    assert 900 < paid <= 1000 and cost(selection, kind="sft") <= paid - 3 * selection.tokens["u39"]
    assert selection.taught == {"sft", "preference", "unpaired"}


def test_without_a_share_thumbs_change_nothing():
    """All are kept beside what is chosen without them."""
    rows = [knowledge("k1"), *(example(f"f{i}", people=("ann",)) for i in range(20))]
    thumbs = [example(f"u{i}", "unpaired", people=("ann",)) for i in range(20)]
    curation = Curation(token_budget=300, knowledge_share=0.1, unpaired_share=0)
    without, beside = (select(each, curation, words_in, WINDOW) for each in (rows, rows + thumbs))
    assert chosen(beside) == chosen(without) + [row.id for row in thumbs]
    assert (beside.excluded, beside.taught) == (without.excluded, {"sft", "preference"})


def test_a_persons_share_counts_over_thumbs_too():
    """Thumbs do not open a second purse; who has used up a share with them has no likes beside."""
    rows = [example(f"u{i}", "unpaired", people=("ann",)) for i in range(9)]
    rows += [example(f"l{i}", people=("ann",)) for i in range(9)]
    rows += [example(f"c{i}", "unpaired", people=(f"p{i}",), cluster="one") for i in range(9)]
    limits = {"max_share_per_person": 0.1, "max_share_per_cluster": 0.1}
    curation = Curation(token_budget=1000, knowledge_share=0, unpaired_share=1, **limits)
    selection = select(rows, curation, words_in, WINDOW)
    assert Counter(name[0] for name in chosen(selection)) == {"u": 2, "c": 2}
    assert selection.excluded == {"person_share": 16, "cluster_share": 7}


def test_thumbs_give_way_before_answers_when_knowledge_lacks_its_share():
    """Knowledge rows too big for what is left: bare thumbs go first, the oldest of them before others."""
    rows = [knowledge("k1", words=100), knowledge("k2", words=180)]
    rows += [example(f"u{i}", "unpaired") for i in range(3)] + [example("f1", words=10)]
    curation = Curation(token_budget=340, knowledge_share=0.5, unpaired_share=0.5)
    selection = select(rows, curation, words_in, WINDOW)
    taken = chosen(selection)
    assert "f1" in taken and "u0" not in taken
    knows = sum(selection.tokens[row.id] for row in selection.rows if row.origin == "knowledge")
    assert knows >= 0.5 * sum(selection.tokens.values())


@pytest.mark.parametrize(
    "rows",
    [[], [example("v", side="validation")], [example("u", "unpaired")], [knowledge("k", words=WINDOW)]],
    ids=["nothing", "validation only", "unpaired only", "too long"],
)
def test_nothing_to_train_on_is_said_in_one_line(rows):
    """A dataset without training rows is not made."""
    with pytest.raises(RatchetError, match=r"^nothing to train on yet: [^\n]*$"):
        select(rows, Curation(), words_in, WINDOW)


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["knowledge", "sft", "preference", "unpaired"]),
        st.integers(1, 80),
        st.sampled_from([(), ("ann",), ("bob",), ("ann", "bob")]),
    ),
    max_size=40,
)


SHARES = st.sampled_from([0, 0.15, 1])


@given(ROWS, st.integers(1, 2000), st.sampled_from([0, 0.3, 0.6, 1]), SHARES, SHARES)
def test_every_limit_holds_for_any_rows(drawn, budget, knowledge_share, preference_share, unpaired_share):
    """The budget, all four shares and the order of arrival, whatever waits."""
    rows = [
        knowledge(f"{i:02}", words=words, cluster=f"c{i % 5}")
        if kind == "knowledge"
        else example(f"{i:02}", kind, words, people=people)
        for i, (kind, words, people) in enumerate(drawn)
    ]
    curation = Curation(
        token_budget=budget,
        knowledge_share=knowledge_share,
        preference_share=preference_share,
        unpaired_share=unpaired_share,
        max_share_per_person=0.2,
    )
    try:
        selection = select(rows, curation, words_in, WINDOW)
    except RatchetError:
        return
    assert cost(selection) <= budget
    assert cost(selection, origin="knowledge") >= knowledge_share * cost(selection) - 1e-6
    assert cost(selection, kind="preference") <= preference_share * budget
    assert cost(selection, kind="unpaired") <= unpaired_share * budget
    assert cost(selection, people=("ann",)) <= 0.2 * budget
    again = select(rows[::-1], curation, words_in, WINDOW)
    assert (sorted(chosen(again)), again.excluded) == (sorted(chosen(selection)), selection.excluded)


def test_the_objectives_own_knowledge_comes_first():
    """What the domain's owner wrote is taken before what was imported, where the budget is short."""
    imported = [knowledge(f"i{n}") for n in range(9)]
    own = knowledge("own", sources=(f"{OWN}k-1",))
    two_rows = 2 * (SYSTEM_AND_QUESTION + 20 + TEMPLATE_TOKENS)
    selection = select([*imported, own], Curation(token_budget=two_rows), words_in, WINDOW)
    assert "own" in chosen(selection)
    assert len(chosen(selection)) == 2
