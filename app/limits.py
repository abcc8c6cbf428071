"""How often somebody may do something, counted in memory over a window that moves with the clock.

Thirty lines instead of a library: those count by the system's clock only, and start a thread a call.
"""

import ipaddress
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from feedback.errors import Refused

KEYS_KEPT = 10_000  # a kind; beyond that those that ran out are dropped


@dataclass(frozen=True)
class Rate:
    """So many `times` within so many `seconds`."""

    what: str  # in the words of a refusal
    times: int
    seconds: int


RATES = {
    "rating": Rate("too many ratings", 30, 60),  # per person; comments, corrections and choices too
    "question": Rate("too many questions", 20, 60),  # per person
    "newcomer": Rate("too many new visitors from your network", 300, 3600),  # per address: a school has one
    "sign-in as": Rate(
        "too many attempts", 5, 300
    ),  # failures per name, whether there is such an account or not
    "sign-in from": Rate("too many attempts", 20, 300),  # failures per address
    "sign-in": Rate("too many attempts", 60, 60),  # passwords checked for everybody together: each is dear
}


class Limits:
    """What was done lately, of each kind and by each key; from any thread."""

    def __init__(self, rates: Mapping[str, Rate] = RATES, clock: Callable[[], float] = time.monotonic):
        self._rates, self._clock = rates, clock
        self._done: dict[str, dict[str, deque[float]]] = {kind: {} for kind in rates}
        self._lock = threading.Lock()

    def check(self, kind: str, key: str) -> None:
        """Count one more; Refused, and not counted, where that is one too many."""
        with self._lock:
            self._refuse(kind, key)
            self._count(kind, key)

    def refuse(self, kind: str, key: str) -> None:
        """Refused where one more would be too many; counts nothing."""
        with self._lock:
            self._refuse(kind, key)

    def count(self, kind: str, key: str) -> None:
        """Count one more, come what may."""
        with self._lock:
            self._count(kind, key)

    def forget(self, kind: str, key: str) -> None:
        """Begin anew for `key`."""
        with self._lock:
            self._done[kind].pop(key, None)

    def _refuse(self, kind: str, key: str) -> None:
        rate, done = self._rates[kind], self._done[kind].get(key, ())
        if len(done) == rate.times and (wait := done[0] + rate.seconds - self._clock()) > 0:
            raise Refused(f"{rate.what}: wait {math.ceil(wait)} seconds")

    def _count(self, kind: str, key: str) -> None:
        done = self._done[kind]
        if len(done) >= KEYS_KEPT:
            self._done[kind] = done = self._running(kind)
        done.setdefault(key, deque(maxlen=self._rates[kind].times)).append(self._clock())

    def _running(self, kind: str) -> dict[str, deque[float]]:
        since = self._clock() - self._rates[kind].seconds
        return {key: times for key, times in self._done[kind].items() if times[-1] > since}


def network_of(client: tuple[str, int] | None) -> str:
    """Where a connection comes from, as a key: an IPv4 address, or the /64 that one household has in IPv6."""
    host = client[0] if client else ""
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return host  # a socket of this machine
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)
