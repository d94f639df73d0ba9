"""The stand-ins for absent ROS packages: chosen in one place, with the interface of what they stand in for."""

import importlib
import sys

import pytest
from sensor_msgs.msg import Image

from rdvla_ros import compat
from rdvla_ros.compat import message_filters_standin
from rdvla_ros.nodes.common import conversions

NAMES = ("message_filters", "control_msgs", "control_msgs.msg")


@pytest.fixture()
def fresh_compat(tmp_path, monkeypatch):
    """The room as a new process finds it, with packages of the test's own in front of all others."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    chosen = {name: vars(compat).pop(name) for name in compat._CHOICES if name in vars(compat)}

    def load(**packages):
        for name, source in packages.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(source)
        importlib.invalidate_caches()
        return compat

    yield load
    for name in NAMES:
        sys.modules.pop(name, None)
    for name in compat._CHOICES:
        vars(compat).pop(name, None)
    sys.modules.update(modules)
    vars(compat).update(chosen)


@pytest.mark.parametrize(
    "source", ["raise ImportError('no rospy')", "import rospy_that_is_not_there", "x = 1", "raise RuntimeError('numpy 1')"]
)
def test_a_package_that_cannot_be_used_is_replaced(fresh_compat, source):
    assert fresh_compat(message_filters=source).message_filters is message_filters_standin


def test_a_package_that_works_is_taken(fresh_compat):
    fresh = fresh_compat(message_filters="class ApproximateTimeSynchronizer: pass", control_msgs="")
    assert fresh.message_filters.__name__ == "message_filters"
    assert fresh.control_msgs is None, "a package without messages is no help"


def image(seconds):
    message = Image()
    message.header.stamp = conversions.stamp(seconds)
    return message


def test_time_synchronizer_passes_equal_stamps_only():
    sources, sets = [message_filters_standin.SimpleFilter() for _ in range(2)], []
    message_filters_standin.TimeSynchronizer(sources, 3).registerCallback(lambda a, b, extra: sets.append((a, b, extra)), 7)
    first, second = image(1.0), image(1.0)
    for source, message in [(0, image(0.5)), (0, first), (1, image(0.9)), (1, second), (1, image(0.5))]:
        sources[source].signalMessage(message)
    assert sets[0] == (first, second, 7) and len(sets) == 2


def test_a_full_queue_drops_its_oldest():
    sources, sets = [message_filters_standin.SimpleFilter() for _ in range(2)], []
    message_filters_standin.TimeSynchronizer(sources, 2).registerCallback(lambda *messages: sets.append(messages))
    for seconds in (1.0, 2.0, 3.0):
        sources[0].signalMessage(image(seconds))
    sources[1].signalMessage(image(1.0))
    sources[1].signalMessage(image(2.0))
    assert len(sets) == 1 and conversions.seconds(sets[0][0].header.stamp) == 2.0


def test_the_stand_in_for_time_synchronizer_lives_on_after_a_callback_that_raises():
    source, calls = message_filters_standin.SimpleFilter(), []

    def raises(message):
        calls.append(message)
        raise RuntimeError("no")

    message_filters_standin.TimeSynchronizer([source], 2).registerCallback(raises)
    for seconds in (1.0, 2.0):
        with pytest.raises(RuntimeError):
            source.signalMessage(image(seconds))
    assert len(calls) == 2
