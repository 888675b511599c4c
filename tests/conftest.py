"""Settings of every test session: shapes checked at run time, one thread per worker, repeatable properties."""

import os
import shutil

import hypothesis

import tests.shape_checks

# Checks the shapes and dtypes written in public signatures. It must come before the first import of the package.
# torch.compile cannot trace the checks, so tests marked `compiled` run as a second session without them.
IS_SHAPE_CHECKED = os.environ.get("JAXTYPING_DISABLE", "0") != "1"
PACKAGES_WITH_TENSORS = (
    "api",
    "checkpoints",
    "decoding",
    "diffusion",
    "engine",
    "evaluation",
    "models",
    "quantization",
    "tokenization",
    "training",
)
if IS_SHAPE_CHECKED:
    tests.shape_checks.install([f"quicksilver.{name}" for name in PACKAGES_WITH_TENSORS])

import pytest  # noqa: E402
import torch  # noqa: E402

# Two workers with two threads each are slower than two with one, and sums keep their order.
torch.set_num_threads(1)

hypothesis.settings.register_profile("quicksilver", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("quicksilver")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine or session cannot run."""
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    # CI installs one, so that these tests cannot be skipped there without anybody's notice.
    is_browser_needed = os.environ.get("QUICKSILVER_NEEDS_BROWSER") == "1"
    has_browser = is_browser_needed or all(map(shutil.which, ("chromium", "chromedriver")))
    no_browser = pytest.mark.skip(reason="needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    no_compile = pytest.mark.skip(reason="torch.compile cannot trace shape checks; run with JAXTYPING_DISABLE=1")
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if item.get_closest_marker("browser") and not has_browser:
            item.add_marker(no_browser)
        if item.get_closest_marker("compiled") and IS_SHAPE_CHECKED:
            item.add_marker(no_compile)
