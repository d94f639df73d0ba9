"""The simulated robot, traced: a message reaches the process of the controllers."""

from rdvla_ros.bench.nodes.traced import REACHED, Trace
from rdvla_ros.nodes.sim_robot import main, node

if __name__ == "__main__":
    Trace().around(node.SimRobotNode, "_on_trajectory", before=REACHED)
    main.main()
