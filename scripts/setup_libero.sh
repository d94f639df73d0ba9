#!/usr/bin/env bash
# .venv-libero/: the simulator of 'rdvla evaluate --suite'. Its Python must be 3.11: mujoco 2.3.7 has no later wheels, the
# pinned packages no earlier ones.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON_LIBERO:-}
[ -n "$python" ] || { python3.11 -c '' 2>/dev/null && python=python3.11; } || true
[ -n "$python" ] || { echo "LIBERO needs Python 3.11, found none. PYTHON_LIBERO=<path> names one." >&2; exit 1; }
mark=$(cat requirements-libero*.txt scripts/setup_libero.sh | sha256sum | cut -d' ' -f1)
[ "$(cat .venv-libero/.rdvla-mark 2>/dev/null)" != "$mark" ] || exit 0
"$python" -m venv --clear .venv-libero
pip=".venv-libero/bin/python -m pip install --disable-pip-version-check -q"
$pip -r requirements-libero-base.txt
$pip --no-deps -r requirements-libero.txt
echo "$mark" > .venv-libero/.rdvla-mark
echo "LIBERO is installed in .venv-libero."
