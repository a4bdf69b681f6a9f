"""The machine's own package sources, as far as they are Debian's main archive.

Templates come from where the administrator gets packages from: the same mirror, proxy and options, and nothing from
third-party archives that happen to be configured too.
"""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from cube.model.errors import HostError

#: Code names of the releases that templates are tried with.
SUITES = ("bookworm", "trixie")
#: Options of apt that decide how packages are reached; their values may be proxies.
_OPTIONS = re.compile(r"Acquire::(http|https|ftp|Retries|ForceIPv4|ForceIPv6|Check-Valid-Until)\b")
_ARCHIVE_KEYRING = "debian-archive-keyring"


@dataclass(frozen=True, slots=True)
class Repository:
    """One suite of one archive."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""

    def line(self) -> str:
        """As sources.list(5) writes it; the keyring is left to whoever reads it."""
        return f"deb {self.uri} {self.suite} main"

    def public_line(self) -> str:
        """The same without user name and password."""
        parts = urlsplit(self.uri)
        host = parts.netloc.rpartition("@")[2]
        return f"deb {urlunsplit(parts._replace(netloc=host))} {self.suite} main"


def host_suite(os_release: Path = Path("/etc/os-release")) -> str:
    """Code name of this machine when it is a Debian release that templates are made from, else the newest such."""
    values = dict(line.split("=", 1) for line in os_release.read_text().splitlines() if "=" in line)
    name = values.get("VERSION_CODENAME", "").strip('"')
    return name if values.get("ID", "").strip('"') == "debian" and name in SUITES else SUITES[-1]


def architecture() -> str:
    """Debian's name of this machine's architecture; raises ``HostError`` for one without templates."""
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    try:
        return names[platform.machine()]
    except KeyError:
        raise HostError(f"there are no templates for {platform.machine()} machines") from None


def main_repositories(suite: str, etc: Path = Path("/etc/apt")) -> list[Repository]:
    """The configured repositories of ``suite`` with its updates and security fixes; empty when there are none."""
    wanted = {suite, f"{suite}-updates", f"{suite}-security"}
    found = [entry for entry in _configured(etc) if entry.suite in wanted and "main" in entry.components]
    return [entry for entry in found if _ARCHIVE_KEYRING in entry.signed_by] or [
        entry for entry in found if not entry.signed_by
    ]


def options() -> list[str]:
    """Lines for an apt.conf(5) with this machine's settings for reaching packages."""
    try:
        done = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise HostError("apt-config could not be run: templates are made of Debian packages through apt") from error
    return [line for line in done.stdout.splitlines() if _OPTIONS.match(line)]


def _configured(etc: Path) -> Iterator[Repository]:
    for path in [etc / "sources.list", *sorted(etc.glob("sources.list.d/*"))]:
        if path.suffix == ".list" and path.is_file():
            yield from _one_line_style(path.read_text().splitlines())
        elif path.suffix == ".sources" and path.is_file():
            yield from _deb822_style(path.read_text())


def _one_line_style(lines: Iterable[str]) -> Iterator[Repository]:
    """``deb [option=value …] uri suite component…`` (sources.list(5))."""
    pattern = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>[^#]*)")
    for line in lines:
        match = pattern.match(line.strip())
        if match:
            signed = re.search(r"signed-by=(\S+)", match["options"] or "")
            yield Repository(
                match["uri"], match["suite"], tuple(match["components"].split()), signed[1] if signed else ""
            )


def _deb822_style(text: str) -> Iterator[Repository]:
    for stanza in re.split(r"\n\s*\n", text):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Repository(uri, suite, tuple(fields.get("components", "").split()), fields.get("signed-by", ""))


def _fields(stanza: str) -> dict[str, str]:
    """Fields of one stanza, names in lower case, continuation lines joined."""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace():
            fields[name] = f"{fields.get(name, '')} {line.strip()}"
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.lower()
            fields[name] = value.strip()
    return fields
