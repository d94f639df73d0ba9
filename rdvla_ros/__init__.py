"""RD-VLA on bimanual robots: a recurrent-depth policy, its control path and its ROS 2 nodes."""

from pkgutil import extend_path

# The colcon build installs the generated rdvla_ros.msg and rdvla_ros.srv elsewhere; when Python starts in the source tree
# this package would shadow them, so the search path takes in every rdvla_ros folder there is.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
