"""The model of the policy: a compact backbone whose one view goes past the transformer, and the head from symbols."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from rdvla_ros.learning.evaluation.pictures.motions import STEP_S, ExpertMotions
from rdvla_ros.learning.evaluation.pictures.scenes import TOP
from rdvla_ros.learning.evaluation.symbols.reader import SymbolReader
from rdvla_ros.learning.evaluation.trail_policy.eye import NO_COLOUR, instruction_ids
from rdvla_ros.learning.evaluation.trail_policy.lessons import Named, PadTokens
from rdvla_ros.learning.evaluation.trail_policy.paths import END_S, PressPaths
from rdvla_ros.model.backbones.compact import CompactBackbone, CompactConfig
from rdvla_ros.model.checkpoint import Checkpoint, Contract
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.normalization import ActionSpace, Scaler, relative_columns
from rdvla_ros.model.rdvla import RDVLA
from rdvla_ros.model.tokenizer import WordTokenizer
from rdvla_ros.robot import RobotDescription
from rdvla_ros.sim.tasks.follow_trail import COLOURS, INSTRUCTION
from rdvla_ros.sim.trails import PADS

VIEW = replace(TOP, name="top_pads", camera="top", to_head=True)
CHUNK, LAYER = 24, 1  # the whole motion, as one decision makes it
HALTING = {"rule": "action_change", "threshold": 1e-4, "max_iterations": 24}
HORIZON = {"rule": "fixed", "length": CHUNK}  # later decisions are less exact than the first: 40 of 40 against 30 (docs/depth.md)
START = {"start": "carried"}
MARGIN = 0.1  # of the range of the motions, beyond which measured positions are cut off


def new_checkpoint(reader: SymbolReader, robot: RobotDescription, paths: PressPaths, motions: ExpertMotions) -> Checkpoint:
    """Not yet trained, but for what the head learnt on symbols."""
    tokenizer = WordTokenizer.from_instructions([INSTRUCTION.format(colour) for colour in COLOURS], max_words=48)
    if NO_COLOUR in tokenizer.vocabulary:
        raise AssertionError(f"'{NO_COLOUR}' stands for a word that is not known")
    width = reader.config.width
    backbone = CompactBackbone(
        CompactConfig(
            cameras=(VIEW,), vocabulary_size=tokenizer.size, hidden_dim=width, num_heads=4, num_layers=LAYER,
            latent_queries=1, text_tokens=1, head_text_tokens=1,
        )
    )  # fmt: skip
    names = robot.joint_names
    grippers = tuple(robot.gripper_joints)
    relative = relative_columns("relative", names, grippers)
    contract = Contract(tuple(names), grippers, (VIEW.source,), "relative", STEP_S, CHUNK)
    model = RDVLA(backbone, _head_of(reader, len(names)))
    return Checkpoint(model, contract, _space(paths, motions, relative), tokenizer, HALTING, HORIZON, {}, "compact", START)


def _head_of(reader: SymbolReader, joints: int) -> RDVLAHead:
    """Chunks of all joints instead of places to press; the token of the measured positions begins as the one it had."""
    old = reader.head
    layers = {name: (LAYER,) * len(getattr(old.config, name)) for name in ("prelude_layers", "core_layers", "coda_layers")}
    head = RDVLAHead(replace(old.config, chunk_length=CHUNK, action_dim=joints, proprio_dim=joints, **layers))
    new = ("output.", "proprio.fc1.weight")
    kept = {name: tensor for name, tensor in old.state_dict().items() if not name.startswith(new)}
    head.load_state_dict(kept, strict=False)
    with torch.no_grad():
        head.proprio.fc1.weight.mul_(0.1)
    return head


def _space(paths: PressPaths, motions: ExpertMotions, relative: np.ndarray) -> ActionSpace:
    """Scales of the motions to all places; positions with a margin."""
    low, high = motions.middle - motions.width, motions.middle + motions.width
    rest = paths.rest.double().numpy()
    low, high = np.minimum(low, rest), np.maximum(high, rest)
    margin = MARGIN * (high - low) + 0.02
    across = torch.linspace(-1.0, 1.0, 7)
    places = torch.cartesian_prod(across, across)[None]
    rows = paths.rows(places, (places[..., 0] > 0).long())[0]  # (49, ROWS + 1, A)
    samples = []
    for start_s in np.arange(0.0, END_S, STEP_S):
        times = torch.full((len(rows),), float(start_s))
        chunk = paths.chunk(rows[:, None], times, CHUNK)[:, 0] - torch.from_numpy(relative) * PressPaths.at(rows[:, None], times)
        samples.append(chunk)
    actions = torch.cat(samples).double().numpy()
    scaler = Scaler.from_samples(actions)
    std = np.maximum(scaler.normalise(actions).reshape(-1, actions.shape[-1]).std(axis=0), 0.02)
    return ActionSpace(relative, Scaler(low - margin, high + margin), scaler, std)


def symbol_tokens(reader: SymbolReader) -> PadTokens:
    """The reader's embeddings, and one for a colour that no pad has."""
    tokens = PadTokens(reader.config.width)
    kept = {name: tensor for name, tensor in reader.state_dict().items() if name.split(".")[0] in dict(tokens.named_children())}
    colours = kept.pop("colours.weight")
    tokens.load_state_dict({**kept, "instruction": reader.instruction.detach()}, strict=False)
    with torch.no_grad():
        tokens.colours.weight[:PADS] = colours
        tokens.colours.weight[PADS].normal_(generator=torch.Generator().manual_seed(PADS)).mul_(colours.std())
    return tokens


@torch.no_grad()
def named_by(checkpoint: Checkpoint) -> Named:
    """The transformer has only the words to go by, so one pass for each colour is all there is."""
    backbone = checkpoint.model.backbone
    ids = instruction_ids(checkpoint.tokenizer)
    nothing = torch.zeros(len(ids), VIEW.keypoints, backbone.hidden_dim)
    task, latents = backbone.fuse(nothing, backbone.text(ids), (LAYER,))
    return Named(task[LAYER], latents[LAYER][:, : backbone.config.latent_queries])
