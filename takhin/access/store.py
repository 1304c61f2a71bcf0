"""What keeps tokens and rules: the contract between the broker and DATA/access.db."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from takhin.access.rules import Rule
from takhin.access.tokens import Token


class Kept(NamedTuple):
    """Everything that is kept, as of one moment."""

    tokens: Sequence[Token]
    rules: Sequence[Rule]


class AccessStore(Protocol):
    """Keeps tokens and rules. All of it blocks, and is called on one thread at a time.

    Changes are durable on return, all of one call or nothing. Everything but `open` raises
    AccessUnavailableError where the store cannot be read or written now, StorageFullError.
    """

    def open(self) -> None:
        """Make it if it is missing. Raises StartupError with a sentence for a damaged one."""

    def reopen(self) -> None:
        """Open what has its name now, which must be there."""

    def close(self) -> None:
        """Keep no descriptor."""

    def changed(self) -> bool:
        """True if somebody else has changed it since this was last asked."""

    def settle(self) -> None:
        """Put changes where they stay for good, for which there may be no room: StorageFullError."""

    def load(self) -> Kept:
        """Everything. Raises AccessUnavailableError also for what makes no sense."""

    def add_token(self, token: Token, tokens_max: int) -> None:
        """Keep a token. Raises InvalidArgumentError if there are so many already."""

    def remove_tokens(self, id_or_principal: str) -> Sequence[Token]:
        """Forget the token of this id, else all of this principal; those that were."""

    def change_rules(self, put: Sequence[Rule], drop: Sequence[Rule], rules_max: int) -> int:
        """Put rules, each in place of one about the same, and drop others; returns how many were dropped.

        Raises InvalidArgumentError for more rules than that.
        """

    def note_uses(self, uses: Mapping[str, int]) -> None:
        """Note when tokens were last used (ms since 1970), by their ids."""
