"""LeRobotDataset v3.0 on disk: the format that labs record in, written and read without the lerobot package.

meta/info.json              version, frames per second, features
meta/tasks.parquet          instruction -> task_index
meta/stats.json             of every numeric feature and camera
meta/episodes/chunk-000/file-000.parquet     where each episode's rows and pictures are, and its own statistics
data/chunk-000/file-000.parquet              one row per frame
videos/<camera feature>/chunk-000/file-000.mp4
"""

from __future__ import annotations

from rdvla_ros.types import RdvlaError

CODEBASE_VERSION = "v3.0"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
STATE, ACTION, IMAGES, SENSORS = "observation.state", "action", "observation.images.", "observation.sensors."
# Ours, beside the standard ones. Chunk: what the expert would command for the next steps from this very state, row after row;
# other tools leave both alone (they take only what begins with 'observation' and 'action').
EXPERT_CHUNK, EXPERT_PHASE, TASK_STAGE = "expert.chunk", "expert.phase", "task_stage"
INDEX_FEATURES = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    **{name: {"dtype": "int64", "shape": [1], "names": None} for name in ("frame_index", "episode_index", "index", "task_index")},
}


class DatasetError(RdvlaError):
    """A dataset that cannot be used or written: the message names the file and the field."""
