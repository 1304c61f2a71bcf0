"""Tokens and rules in force: which caller has which rights now, and the verbs that change that.

They are in a store that other processes change, too, so it is looked at several times a second. Where it
cannot be read, nobody is let in by it: an old state may have what was revoked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import TypeVar

import structlog

from takhin.access import tokens
from takhin.access.rules import EVERYBODY, EVERYTHING, NO_GRANTS, Grants, Rights, Rule
from takhin.access.store import AccessStore
from takhin.access.tokens import Token
from takhin.clock import Clock
from takhin.errors import AccessUnavailableError, PermissionDeniedError, StartupError, UnavailableError
from takhin.model import CERTIFICATE, OWN_SOCKET, SHARED_SOCKET, Caller
from takhin.settings import AccessSettings

logger = structlog.get_logger()

T = TypeVar("T")

USES_NOTED_MS = 60_000
"""How exactly it is known when a token was last used: it is noted at most so often."""
PRINCIPALS_MAX = 10_000
"""Principals whose rights are at hand; beyond it, they are found again. Certificates may name any number."""


class Access:
    """Who may do what. Life: `start`, `stop`. store: None where access.enabled is false: all may do all."""

    def __init__(
        self,
        store: AccessStore | None,
        settings: AccessSettings,
        clock: Clock,
        concerns: MutableMapping[str, str],
    ) -> None:
        """concerns: where it says that the store cannot be read, for health."""
        self.enabled = store is not None
        self.trouble: str | None = None
        """Why the store cannot be read, in a sentence; None if it can."""
        self.version = 0
        """Another number after each change of tokens or rules."""
        self.on_change: list[Callable[[], None]] = []
        """Are called after each change of tokens or rules."""
        self.on_change_outside: list[Callable[[Mapping[str, Sequence[str]]], None]] = []
        """Are called with what another process has changed."""
        self.on_look: list[Callable[[], None]] = []
        """Are called several times a second, when the store was looked at: tokens may have expired."""
        self._concerns = concerns
        self._store = store
        self._settings = settings
        self._clock = clock
        self._by_digest: Mapping[bytes, Token] = {}
        self._by_id: Mapping[str, Token] = {}
        self._grants: Mapping[str, Grants] = {}
        self._rules: Sequence[Rule] = ()
        self._rights: dict[str, Rights] = {}
        self._stale = False  # the store may have what is not taken in yet
        self._unsettled = False
        self._uses: dict[str, int] = {}
        self._used: dict[str, int] = {}
        self._noted_at = 0
        self._one = asyncio.Lock()  # for the store: one uses it at a time, and takes in what it finds
        self._stopping = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the store. Raises StartupError for one that is damaged."""
        if self._store is None:
            return
        await asyncio.to_thread(self._store.open)
        try:
            await self._take(self._store)
        except AccessUnavailableError as error:
            await asyncio.to_thread(self._store.close)
            raise StartupError(str(error)) from error
        self._noted_at = self._clock()
        if not self._by_id and not self._rules:  # certificates need no tokens, but rules
            logger.warning(
                "no_tokens",
                reason="access.enabled is true and there is no token: make one with `takhin tokens create "
                "NAME --data-dir …`, or by a call over a unix socket",
            )
        self._looking = asyncio.create_task(self._look())

    async def stop(self, _grace_seconds: float) -> None:
        """Note what is to be noted, and close the store."""
        if self._store is None:
            return
        self._stopping.set()
        if self._looking is not None:
            await self._looking
        async with self._one:
            await self._note_uses(self._store)
            await asyncio.to_thread(self._store.close)

    # What calls ask

    def token(self, text: str) -> Token | None:
        """The token of this text, if it holds now. Raises AccessUnavailableError."""
        self._check_known()
        found = tokens.find(self._by_digest, text)
        now = self._clock()
        if found is None or found.has_expired(now):
            return None
        if now - self._used.get(found.token_id, found.last_used_at) >= USES_NOTED_MS:
            self._used[found.token_id] = self._uses[found.token_id] = now
        return found

    def is_valid(self, caller: Caller) -> bool:
        """True if what the caller has proved itself by still holds."""
        if not self.enabled or caller.proof == OWN_SOCKET:
            return True
        if self.trouble is not None:
            return False
        if caller.proof in (CERTIFICATE, SHARED_SOCKET):
            return True
        token = self._by_id.get(caller.proof)
        return token is not None and not token.has_expired(self._clock())

    def rights_of(self, caller: Caller) -> Rights:
        """What the caller may do now. Raises AccessUnavailableError."""
        if not self.enabled or caller.proof == OWN_SOCKET:
            return EVERYTHING
        self._check_known()
        principal = caller.principal
        rights = self._rights.get(principal)
        if rights is None:
            if len(self._rights) >= PRINCIPALS_MAX:
                self._rights.clear()
            own = self._grants.get(principal, NO_GRANTS)
            rights = self._rights[principal] = Rights(own, self._grants.get(EVERYBODY, NO_GRANTS))
        return rights

    # Verbs

    async def create_token(self, principal: str, *, expires_at: int, note: str) -> tuple[str, Token]:
        """A new token and what is kept of it; durable on return. Raises InvalidArgumentError."""
        text, token = tokens.new_token(principal, expires_at=expires_at, note=note, now=self._clock())
        await self._change(lambda store: store.add_token(token, self._settings.tokens_max))
        return text, token

    async def revoke_tokens(self, id_or_principal: str) -> Sequence[Token]:
        """Forget a token, or all of a principal; those that were. In force and durable on return."""
        return await self._change(lambda store: store.remove_tokens(id_or_principal))

    def list_tokens(self, principal: str) -> Sequence[Token]:
        """The tokens of a principal, or with "" all of them."""
        self._check_usable()
        found = [token for token in self._by_id.values() if principal in ("", token.principal)]
        return [
            token._replace(last_used_at=self._used.get(token.token_id, token.last_used_at)) for token in found
        ]

    async def change_rules(self, put: Sequence[Rule], drop: Sequence[Rule]) -> int:
        """Put rules, and drop others; how many were dropped. In force and durable on return."""
        return await self._change(lambda store: store.change_rules(put, drop, self._settings.rules_max))

    def list_rules(self, principal: str) -> Sequence[Rule]:
        """The rules about a principal, or with "" all of them."""
        self._check_usable()
        return [rule for rule in self._rules if principal in ("", rule.principal)]

    # The store

    async def _change(self, change: Callable[[AccessStore], T]) -> T:
        """Change the store, and take the change in. It goes on if the caller has gone."""
        return await asyncio.shield(asyncio.create_task(self._changed(change)))

    async def _changed(self, change: Callable[[AccessStore], T]) -> T:
        store = self._check_usable()
        async with self._one:
            self._stale = True  # also if it fails: a look finds out what has become of it
            changed = await asyncio.to_thread(change, store)
            await self._take(store)
            await self._settle(store)
        return changed

    async def _look(self) -> None:
        """See to it that changes by other processes, and the end of tokens, are in force soon."""
        while not await self._is_stopping(self._settings.look_ms / 1_000):
            try:
                await self._look_once()
            except UnavailableError as error:
                self._is_in_trouble(str(error))
            except Exception as error:
                logger.exception("access_not_known")
                self._is_in_trouble(f"tokens and rules cannot be read: {type(error).__name__}")
            _tell(self.on_look)

    async def _is_stopping(self, seconds: float) -> bool:
        """False after so long. A look is never cancelled: its thread would go on."""
        try:
            async with asyncio.timeout(seconds):
                return await self._stopping.wait()
        except TimeoutError:
            return False

    async def _look_once(self) -> None:
        store = self._store
        assert store is not None  # noqa: S101  else nothing looks
        async with self._one:
            if self.trouble is not None:
                await asyncio.to_thread(store.reopen)
            if await asyncio.to_thread(store.changed):
                self._stale = True
            if self._stale or self.trouble is not None:
                tokens_before, rules_before = self._by_id, self._rules
                await self._take(store)
                self._tell_of(tokens_before, rules_before)
            await self._settle(store)
            if self._clock() - self._noted_at >= USES_NOTED_MS:
                await self._note_uses(store)

    def _tell_of(self, tokens_before: Mapping[str, Token], rules_before: Sequence[Rule]) -> None:
        """Tell what another process has changed."""
        changes = {
            "tokens_made": [of.principal for id_, of in self._by_id.items() if id_ not in tokens_before],
            "tokens_revoked": [of.principal for id_, of in tokens_before.items() if id_ not in self._by_id],
            "put": list(map(str, set(self._rules) - set(rules_before))),
            "dropped": list(map(str, set(rules_before) - set(self._rules))),
        }
        if any(changes.values()):
            for told in self.on_change_outside:
                told(changes)

    async def _take(self, store: AccessStore) -> None:
        """Take in everything that is in the store. The caller holds the lock."""
        kept = await asyncio.to_thread(store.load)
        by_digest = {token.digest: token for token in kept.tokens}
        grants = await asyncio.to_thread(_granted, kept.rules)
        self._by_digest, self._by_id = by_digest, {token.token_id: token for token in kept.tokens}
        self._rules, self._grants, self._rights = kept.rules, grants, {}
        self._used = {token_id: at for token_id, at in self._used.items() if token_id in self._by_id}
        self._stale = False
        self.version += 1
        if self.trouble is not None:
            self.trouble = None
            del self._concerns["access_unknown"]
            logger.info("access_known_again")
        _tell((*self.on_look, *self.on_change))

    async def _settle(self, store: AccessStore) -> None:
        """Put changes where they stay for good. They are durable and in force without it."""
        try:
            await asyncio.to_thread(store.settle)
        except UnavailableError as error:
            if not self._unsettled:  # it is tried several times a second
                logger.warning("access_not_settled", reason=str(error))
            self._unsettled = True
        else:
            self._unsettled = False

    async def _note_uses(self, store: AccessStore) -> None:
        """Note when tokens were last used; what cannot be noted now waits. The caller holds the lock."""
        uses, self._uses, self._noted_at = self._uses, {}, self._clock()
        if not uses:
            return
        try:
            await asyncio.to_thread(store.note_uses, uses)
        except UnavailableError as error:
            logger.warning("token_uses_not_noted", reason=str(error))
            kept = {token_id: at for token_id, at in uses.items() if token_id in self._by_id}
            self._uses = kept | self._uses

    def _is_in_trouble(self, sentence: str) -> None:
        if self.trouble is None:
            self.version += 1
            logger.error("access_unknown", reason=sentence)
        self.trouble = sentence
        self._concerns["access_unknown"] = f"nobody is let in by a token or a certificate: {sentence}"

    def _check_known(self) -> None:
        if self.trouble is not None:
            raise AccessUnavailableError(f"nobody is let in: {self.trouble}")

    def _check_usable(self) -> AccessStore:
        """The store. Raises PermissionDeniedError where access.enabled is false, AccessUnavailableError."""
        if self._store is None:
            raise PermissionDeniedError(
                "the broker has no tokens and rules, because access.enabled is false; "
                "with --data-dir they can be made before it is true"
            )
        self._check_known()
        return self._store


def _tell(listeners: Sequence[Callable[[], None]]) -> None:
    """Tell each of them. One that fails keeps nobody from hearing, and is told again by the next look."""
    for told in listeners:
        try:
            told()
        except Exception:
            logger.exception("access_not_told")


def _granted(rules: Sequence[Rule]) -> Mapping[str, Grants]:
    """The rules by their principals."""
    granted: dict[str, Grants] = {}
    for rule in rules:
        granted.setdefault(rule.principal, Grants()).add(rule)
    return granted
