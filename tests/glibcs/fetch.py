"""Fetches the C libraries of Debian's suites and unpacks them, without touching the system.

Strategy: apt with a state of its own downloads libc6 for one suite, dpkg unpacks it beside the
others in a cache. The archive's address is read from the system's own apt sources; none is named
here. What is in the cache is used as it is, so that only the first call needs the network.

Rules: every command has a time limit; one suite's failure never stops another's; a suite that
cannot be had is a :class:`NotFetched` with the reason, which the caller has to print.

``python -m glibcs.fetch`` fetches all of them and prints what it has. ``--refresh`` asks the
archive again.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

SUITES = ("bullseye", "bookworm", "trixie", "forky", "experimental")
"""Debian's suites, oldest first: 2.31, 2.36, 2.41 for ever; the last two move (2.43, 2.44 in 2026).
"""

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
LOADERS = {
    "amd64": "ld-linux-x86-64.so.2",
    "i386": "ld-linux.so.2",
    "arm64": "ld-linux-aarch64.so.1",
}
NATIVE = ("amd64", "i386")
"""Machines whose programs this one runs by itself."""
SECONDS = 120


@dataclasses.dataclass(frozen=True, slots=True)
class Tree:
    """An unpacked libc6. ``libraries`` is the directory that holds libc.so.6 and its loader;
    ``machine``: Debian's name for it."""

    suite: str
    package_version: str
    root: Path
    libraries: Path
    machine: str = "amd64"

    @property
    def loader(self) -> Path:
        return self.libraries / LOADERS[self.machine]

    @property
    def version(self) -> str:
        """``2.36`` of ``2.36-9+deb12u14``."""
        return self.package_version.partition("-")[0]


@dataclasses.dataclass(frozen=True, slots=True)
class NotFetched:
    """A suite whose C library could not be had, and why."""

    suite: str
    reason: str
    machine: str = "amd64"


class FetchError(Exception):
    """Why one suite cannot be had, in one sentence."""


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "allocscope" / "glibcs"


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """The standard output of a command; its last line on standard error is the reason for a
    failure."""
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, check=True, timeout=SECONDS
        )
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit status {error.returncode}"]
        raise FetchError(f"{command[0]}: {lines[-1]}") from error
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{command[0]} did not end within {SECONDS} s") from error
    except FileNotFoundError as error:
        raise FetchError(f"{command[0]} is not installed") from error
    return done.stdout


def archive() -> str:
    """The address of the archive that this system itself is installed from."""
    targets = ["indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"]
    for line in run("apt-get", *targets).splitlines():
        suite, _, address = line.partition(" ")
        if not {"-", "/"} & set(suite):  # neither NAME-security nor NAME-updates
            return address
    raise FetchError("the system's apt sources name no archive")


def private_state(directory: Path, suite: str, machine: str) -> list[str]:
    """Options that make apt work in ``directory`` alone, on one suite and one architecture."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (directory / name).mkdir(parents=True)
    (directory / "status").touch()
    sources = directory / "sources.list"
    signed = f" signed-by={KEYRING}" if KEYRING.exists() else ""
    sources.write_text(f"deb [arch={machine}{signed}] {archive()} {suite} main\n")
    settings = {
        "Dir::State": directory / "state",
        "Dir::State::status": directory / "status",
        "Dir::Cache": directory / "cache",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferences": "-",
        "Dir::Etc::preferencesparts": "-",
        "APT::Architecture": machine,
        "APT::Architectures": machine,
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
        "Acquire::Languages": "none",
        "Acquire::Check-Valid-Until": "false",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "20",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def mend_links(root: Path) -> None:
    """Makes absolute symbolic links relative: they would lead back to this machine's own libc."""
    for path in root.rglob("*"):
        if path.is_symlink() and (target := path.readlink()).is_absolute():
            inside = root / target.relative_to("/")
            path.unlink()
            path.symlink_to(os.path.relpath(inside, path.parent))


def unpacked(suite: str, directory: Path, machine: str) -> Tree:
    """The tree in ``directory``, looked at afresh."""
    root = directory / "root"
    name = LOADERS[machine]
    loaders = [path for path in sorted(root.rglob(name)) if (path.parent / "libc.so.6").exists()]
    if not loaders:
        raise FetchError(f"{root} holds no libc.so.6 beside {name}")
    version = (directory / "version").read_text().strip()
    return Tree(suite, version, root, loaders[0].parent, machine)


def fetch(suite: str, directory: Path, machine: str) -> None:
    """Fills ``directory`` (which must not exist) with the suite's libc6; all of it or nothing."""
    scratch = directory.with_name(f".{directory.name}.{os.getpid()}")
    try:
        options = private_state(scratch / "apt", suite, machine)
        run("apt-get", *options, "-qq", "update")
        run("apt-get", *options, "-qq", "download", "libc6", cwd=scratch)
        package = next(scratch.glob("libc6_*.deb"))
        (scratch / "version").write_text(run("dpkg-deb", "--field", package, "Version"))
        run("dpkg-deb", "--extract", package, scratch / "root")
        mend_links(scratch / "root")
        unpacked(suite, scratch, machine)
        package.unlink()
        shutil.rmtree(scratch / "apt")
        scratch.rename(directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def tree(suite: str, refresh: bool = False, machine: str = "amd64") -> Tree | NotFetched:
    """The suite's C library, from the cache or from the archive."""
    directory = cache() / (suite if machine == "amd64" else f"{suite}-{machine}")
    try:
        if refresh:
            shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            directory.parent.mkdir(parents=True, exist_ok=True)
            fetch(suite, directory, machine)
        return unpacked(suite, directory, machine)
    except FetchError as error:
        return NotFetched(suite, str(error), machine)


def trees(
    refresh: bool = False, machines: Iterable[str] = ("amd64",)
) -> Iterator[Tree | NotFetched]:
    for machine in machines:
        for suite in SUITES:
            yield tree(suite, refresh, machine)


def main() -> int:
    """Exit status 1 when a suite could not be had."""
    failed = False
    for found in trees("--refresh" in sys.argv[1:], LOADERS):
        match found:
            case Tree():
                version = found.package_version
                print(f"{found.suite:14} {found.machine:6} {version:20} {found.libraries}")
            case NotFetched():
                failed = True
                print(f"{found.suite:14} {found.machine:6} not tested: {found.reason}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
