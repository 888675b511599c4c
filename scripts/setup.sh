#!/usr/bin/env bash
# Install the package, editable, into .venv:  scripts/setup.sh [EXTRA]
#
# EXTRA is an extra of pyproject.toml (train, hf, dev); without one, only what filling code needs.
# PYTHON       the interpreter; default: the newest suitable python3 on the path.
# TORCH_INDEX  a second package index that offers CPU builds of torch. It is used only on Linux, where no NVIDIA
#              GPU is seen and the index can be reached. The build of PyPI brings gigabytes of CUDA libraries; pip
#              prefers a "+cpu" build wherever it is offered one, here or by your own pip configuration.
set -euo pipefail
cd "$(dirname "$0")/.."

extra=${1:-}
venv=.venv
torch_index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
torch_requirement=$(sed -n 's/^ *"\(torch[<>=][^"]*\)",$/\1/p' pyproject.toml)

fail() {
    echo "setup: $*" >&2
    exit 1
}

is_suitable() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_suitable "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of version 3.11 or later"
        echo "$PYTHON"
        return
    fi
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if is_suitable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11 or later is needed; install it, or name it with PYTHON=/path/to/python"
}

make_venv() {
    local python
    python=$(find_python)
    echo "setup: making $venv with $("$python" --version)"
    if "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m venv "$venv"
    elif "$python" -m pip --version >/dev/null 2>&1; then
        # Debian keeps ensurepip in the package python3-venv; the pip outside can fill the environment as well.
        "$python" -m venv --without-pip "$venv"
        "$python" -m pip --python "$venv/bin/python" install --quiet pip
    elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "setup: this Python has neither ensurepip nor pip; installing Debian's python3-venv"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv
        "$python" -m venv "$venv"
    else
        fail "this Python has neither ensurepip nor pip; on Debian or Ubuntu: apt-get install python3-venv"
    fi
}

has_nvidia_gpu() {
    command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus 2>/dev/null | grep -q GPU
}

is_reachable() {
    "$venv/bin/python" - "$1" <<'PYTHON' 2>/dev/null
import sys
import urllib.request

urllib.request.urlopen(sys.argv[1].rstrip("/") + "/torch/", timeout=5).read(1)
PYTHON
}

pip_install() {
    "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar "${PIP_PROGRESS_BAR:-on}" "$@"
}

[ -n "$torch_requirement" ] || fail "found no torch requirement in pyproject.toml"
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv

if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    index_option=()
    if [ "$(uname -s)" = Linux ] && ! has_nvidia_gpu && is_reachable "$torch_index"; then
        index_option=(--extra-index-url "$torch_index")
    fi
    echo "setup: installing $torch_requirement ${index_option[*]}"
    pip_install "${index_option[@]}" "$torch_requirement"
fi

echo "setup: installing quicksilver-lm${extra:+[$extra]}"
pip_install --editable ".${extra:+[$extra]}"
