"""Which compiled rows one training may cost: a joint token budget with a share for each source."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain

from feedback.compiling.curation import Curation
from feedback.errors import RatchetError
from feedback.records import Example

TEMPLATE_TOKENS = 6  # what a chat template adds to each message, about
VALIDATION_ROWS = 32  # of each kind; enough to choose between two adapters


@dataclass(frozen=True)
class Selection:
    """The rows of a dataset, what each costs in tokens, and how many each limit left out."""

    rows: tuple[Example, ...]
    tokens: dict[str, int]  # by row id
    excluded: Counter
    taught: frozenset[str] = frozenset({"sft", "preference"})  # the kinds that are trained on

    def redacted(self, redact: Callable[[str], str]) -> "Selection":
        """The same rows without personal data in their texts."""
        rows = tuple(row.redacted(redact) for row in self.rows)
        return replace(self, rows=rows)


def select(
    rows: Sequence[Example],
    curation: Curation,
    count_tokens: Callable[[str], int],
    max_tokens: int,
    learnt: Collection[str] = (),
) -> Selection:
    """Choose from `rows` what fits the budget and a model window of `max_tokens`.

    Knowledge makes up at least its share of what is trained on, preference pairs and unpaired rows at most theirs
    of the budget; newest feedback comes first, knowledge goes round the topics. Unpaired rows without a share are
    not trained on: all are kept, and cost nothing.

    A training that goes on from a version names the rows that it has `learnt`, by id. In each kind new ones then
    take turns with those, by the replay's share of the tokens, and no more is spent than all new ones ask for.
    RatchetError when there are no new ones.
    """
    taught = {"sft", "preference"} | ({"unpaired"} if curation.unpaired_share else set())
    count_tokens = lru_cache(4096)(count_tokens)  # prompts repeat
    tokens = {row.id: _cost(row, count_tokens) for row in rows}
    excluded: Counter = Counter()
    fitting = [row for row in rows if _longest(row, count_tokens) <= max_tokens]
    excluded["longer_than_the_window"] = len(rows) - len(fitting)

    training = [row for row in fitting if row.side == "train" and row.kind in taught]
    knowledge = _around_the_topics(row for row in training if row.origin == "knowledge")
    supervised = _newest_first(row for row in training if row.origin == "feedback" and row.kind == "sft")
    pairs = _newest_first(row for row in training if row.kind == "preference")
    in_pairs = {source for row in pairs for source in row.sources}
    thumbs = _newest_first(
        row for row in training if row.kind == "unpaired" and not in_pairs.intersection(row.sources)
    )
    budget = curation.token_budget
    at_most = {
        "preference": int(curation.preference_share * budget),
        "unpaired": int(curation.unpaired_share * budget),
    }
    if learnt:
        budget, at_most = _with_replay(training, learnt, curation, at_most, tokens)
        knowledge, supervised, pairs, thumbs = (
            list(_in_turn(found, learnt, curation.replay_share, tokens))
            for found in (knowledge, supervised, pairs, thumbs)
        )

    room = _feedback_room(curation.knowledge_share, budget, sum(tokens[row.id] for row in knowledge))
    # A share of what can be trained on: on a small home the whole budget would be no limit.
    whole = min(budget, sum(tokens[row.id] for row in training))
    purse = _Purse(
        tokens, whole * curation.max_share_per_person, whole * curation.max_share_per_cluster, excluded
    )
    chosen_pairs = purse.spend(pairs, min(room, at_most["preference"]))
    chosen_thumbs = purse.spend(thumbs, min(room - purse.spent, at_most["unpaired"]))
    chosen_supervised = purse.spend(supervised, room - purse.spent)
    chosen_knowledge = purse.spend(knowledge, budget - purse.spent)
    chosen_knowledge, *chosen_feedback = _keep_share(
        chosen_knowledge,
        (chosen_thumbs, chosen_supervised, chosen_pairs),
        curation.knowledge_share,
        tokens,
        excluded,
    )
    validation = _capped(row for row in fitting if row.side == "validation")
    untaught = [row for row in fitting if row.side == "train" and row.kind not in taught]
    chosen = {row.id for row in (*chain(*chosen_feedback), *chosen_knowledge, *validation, *untaught)}
    kept = tuple(row for row in rows if row.id in chosen)
    if not any(row.side == "train" and row.kind in taught for row in kept):
        raise RatchetError(
            "nothing to train on yet: no row passed the rules and fits the budget, or there is no knowledge to "
            "keep its share (curation.knowledge_share); `ratchet compile` shows what became of each signal"
        )
    return Selection(kept, {row.id: tokens[row.id] for row in kept}, +excluded, frozenset(taught))


def _cost(row: Example, count: Callable[[str], int]) -> int:
    """The tokens that a training step on `row` reads; a pair reads its prompt twice."""
    prompt = sum(count(m["content"]) + TEMPLATE_TOKENS for m in row.prompt)
    answers = [answer for answer in (row.chosen, row.rejected) if answer is not None]
    return sum(prompt + count(answer) + TEMPLATE_TOKENS for answer in answers)


def _longest(row: Example, count: Callable[[str], int]) -> int:
    prompt = sum(count(m["content"]) + TEMPLATE_TOKENS for m in row.prompt)
    return prompt + TEMPLATE_TOKENS + max(count(a) for a in (row.chosen, row.rejected) if a is not None)


def _with_replay(
    training: Iterable[Example],
    learnt: Collection[str],
    curation: Curation,
    at_most: Mapping[str, int],
    tokens: Mapping[str, int],
) -> tuple[int, dict[str, int]]:
    """The budget in which all new rows find room: each kind beside its replay, feedback beside its knowledge.

    Beside it what pairs and unpaired rows may take of it, which is not more than `at_most`.
    """
    new: Counter[str] = Counter()
    for row in training:
        if row.id not in learnt:
            new["knowledge" if row.origin == "knowledge" else row.kind] += tokens[row.id]
    if not new:
        raise RatchetError(
            "nothing new to train on since the champion was made; collect more feedback or import knowledge, or "
            "begin from the base model (training.warm_start = false)"
        )
    both = {kind: new[kind] / (1 - curation.replay_share) for kind in ("knowledge", "sft", *at_most)}
    limits = {kind: min(limit, math.ceil(both[kind])) for kind, limit in at_most.items()}
    knowledge, feedback = both["knowledge"], both["sft"] + sum(limits.values())
    if curation.knowledge_share < 1:
        knowledge = max(knowledge, feedback * curation.knowledge_share / (1 - curation.knowledge_share))
    return min(curation.token_budget, math.ceil(knowledge + feedback)), limits


def _in_turn(
    rows: Sequence[Example], learnt: Collection[str], share: float, tokens: Mapping[str, int]
) -> Iterator[Example]:
    """New and learnt rows in turn, each in its order: of any beginning about `share` of the tokens is learnt.

    Without a share the new ones come first; of learnt ones knowledge alone follows, which has a share of its own.
    """
    new = [row for row in reversed(rows) if row.id not in learnt]
    old = [row for row in reversed(rows) if row.id in learnt and (share or row.origin == "knowledge")]
    spent_new = spent_old = 0
    while new or old:
        if old and (not new or (1 - share) * (spent_old + tokens[old[-1].id]) <= share * spent_new):
            spent_old += tokens[old[-1].id]
            yield old.pop()
        else:
            spent_new += tokens[new[-1].id]
            yield new.pop()


def _feedback_room(share: float, budget: int, knowledge_tokens: int) -> int:
    """The tokens that feedback may take so that knowledge can keep its share."""
    room = (1 - share) * budget
    return math.floor(round(room if share == 0 else min(room, knowledge_tokens * (1 - share) / share), 6))


class _Purse:
    """Spends tokens row by row, no person's and no cluster's share above its limit."""

    def __init__(self, tokens: dict[str, int], of_person: float, of_cluster: float, excluded: Counter):
        self.tokens, self.excluded = tokens, excluded
        self.of_person, self.of_cluster = of_person, of_cluster  # tokens at most, on end users' word alone
        self.people: Counter[str] = Counter()
        self.clusters: Counter[str] = Counter()
        self.spent = 0

    def spend(self, rows: Iterable[Example], room: int) -> list[Example]:
        taken, left = [], room
        for row in rows:
            cost = self.tokens[row.id]
            if row.people and all(self.people[p] + cost > self.of_person for p in row.people):
                self.excluded["person_share"] += 1
            elif row.people and self.clusters[row.cluster] + cost > self.of_cluster:
                self.excluded["cluster_share"] += 1
            elif cost > left:
                self.excluded["token_budget"] += 1
            else:
                taken.append(row)
                left -= cost
                if row.people:
                    self.people.update(dict.fromkeys(row.people, cost))
                    self.clusters[row.cluster] += cost
        self.spent += room - left
        return taken


def _keep_share(knowledge, feedback, share, tokens, excluded):
    """Give back feedback, of the first kind first and the oldest first, until knowledge has its share of what was
    really taken.
    """

    def cost(rows):
        return sum(tokens[row.id] for row in rows)

    while any(feedback) and cost(knowledge) < share * cost([*knowledge, *chain(*feedback)]):
        next(filter(None, feedback)).pop()
        excluded["knowledge_share"] += 1
    return knowledge, *feedback


def _newest_first(rows: Iterable[Example]) -> list[Example]:
    return sorted(rows, key=lambda row: (row.rule == "correction", max(row.sources), row.id), reverse=True)


def _around_the_topics(rows: Iterable[Example]) -> list[Example]:
    """The objective's own rows first; then one of each cluster before a second of any.

    The order depends on the rows alone. Its own rows are what the domain's owner chose to say, and how.
    """
    clusters: dict[str, list[Example]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: _draw(row.id)):
        clusters[row.cluster].append(row)
    ranked = [
        (not row.own, rank, _draw(name), row)
        for name, found in clusters.items()
        for rank, row in enumerate(found)
    ]
    return [row for *_, row in sorted(ranked, key=lambda entry: entry[:3])]


def _capped(rows: Iterable[Example]) -> list[Example]:
    """At most VALIDATION_ROWS of each kind."""
    kinds: dict[str, list[Example]] = defaultdict(list)
    for row in _around_the_topics(rows):
        if len(kinds[row.kind]) < VALIDATION_ROWS:
            kinds[row.kind].append(row)
    return [row for found in kinds.values() for row in found]


def _draw(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
