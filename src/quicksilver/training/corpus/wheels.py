"""The wheels of the lock on disk: fetched by pip with their hashes checked, never installed."""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from quicksilver.errors import CorpusError
from quicksilver.training.corpus.lock import LockedPackage
from quicksilver.training.corpus.progress import BuildProgress

_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "any")
"""The wheels of the lock are for Linux on x86-64 and Python 3.11, whatever machine reads them."""


def default_wheel_cache() -> Path:
    """``$QUICKSILVER_HOME/wheels``, or ``wheels`` in the user's cache folder."""
    home = os.environ.get("QUICKSILVER_HOME")
    if home:
        return Path(home) / "wheels"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quicksilver" / "wheels"


def fetch_wheels(packages: Sequence[LockedPackage], folder: Path, progress: BuildProgress) -> None:
    """Put every wheel into ``folder`` that is not there yet.

    Raises:
        CorpusError: pip found no wheel with the locked hash, or could not reach its index.
    """
    missing = [package for package in packages if not (folder / package.wheel).is_file()]
    progress.start("Downloading wheels", len(missing))
    folder.mkdir(parents=True, exist_ok=True)
    for package in missing:
        _download(package, folder)
        progress.advance(1, package.package)


def verify_wheel(package: LockedPackage, folder: Path) -> Path:
    """The path of a wheel whose hash is the locked one.

    Raises:
        CorpusError: the wheel is missing or its hash differs.
    """
    path = folder / package.wheel
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise CorpusError(f"{package.package}: {path} is missing; build again to download it") from error
    if found != package.sha256:
        raise CorpusError(
            f"{package.package}: {path} has sha256 {found}, the lock says {package.sha256}; "
            "delete the file to download it again"
        )
    return path


def _download(package: LockedPackage, folder: Path) -> None:
    # A wheel reaches the cache only when pip has finished it, so that a killed download leaves nothing half done there.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        requirement = Path(scratch) / "requirement.txt"
        requirement.write_text(f"{package.package}=={package.version} --hash=sha256:{package.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--python-version", "3.11"]
        command += [option for platform in _PLATFORMS for option in ("--platform", platform)]
        command += ["--extra-index-url", package.index] if package.index else []
        command += ["--dest", scratch, "--requirement", str(requirement)]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)
        wheel = Path(scratch) / package.wheel
        if outcome.returncode != 0 or not wheel.is_file():
            errors = [line for line in outcome.stderr.splitlines() if line.startswith("ERROR")]
            reason = errors[-1] if errors else f"pip exited with status {outcome.returncode}"
            raise CorpusError(
                f"{package.package}: pip could not download {package.wheel} ({reason}); "
                f"check the network, or put a wheel with sha256 {package.sha256} into {folder}"
            )
        wheel.replace(folder / package.wheel)
