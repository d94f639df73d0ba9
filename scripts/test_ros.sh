#!/usr/bin/env bash
# The tests that need what no package index has (ROS 2's launch tools, message_filters, cv_bridge, rqt) or lerobot. It brings nothing: what
# is on the path is tested, the rest is skipped by name. docs/testing.md says how to put things there.
set -uo pipefail
cd "$(dirname "$0")/.."
python=(scripts/run)
if python3 -c 'import launch.actions, pytest, rclpy, rdvla_ros.msg' 2>/dev/null; then
  python=(python3)  # a sourced ROS 2 with this package built in it
elif [ ! -f install/setup.bash ]; then
  echo "Expected a sourced ROS 2 with this package built, or .venv and install; found neither. Run 'make setup', or see docs/testing.md." >&2
  exit 1
fi
"${python[@]}" - <<'END'
import importlib.util, os, sys
print(f"Python: {sys.executable}")
for name in ("launch", "launch_ros", "message_filters", "cv_bridge", "rqt_gui", "controller_manager_msgs"):
    spec = importlib.util.find_spec(name)
    found = spec and spec.origin  # none for a folder of that name
    print(f"  {name:23} {found or 'not on the path: its tests are skipped'}")
print(f"  {'lerobot':23} {os.environ.get('RDVLA_LEROBOT_PYTHON') or 'RDVLA_LEROBOT_PYTHON is not set: its test is skipped'}")
END
exec "${python[@]}" -m pytest test -m ros_packages -rs "$@"
