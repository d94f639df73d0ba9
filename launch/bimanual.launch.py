"""The robot (simulated with sim:=true), the policy, the gate and the monitor.

    ros2 launch rdvla_ros bimanual.launch.py sim:=true
    ros2 launch rdvla_ros bimanual.launch.py sim:=true namespace:=cell_1 record:=runs/tuesday
    ros2 launch rdvla_ros bimanual.launch.py robot:=my_robot.yaml checkpoint:=my_checkpoint instruction:='...'

The processes come from rdvla_ros.bringup.processes, which `rdvla demo` uses too.
"""

from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription
from rdvla_ros.bringup import processes as bringup


def generate_launch_description():
    declared = [DeclareLaunchArgument(a.name, default_value=a.default, description=a.description) for a in bringup.ARGUMENTS]
    return LaunchDescription([*declared, OpaqueFunction(function=_nodes)])


def _nodes(context):
    bringup.refuse_misspelt(context.launch_configurations)
    given = {a.name: LaunchConfiguration(a.name).perform(context) for a in bringup.ARGUMENTS}
    specs = bringup.processes(given)
    actions = [node_action(spec) for spec in specs]
    return [*actions, *(_end_with(action) for action, spec in zip(actions, specs, strict=True) if spec.needed)]


def node_action(spec):
    return Node(
        package=spec.package,
        executable=spec.executable,
        namespace=spec.namespace or None,  # None: that of a PushRosNamespace around it
        parameters=[dict(spec.parameters), *([spec.params_file] if spec.params_file else [])],
        remappings=list(spec.remappings),
        output="screen",
        emulate_tty=True,
    )


def _end_with(action):
    """One needed process that ended leaves a system that cannot do its work: all of it stops, the gate with a hold."""
    stop = EmitEvent(event=Shutdown(reason=f"{action.node_executable} ended"))
    return RegisterEventHandler(OnProcessExit(target_action=action, on_exit=[stop]))
