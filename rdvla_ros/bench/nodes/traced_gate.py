"""The gate, traced: a hold's request is taken by the executor, its stop is planned, and published to both arms."""

from rdvla_ros.bench.nodes.traced import PLANNED, PUBLISHED, TAKEN, Trace
from rdvla_ros.control.supervision.motion_check import MotionCheck
from rdvla_ros.nodes.gate import node
from rdvla_ros.nodes.gate.arms import GateArms
from rdvla_ros.nodes.gate.services import GateServices

if __name__ == "__main__":
    trace = Trace()
    trace.around(GateServices, "_on_hold", before=TAKEN)
    trace.around(MotionCheck, "stop", after=PLANNED)
    trace.around(GateArms, "send", after=PUBLISHED)
    node.main()
