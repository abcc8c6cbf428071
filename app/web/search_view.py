"""A search for settings as HTML, for the rounds page and for the report of a round that went by what it found."""

from collections.abc import Mapping
from typing import Any

from app.searches import setting_words
from app.web.plots import Dot, dots
from app.web.wording import count, text

ENDED = {"pruned": "given up on its way", "failed": "failed"}


def search_view(found: Mapping[str, Any]) -> str:
    """What a search tried and reached, from its search.json: a plot, each trial's settings, and the gain."""
    present = next(trial for trial in found["trials"] if trial["number"] == found["present"])
    rows, said = [], ""
    for trial in found["trials"]:
        number = trial["number"]
        marks = [word for word in ("present", "best") if found[word] == number]
        rows.append(Dot(str(number), trial["value"], ", ".join(marks), ENDED.get(trial["outcome"], "")))
        words = setting_words(trial if number == found["present"] else _changed(trial, present))
        said += f"<li value='{number}'>{text(words)}</li>"
    caption = f"{found['search']}: mean log-likelihood of the validation answers, nats a token, by trial"
    gain = found["gain"]
    kept = "Later rounds go by the best." if found["kept"] else "That may be chance: nothing was kept."
    kept = "The present settings stayed the best." if found["best"] == found["present"] else kept
    return (
        f"{dots(caption, rows, ('trial', 'reached'))}"
        f"<p>The best gains {gain['difference']:+z.4f} ({gain['low']:+z.4f} to {gain['high']:+z.4f}, "
        f"{count(gain['n'], 'answer')}) over the present settings. {kept}</p>"
        f"<details><summary>What each changed</summary><ol>{said}</ol></details>"
    )


def _changed(trial: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a trial that are not the present ones."""

    def other(said: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in said.items() if before.get(key) != value}

    settings = {part: other(said, present["settings"][part]) for part, said in trial["settings"].items()}
    return {"settings": settings, "curation": other(trial["curation"], present["curation"])}
