"""The notice: whose work the corpus is made of, with the licence texts as they stand in the wheels."""

from collections.abc import Iterable, Mapping

from quicksilver.training.corpus.lock import LockedPackage

_HEAD = """This corpus consists of source files of the packages below, each under its own licence.
It was built by `quicksilver corpus build`; `manifest.tsv` beside this file lists every source file with its package.
"""


def render_notice(packages: Iterable[tuple[LockedPackage, Mapping[str, str]]]) -> str:
    """One section per package: name, version, licence, and the licence files of its wheel (name to text)."""
    return _HEAD + "".join(_section(package, licences) for package, licences in packages)


def _section(package: LockedPackage, licences: Mapping[str, str]) -> str:
    rule = "=" * 100
    lines = ["", rule, f"{package.package} {package.version}", f"Licence: {package.licence}"]
    lines += [f"Source: {package.wheel}", rule, ""]
    if not licences:
        lines.append("(the wheel contains no licence file; the licence above is the one its metadata declares)\n")
    for name, text in licences.items():
        lines += [f"--- {name}", "", text.rstrip("\n"), ""]
    return "\n".join(lines)
