"""A trained policy: an observation in, a chunk of joint targets out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rdvla_ros.model.checkpoint import Checkpoint, Contract, load_checkpoint
from rdvla_ros.model.context import HeadContext
from rdvla_ros.model.halting import Deadline, make_halting
from rdvla_ros.model.initial_state import Previous, make_start
from rdvla_ros.model.memory import require_device
from rdvla_ros.model.prompt_tokenizer import PromptTokenizer, padded
from rdvla_ros.model.robot_fit import require_robot
from rdvla_ros.model.sketch_ratio import Experience
from rdvla_ros.model.static_call import chosen_run
from rdvla_ros.types import (
    ActionChunk,
    CheckpointError,
    Decision,
    Observation,
    ObservationError,
    Refinement,
    StopReason,
    nearest_names,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PROMPT_MULTIPLE = 32  # tokens
LATENCY_MARGIN_S = 0.005  # kept back from a deadline for what follows the head


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise CheckpointError(f"dtype: '{name}'. {nearest_names(name, DTYPES)}")
    return DTYPES[name]


def _source(view: Any) -> str:
    """The camera that a backbone's view is of; most backbones have one view of each."""
    return getattr(view, "source", view.name)


class Policy:
    """One policy for one robot. `decide` may be called from one thread at a time; nothing here knows ROS."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "cpu",
        halting: Any = None,
        dtype: str = "float32",
        seed: int | None = 0,
        start: Any = None,
        run: str | None = None,
        prompt_multiple: int | None = None,
    ):
        """halting: a rule of `model.halting`, or its settings (None: the manifest's). start: a start of `model.initial_state`, or
        its settings (None: the manifest's). seed: of the scratchpads drawn per decision (None: a new one per process).
        run: of the backbone, a name of static_call.RUNS (None: a graph on a GPU, where it can be). prompt_multiple: tokens to
        whose multiple prompts are padded, so that no instruction changes a shape (None: 32 where shapes are recorded, else 0)."""
        self.checkpoint = checkpoint
        self.contract: Contract = checkpoint.contract
        self.device, self.dtype = torch.device(device), _dtype(dtype)
        require_device(self.device, self.dtype)
        self.model = checkpoint.model.eval().requires_grad_(False).to(self.device, self.dtype)
        self.model.head.pack()  # from here on for decisions only
        chosen = checkpoint.halting if halting is None else halting
        std = checkpoint.space.action_std
        self.halting = make_halting(chosen, action_std=std) if isinstance(chosen, Mapping) else chosen
        begin = checkpoint.start if start is None else start
        self.start = make_start(begin) if isinstance(begin, Mapping) else begin
        self._last_state: torch.Tensor | None = None  # (1, K, D) of the decision before
        self._last_instruction = ""
        self.horizon_config = dict(checkpoint.horizon)
        self._generator = torch.Generator(self.device)
        self._generator.manual_seed(seed) if seed is not None else self._generator.seed()
        self._text: dict[str, torch.Tensor] = {}
        self._layers = self.model.head.config.context_layers
        backbone, layers = self.model.backbone, self._layers
        way = chosen_run(run, self.device, backbone.static)
        self._states = lambda images, text: backbone.fuse(backbone.see(images), text, layers)
        if way != "eager":
            self._states = backbone.recorded(layers, way)
        self._multiple = (PROMPT_MULTIPLE if way != "eager" else 0) if prompt_multiple is None else int(prompt_multiple)
        self._grippers = [self.contract.joint_names.index(name) for name in self.contract.gripper_joints]

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu", halting: Any = None, **options: Any) -> Policy:
        """From a checkpoint folder; CheckpointError says what is wrong with it."""
        dtype = _dtype(options.get("dtype", "float32"))
        require_device(torch.device(device), dtype)  # before anything large is read
        return cls(load_checkpoint(folder, dtype), device=device, halting=halting, **options)

    @property
    def name(self) -> str:
        """What was trained and how far, for logs."""
        notes = self.checkpoint.training
        size = f"{self.model.num_parameters / 1e6:.1f} M parameters"
        return f"{self.checkpoint.backbone_name}, {size}, step {notes.get('step', '?')}"

    def require_robot(
        self,
        joint_names: Sequence[str],
        camera_names: Sequence[str],
        representation: str,
        gripper_joints: Sequence[str] | None = None,
        sensors: Mapping[str, int] | None = None,
    ) -> None:
        """CheckpointError unless this policy was trained for that robot. More cameras and sensors than needed are fine. sensors:
        name -> how many numbers it brings."""
        require_robot(self.checkpoint, joint_names, camera_names, representation, gripper_joints, sensors or {})

    @property
    def sensor_names(self) -> tuple[str, ...]:
        """The sensors that it reads."""
        space = self.checkpoint.space.sensors
        return () if space is None else tuple(space.widths)

    def reset(self) -> None:
        """Forget the decisions made: the next one starts as the first of an episode, and looks at as many chunks."""
        self._last_state = None
        if isinstance(self.halting.ratio, Experience):
            self.halting.ratio.forget()

    def reseed(self, seed: int) -> None:
        """Make the coming decisions those of a new policy with this seed."""
        self.reset()
        self._generator.manual_seed(int(seed))

    def warm_up(self, rounds: int = 2) -> float:
        """Decide on black pictures, so that the first real decision is as fast as the others; seconds of the last one."""
        images: dict[str, np.ndarray] = {}
        for view in self.model.backbone.config.cameras:
            had = images.get(_source(view), np.zeros((1, 1, 3), np.uint8))
            images[_source(view)] = np.zeros((max(view.height, had.shape[0]), max(view.width, had.shape[1]), 3), np.uint8)
        middle = 0.5 * (self.checkpoint.space.proprio.low + self.checkpoint.space.proprio.high)
        instruction = " ".join(self.checkpoint.tokenizer.vocabulary[:1]) or "move"
        state = self._generator.get_state()
        space = self.checkpoint.space.sensors
        still = {} if space is None else {name: np.zeros(width) for name, width in space.widths.items()}
        decisions = [self.decide(Observation(images, middle, instruction, sensors=still)) for _ in range(rounds)]
        self._generator.set_state(state)
        self.reset()
        self._text.clear()
        return decisions[-1].timings["total"]

    @torch.inference_mode()
    def decide(
        self,
        observation: Observation,
        *,
        deadline: float | None = None,
        initial_state: torch.Tensor | None = None,
        executed_steps: int | None = None,
    ) -> Decision:
        """One decision; ObservationError where the observation is not fit for one.

        deadline: [s] from now; when it comes first, the best chunk so far. initial_state: (1, K, D) to start the core from
        instead of what the policy's start makes. executed_steps: of the chunk decided before, what has been executed since; a
        "warm" start shifts its plan by them (None: unknown, which makes it a cold one).
        """
        started = time.perf_counter()
        positions = self._checked(observation)
        if observation.instruction != self._last_instruction:  # its scratchpad answers another question
            self._last_state, self._last_instruction = None, observation.instruction
        images = self._images(observation)
        proprio = self.checkpoint.space.encode_proprio(positions)[None]
        proprio = torch.from_numpy(proprio).to(self.device, self.dtype)
        sensors = self._sensors(observation)
        text = self._text_tokens(observation.instruction)
        prepared = time.perf_counter()
        head = self.model.head
        task, latents = self._states(images, text)
        seen = time.perf_counter()
        rule = self.halting
        if deadline is not None:
            rule = Deadline(max(0.0, deadline - LATENCY_MARGIN_S - (seen - started)), rule)
        refinement = self._refine(head.encode(task, latents, proprio, sensors), rule, initial_state, executed_steps)
        refined = time.perf_counter()
        targets = self.checkpoint.space.decode_targets(refinement.actions[0].double().cpu().numpy(), positions)
        targets = self.checkpoint.space.within_demonstrated(targets, positions)
        targets[:, self._grippers] = targets[:, self._grippers].clip(0.0, 1.0)  # beyond closed and open there is nothing
        decision = self._decision(observation, targets, refinement, float(rule.threshold), int(rule.max_iterations))
        finished = time.perf_counter()
        decision.timings.update(
            preprocess=prepared - started,
            vision=seen - prepared,
            head=refined - seen,
            postprocess=finished - refined,
            total=finished - started,
        )
        return decision

    def _refine(
        self, context: HeadContext, rule: Any, initial_state: torch.Tensor | None, executed_steps: int | None
    ) -> Refinement:
        head, last = self.model.head, self._last_state
        if initial_state is not None:
            refinement = head.refine(context, rule, initial_state)
        else:
            previous = None if last is None or executed_steps is None else Previous(last, int(executed_steps))
            refinement = self.start.refine(head, context, rule, generator=self._generator, previous=previous)
        broken = StopReason(int(refinement.stop_reason[0])).unusable  # nothing to start the next one from
        self._last_state = None if broken else refinement.state
        return refinement

    def _decision(
        self, observation: Observation, targets: np.ndarray, refinement: Refinement, threshold: float, limit: int
    ) -> Decision:
        iterations = int(refinement.iterations[0])
        change = refinement.change[0].double().cpu().numpy()
        step_change = refinement.step_change
        unknown = self.checkpoint.tokenizer.unknown_words(observation.instruction)
        space = self.checkpoint.space.sensors
        notes = (f"words this checkpoint never saw: {', '.join(unknown)}",) if unknown else ()
        return Decision(
            chunk=ActionChunk(targets, self.contract.step_s, observation.stamp_s),
            refinement=refinement,
            timings={},
            iterations=iterations,
            limit=limit,
            threshold=threshold,
            change=np.concatenate([change, np.full(max(0, iterations - len(change)), np.nan)])[:iterations],
            step_change=np.full(len(targets), np.nan) if step_change is None else step_change[0].double().cpu().numpy(),
            stop_reason=StopReason(int(refinement.stop_reason[0])),
            converged=bool(refinement.halted[0]),
            spread=float("nan") if refinement.spread is None else float(refinement.spread[0]),
            notes=notes if space is None else (*notes, *space.beyond(observation.sensors)),
        )

    def _checked(self, observation: Observation) -> np.ndarray:
        """(A,) float64 measured positions."""
        names = self.contract.joint_names
        positions = np.asarray(observation.positions, dtype=np.float64)
        if positions.shape != (len(names),):
            raise ObservationError(
                f"Positions: expected shape ({len(names)},) in the order {', '.join(names)}; got {positions.shape}. "
                f"Check the joint "
                "names of the robot description."
            )
        if not np.isfinite(positions).all():
            bad = names[int(np.flatnonzero(~np.isfinite(positions))[0])]
            raise ObservationError(
                f"Positions: '{bad}' is {positions[names.index(bad)]}; expected a finite number. Check the joint's encoder."
            )
        return positions

    def _images(self, observation: Observation) -> dict[str, torch.Tensor]:
        """view -> (1, C, h, w) as the backbone wants it."""
        images = {}
        for camera in self.model.backbone.config.cameras:
            name = _source(camera)
            image = observation.images.get(name)
            if image is None:
                raise ObservationError(f"No picture of camera '{name}'. {nearest_names(name, observation.images)}")
            if (
                not isinstance(image, np.ndarray)
                or image.dtype != np.uint8
                or image.ndim != 3
                or image.shape[2] != 3
                or min(image.shape) < 1
            ):
                described = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
                raise ObservationError(
                    f"Camera '{name}': expected (height, width, 3) uint8 RGB, got {described}. Convert it to rgb8."
                )
            if min(image.shape[0] / camera.height, image.shape[1] / camera.width) < 0.5:
                raise ObservationError(
                    f"Camera '{name}': expected at least {camera.width} x {camera.height} pixels, got {image.shape[1]} x "
                    f"{image.shape[0]}. Raise the camera's resolution."
                )
            images[camera.name] = self.model.backbone.prepare(image, camera).to(self.device)
        return images

    def _sensors(self, observation: Observation) -> torch.Tensor | None:
        """(1, W) normalised."""
        space = self.checkpoint.space.sensors
        if space is None:
            return None
        return torch.from_numpy(space.encode_named(observation.sensors))[None].to(self.device, self.dtype)

    def _text_tokens(self, instruction: str) -> torch.Tensor:
        """(1, T, D), computed once per instruction."""
        if instruction not in self._text:
            if len(self._text) >= 64:  # an operator may type many; the tokens of one cost a millisecond
                self._text.clear()
            ids = self.checkpoint.tokenizer.encode(instruction)
            if self.checkpoint.tokenizer.kind == PromptTokenizer.kind:
                ids = padded(ids, self._multiple)
            ids = torch.tensor([ids], device=self.device)
            self._text[instruction] = self.model.backbone.text(ids)
        return self._text[instruction]
