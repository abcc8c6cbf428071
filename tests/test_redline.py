"""Two answers compared word by word, for eyes that do not tell colours apart."""

from app.web.redline import redline


def test_what_only_one_says_is_marked_in_it():
    """Each text stays whole; what the other has not is deleted in the first and inserted in the second."""
    before, after = redline(
        "Rest and drink plenty of hot milk at night.", "Rest and drink plenty of water at night."
    )
    assert before == "Rest and drink plenty of <del>hot milk</del> at night."
    assert after == "Rest and drink plenty of <ins>water</ins> at night."


def test_equal_words_count_whatever_stands_around_them():
    """Case and punctuation are no change."""
    text = "See a doctor, when it hurts"
    assert redline(text, "see a doctor when it hurts!") == (text, "see a doctor when it hurts!")


def test_a_lone_word_between_changes_is_no_hold():
    """It is marked with them: a text that changes its look at each word cannot be read."""
    before, after = redline(
        "Call a doctor when fever or pain lasts for days.", "Call a doctor when rash or itch lasts for days."
    )
    assert before == "Call a doctor when <del>fever or pain</del> lasts for days."
    assert after == "Call a doctor when <ins>rash or itch</ins> lasts for days."


def test_answers_with_little_in_common_are_left_alone():
    """Where all would be marked, nothing is."""
    assert redline("Cats are the only host of it.", "Wear long sleeves in tall grass.") is None
    assert redline("No.", "Yes, a doctor should look at it.") is None


def test_paragraphs_stay_and_a_mark_spans_no_empty_line():
    """White space is as it was; each line has marks of its own."""
    before, _ = redline("Drink enough water.\n\nSleep.\n\nRest.", "Drink enough water.")
    assert before == "Drink enough water.\n\n<del>Sleep.</del>\n\n<del>Rest.</del>"


def test_what_was_written_is_escaped():
    """No word of an answer becomes a tag, in a mark or outside."""
    before, after = redline("Take <b>two</b> of these pills & rest", "Take <i>one</i> of these pills & rest")
    assert before == "Take <del>&lt;b&gt;two&lt;/b&gt;</del> of these pills &amp; rest"
    assert after == "Take <ins>&lt;i&gt;one&lt;/i&gt;</ins> of these pills &amp; rest"


def test_nothing_compares_with_nothing():
    """An answer may be empty."""
    assert redline("", "") == ("", "")
    assert redline("", "Something.") == ("", "<ins>Something.</ins>")
