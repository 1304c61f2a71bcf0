"""Settings of who may do what, and of what is noted of it."""

from __future__ import annotations

from dataclasses import dataclass

from takhin.access.principals import parsed_mapping
from takhin.access.rules import check_principal
from takhin.errors import InvalidArgumentError
from takhin.model import INT64_MAX
from takhin.settings.fields import DAY_MS, setting


def _principal(text: str) -> str:
    try:
        return check_principal(text)
    except InvalidArgumentError:
        raise ValueError("a name that a principal may have, neither * nor anonymous") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """Who may do what: see docs/security.md."""

    enabled: bool = setting(
        False, "let callers prove who they are, and let them do only what rules in DATA/access.db allow"
    )
    open: tuple[str, ...] = setting(
        (),
        "what needs no proof: health (grpc.health.v1 and HealthCheck, without its reasons), reflection",
        choices=("health", "reflection"),
    )
    unix_principal: str = setting(
        "local",
        "the principal of callers over a unix socket without a token; with a socket_mode of 0600 it has all "
        "rights, else those that rules allow",
        check=_principal,
    )
    certificate_principals: tuple[str, ...] = setting(
        (),
        "PATTERN=PRINCIPAL for names in client certificates, the first that fits; "
        "without one the first name is the principal",
        check=parsed_mapping,
    )
    look_ms: int = setting(
        250, "how long until it is looked again whether tokens or rules have changed", least=10, most=1_000
    )
    failures_per_minute_max: int = setting(
        1_000, "failed attempts of one address in a minute, beyond which they are told to wait", least=1
    )
    tokens_max: int = setting(10_000, "tokens", least=1, most=100_000)
    rules_max: int = setting(10_000, "rules", least=1, most=100_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivitySettings:
    """The topic __activity, to which the broker writes who changed what, and who was denied."""

    enabled: str = setting(
        "auto", "whether it is written; auto: if access.enabled is true", choices=("auto", "true", "false")
    )
    retention_ms: int = setting(
        30 * DAY_MS, "retention.ms of the topic", least=1, most=INT64_MAX, no_limit=True
    )
    retention_bytes: int = setting(
        256 << 20, "retention.bytes of the topic", least=1, most=INT64_MAX, no_limit=True
    )
    queue_max: int = setting(
        2_000, "entries that wait to be written; those beyond it are counted instead", least=1
    )
    denials_per_minute_max: int = setting(
        100, "entries about denied calls in a minute; those beyond it are counted instead", least=1
    )
