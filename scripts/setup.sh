#!/usr/bin/env bash
# Sets everything up in .venv/ and install/: Python packages, ROS 2 Jazzy from PyPI, headless rendering, this package's
# messages. What is done is remembered, so that a second run takes a second. Options by environment:
#   PYTHON=python3.12   another interpreter (3.10 or newer)      NO_APT=1   never install Debian packages
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
venv=$root/.venv
stamps=$venv/.rdvla
say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }
die() { printf '\033[1m[setup]\033[0m %s\n' "$*" >&2; exit 1; }
trap 'die "line $LINENO of scripts/setup.sh failed"' ERR
digest() { cat "$@" | sha256sum | cut -d' ' -f1; }
done_before() { [ -f "$stamps/$1" ] && [ "$(cat "$stamps/$1")" = "$2" ]; }
remember() { mkdir -p "$stamps"; printf '%s' "$2" > "$stamps/$1"; }

may_install() { [ -z "${NO_APT:-}" ] && command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
debian() {  # debian "what for" package...
  local purpose=$1; shift
  if may_install; then
    say "installing Debian packages for $purpose: $*"
    as_root env DEBIAN_FRONTEND=noninteractive sh -c "apt-get update -qq && apt-get install -y -qq --no-install-recommends $*" > /dev/null
  else
    say "$purpose needs Debian packages that this user may not install. Run:  sudo apt-get install -y $*"
    return 1
  fi
}

python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3 python3.12 python3.13 python3.11 python3.10; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
      python=$candidate; break
    fi
  done
fi
[ -n "$python" ] || die "expected Python 3.10 to 3.14 on the PATH, found $(python3 --version 2>&1 || echo none). Install one, or name it: PYTHON=/path/to/python3.12 make setup"

command -v c++ >/dev/null || command -v g++ >/dev/null || debian "building the messages" g++ make || die "expected a C++ compiler (c++ or g++), found none."

if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  say "creating .venv with $($python --version)"
  rm -rf "$venv"
  "$python" -m venv "$venv" 2>/dev/null || { debian "virtual environments" python3-venv && "$python" -m venv "$venv"; } \
    || die "expected '$python -m venv' to work; on Debian: sudo apt-get install -y python3-venv"
fi

# The wheels' start-up hook runs Python once more; the header files are those of the interpreter the environment came from.
include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
[ -f "$include/Python.h" ] || debian "building the messages" python3-dev || die "expected Python.h in $include, found none."

wanted=$(digest requirements*.txt constraints.txt)
if ! done_before packages "$wanted"; then
  say "installing Python packages (a few minutes the first time)"
  "$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt \
    -r requirements.txt -r requirements-ros.txt -r requirements-dashboard.txt -r requirements-bags.txt -r requirements-finetune.txt \
    -r requirements-test.txt \
    2> "$venv/pip.log" || { grep -v WARNING "$venv/pip.log" >&2; die "pip failed (above)"; }
  "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps -r requirements-sim.txt 2> "$venv/pip.log" \
    || { grep -v WARNING "$venv/pip.log" >&2; die "pip failed (above)"; }
  remember packages "$wanted"
fi

renders() { MUJOCO_GL=$1 "$venv/bin/python" - >/dev/null 2>&1 <<'EOF'
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
assert renderer.render().shape == (32, 32, 3)
EOF
}
if ! done_before rendering 1; then
  if renders egl || renders osmesa; then
    remember rendering 1
  elif debian "headless rendering" libegl1 libegl-mesa0 libgles2 libgl1 && renders egl; then
    remember rendering 1
  else
    say "MuJoCo cannot render here: the simulated robot will not start. A robot of your own needs none of it."
  fi
fi

# Qt's plugins load these when the window opens, and end the process where one is missing; libxcb* only on a screen.
draws() {
  QT_QPA_PLATFORM=offscreen "$venv/bin/python" -c 'from PySide6.QtWidgets import QApplication; QApplication([])' >/dev/null 2>&1 \
    && { [ -z "${DISPLAY:-}" ] || { PATH=$PATH:/sbin ldconfig -p | grep -q libxcb-cursor.so.0; }; }
}
if ! done_before drawing 1; then
  if draws || { debian "the operator's window" libegl1 libgl1 libxkbcommon0 libdbus-1-3 libfontconfig1 libglib2.0-0 fonts-dejavu-core \
      libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-image0 libxcb-render-util0 && draws; }; then
    remember drawing 1
  else
    say "Qt cannot draw here: the operator's window will not open. Everything else runs without it."
  fi
fi

wanted=$(digest msg/*.msg srv/*.srv CMakeLists.txt package.xml scripts/setup.sh; { find rdvla_ros launch config checkpoints -type f ! -name '*.pyc' 2>/dev/null || true; } | sort | sha256sum)
if ! done_before build "$wanted" || [ ! -f install/setup.bash ]; then
  say "building with colcon"
  export AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
  build() {
    PATH=$venv/bin:$PATH "$venv/bin/colcon" build --symlink-install --event-handlers console_direct- \
      --cmake-args -DPython3_EXECUTABLE="$venv/bin/python" -G Ninja > "$venv/colcon.log" 2>&1
  }
  # A build folder that was made otherwise (without links, by another Python, under another path) cannot be gone on with.
  build || { rm -rf build install log; build; } \
    || { tail -n 40 log/latest_build/rdvla_ros/stdout_stderr.log >&2; die "colcon build failed (above; whole log: log/latest_build)"; }
  remember build "$wanted"
fi

# `rdvla` with this package and ROS 2 around it, as .venv/bin/rdvla
printf '#!/usr/bin/env bash\nexec "%s/scripts/run" -m rdvla_ros.cli "$@"\n' "$root" > "$venv/bin/rdvla"
chmod +x "$venv/bin/rdvla"
