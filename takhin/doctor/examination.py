"""All checks in their order. One that fails is a finding itself: the others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import apsw

from takhin.doctor import disk, folder, machine
from takhin.doctor.certificate import certificate
from takhin.doctor.findings import Finding, Level
from takhin.doctor.fit import settings_fit
from takhin.errors import CopyError
from takhin.settings import Settings

Check = Callable[[], Iterable[Finding]]


def examine(settings: Settings) -> list[Finding]:
    """Look at what a broker with these settings has and needs."""
    found = _findings("folder", lambda: folder.usable(settings))
    data_dir, running, pid, files = settings.data_dir, False, None, folder.Files()
    if all(finding.level < Level.BAD for finding in found) and data_dir.is_dir():
        running, pid = folder.holder(data_dir)
        files = folder.Files.of(data_dir)
        found += _all(
            ("broker", lambda: folder.broker(data_dir, running=running, pid=pid)),
            ("files", lambda: folder.headers(data_dir)),
            ("permissions", lambda: folder.permissions(settings, files)),
            ("leftovers", lambda: folder.leftovers(settings, files, running=running)),
            ("space", lambda: disk.space(settings)),
            ("file system", lambda: disk.file_system(settings)),
            ("sync", lambda: disk.sync_time(settings)),
        )
    return found + _all(
        ("settings", lambda: settings_fit(settings)),
        ("clock", lambda: machine.clock(files.newest)),
        ("address", lambda: machine.addresses(settings, running=running)),
        ("certificate", lambda: certificate(settings)),
        ("limits", lambda: machine.limits(settings, pid)),
        ("memory", lambda: machine.memory(settings)),
        ("temporary folder", lambda: machine.temporary_folder(settings)),
        ("libraries", machine.libraries),
        ("native library", lambda: machine.native_library(settings)),
    )


def _all(*checks: tuple[str, Check]) -> list[Finding]:
    return [finding for about, check in checks for finding in _findings(about, check)]


def _findings(about: str, check: Check) -> list[Finding]:
    try:
        return list(check())
    except (OSError, CopyError, apsw.Error) as error:
        do = "run this as the broker's user, or as root, where the data is; else it is the disk's"
        return [Finding(Level.WARN, about, f"this could not be looked at: {error}", do)]
