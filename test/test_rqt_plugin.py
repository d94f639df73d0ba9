"""The plugin as rqt finds it; and in real rqt, where that is on the path (no package index has it: docs/testing.md)."""

import ast
import importlib.util
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = """
import os, signal, sys
from python_qt_binding import QtCore, QtWidgets
from rqt_gui.main import Main

def look():
    widgets = [w for w in QtWidgets.QApplication.instance().allWidgets() if w.objectName() == "rdvla_dashboard"]
    print("found", [(w.windowTitle(), w.header.badge.text(), w.controls.hold.isVisible()) for w in widgets], flush=True)
    os.kill(os.getpid(), signal.SIGINT)

class Timed(Main):
    def create_application(self, argv):
        application = super().create_application(argv)
        self.timer = QtCore.QTimer(singleShot=True)
        self.timer.timeout.connect(look)
        self.timer.start(4000)
        return application

sys.exit(Timed().main(["rqt", "--standalone", "rdvla_ros"]))
"""


def test_rqt_finds_the_plugin_through_the_package_and_its_class_exists():
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    export = package.find("export/rqt_gui")
    assert export is not None and export.get("plugin") == "${prefix}/plugin.xml"
    needed = {element.text for element in package.findall("exec_depend")}
    assert {"rqt_gui", "rqt_gui_py", "python_qt_binding", "python3-pyqtgraph"} <= needed
    plugin = ElementTree.parse(ROOT / "plugin.xml").getroot().find("class")
    assert plugin.get("base_class_type") == "rqt_gui_py::Plugin"
    module, _, name = plugin.get("type").rpartition(".")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    assert name in [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def test_the_build_installs_the_plugin_and_the_program():
    text = (ROOT / "CMakeLists.txt").read_text()
    assert "install(FILES plugin.xml DESTINATION share/${PROJECT_NAME})" in text and "scripts/dashboard" in text
    assert os.access(ROOT / "scripts/dashboard", os.X_OK)


@pytest.mark.ros_packages
@pytest.mark.skipif(importlib.util.find_spec("rqt_gui") is None, reason="needs rqt, which is on no package index")
def test_the_plugin_opens_in_real_rqt_and_ends_with_it(tmp_path):
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=60)
    assert "[('RD-VLA: aloha_sim', '? UNKNOWN', True)]" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
