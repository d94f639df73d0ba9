"""LIBERO as a server on its standard input and output. Run as a file by the Python of .venv-libero: it imports nothing of this
package, and `client.py` is its other side.

A message is a line of JSON, followed by the bytes of the arrays that its "arrays" names (shape each, uint8). Whatever the
simulator prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

CAMERAS = {"agentview": "agentview_image", "wrist": "robot0_eye_in_hand_image"}
WAIT_ACTION = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]  # still, gripper open


class Libero:
    """One suite; one task is open at a time."""

    def __init__(self):
        self.benchmark = self.env = self.states = None

    def suite(self, name):
        from libero.libero import benchmark

        known = benchmark.get_benchmark_dict()
        if name not in known:
            raise ValueError(f"no suite '{name}'; there are {', '.join(sorted(known))}")
        self.benchmark = known[name]()
        tasks = [self.benchmark.get_task(i) for i in range(self.benchmark.n_tasks)]
        return {"tasks": [{"name": task.name, "instruction": task.language} for task in tasks]}, {}

    def open(self, task, size):
        from libero.libero.envs import OffScreenRenderEnv

        self.close()
        file = self.benchmark.get_task_bddl_file_path(task)
        self.env = OffScreenRenderEnv(bddl_file_name=file, camera_heights=size, camera_widths=size)
        self.env.seed(0)  # as in the published evaluation: it moves objects although the states are fixed
        self.states = self.benchmark.get_task_init_states(task)
        return {"states": len(self.states), "instruction": self.benchmark.get_task(task).language}, {}

    def reset(self, state, wait):
        """wait: steps in which the objects come to rest."""
        self.env.reset()
        observation = self.env.set_init_state(self.states[state])
        for _ in range(wait):
            observation = self.env.step(WAIT_ACTION)[0]
        return self._seen(observation, False)

    def step(self, actions):
        """One action after the other, until the task is done."""
        for action in actions:
            observation, _, done, _ = self.env.step(action)
            if done:
                break
        return self._seen(observation, done)

    def close(self):
        if self.env is not None:
            self.env.close()
            self.env = None
        return {}, {}

    def _seen(self, observation, done):
        """Pictures are upside down in MuJoCo and mirrored as LIBERO's data has them: turned by half a turn."""
        numbers = {key: observation[f"robot0_{key}"].tolist() for key in ("eef_pos", "eef_quat", "gripper_qpos")}
        objects = {name: observation[f"{name}_pos"].tolist() for name in self.env.obj_of_interest if f"{name}_pos" in observation}
        arrays = {name: observation[key][::-1, ::-1] for name, key in CAMERAS.items()}
        return {**numbers, "objects": objects, "done": bool(done)}, arrays


def serve(simulator, reads, writes):
    """Answers until the input ends."""
    for line in reads:
        order = json.loads(line)
        try:
            answer, arrays = getattr(simulator, order.pop("do"))(**order)
        except Exception as error:
            traceback.print_exc()
            answer, arrays = {"error": f"{type(error).__name__}: {error}"}, {}
        answer["arrays"] = {name: list(array.shape) for name, array in arrays.items()}
        writes.write(json.dumps(answer).encode() + b"\n")
        for array in arrays.values():
            writes.write(array.tobytes())
        writes.flush()


def main():
    writes = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # robosuite prints
    serve(Libero(), sys.stdin.buffer, writes)


if __name__ == "__main__":
    main()
