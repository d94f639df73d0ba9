"""Installs the rooms that need no ROS (model, learning, control, sim) and the `rdvla` command, for example on a training
cluster, with the shipped descriptions and weights. On a robot the package is built with colcon, which uses CMakeLists.txt."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

here = Path(__file__).parent


def read_requirements(name):
    lines = [line.split("#")[0].strip() for line in (here / name).read_text().splitlines()]
    return [line for line in lines if line]


shipped = {
    f"rdvla_ros.share.{folder.replace('/', '.')}": folder
    for folder in ("config", "checkpoints/compact_aloha", "checkpoints/trail_aloha", "checkpoints/three_tasks")
}

setup(
    name="rdvla_ros",
    version=re.search(r'__version__ = "(.*)"', (here / "rdvla_ros" / "__init__.py").read_text()).group(1),
    description="RD-VLA on bimanual robots with ROS 2",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_namespace_packages(include=["rdvla_ros", "rdvla_ros.*"]), *shipped],
    package_dir=shipped,
    package_data=dict.fromkeys(shipped, ["*.yaml", "*.xml", "*.json", "*.safetensors"]),
    install_requires=read_requirements("requirements.txt"),
    extras_require={name: read_requirements(f"requirements-{name}.txt") for name in ("dashboard", "finetune")},
    entry_points={"console_scripts": ["rdvla = rdvla_ros.cli:main"]},
)
