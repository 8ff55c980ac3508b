"""How long to wait after a failure."""

from __future__ import annotations

import random
from typing import Callable


class Backoff:
    """Waits that double from `first` to `most` seconds; each is a random part of that, at least half.

    The random part keeps devices that lost the same server from coming back to it all at once.
    """

    def __init__(self, first: float = 0.5, most: float = 60.0, chance: Callable[[], float] = random.random) -> None:
        self.first, self.most, self.chance = first, most, chance
        self.failures = 0

    def failed(self) -> float:
        """Counts a failure. Answers how many seconds to wait."""
        longest = min(self.most, self.first * 2**min(self.failures, 30))
        self.failures += 1
        return longest * (0.5 + 0.5 * self.chance())

    def worked(self) -> None:
        """The next failure is a first one again."""
        self.failures = 0
