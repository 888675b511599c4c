"""Run a package's test file with one of its modules replaced by ``answer.py``. Needs pytest and the package."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder


def run_module_tests(module: str, tests: str, allowed: Sequence[str]) -> None:
    """Raise AssertionError with the first failure, if there is one.

    Args:
        module: its full name.
        tests: path of the test file in the folder of the package.
        allowed: packages that are found, beside the standard library.
    """
    known, answer = {*sys.stdlib_module_names, *allowed}, os.path.abspath("answer.py")

    class Finder:
        """In place of the usual one."""

        @staticmethod
        def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
            if name == module:
                return importlib.util.spec_from_file_location(name, answer)
            # The last holds how Python was built, and is named after the platform.
            if path is None and name not in known and not name.startswith("_sysconfigdata"):
                return None
            return PathFinder.find_spec(name, path)

    sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    import pytest

    failures: list[str] = []

    class Failures:
        """Hears how tests and their collection end."""

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                last = report.longreprtext.rpartition("\n")[2]
                failures.append(f"{report.nodeid.rpartition('::')[2]}: {last}")

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.failed:
                failures.append(report.longreprtext.rpartition("\n")[2])

    package = importlib.util.find_spec(module.partition(".")[0])
    if package is None or package.origin is None:
        raise AssertionError(f"there is no package for {module}")
    path = os.path.join(os.path.dirname(package.origin), tests)
    options = ["-x", "-q", "-p", "no:cacheprovider", "--rootdir", os.getcwd()]
    status = pytest.main([path, *options], plugins=[Failures()])
    if status != 0:
        raise AssertionError(failures[0] if failures else f"pytest ended with {status!r}")
