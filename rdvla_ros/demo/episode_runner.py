"""Runs the episodes: hold, reset, resume, watch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rdvla_ros.bringup.processes import BringupError, instruction_of
from rdvla_ros.control.motion.trajectory import LONGEST_STOP_S
from rdvla_ros.demo.client import WHO, DemoClient
from rdvla_ros.demo.episode import DecisionRecord, Episode
from rdvla_ros.demo.report import StatusLine, status_forms
from rdvla_ros.demo.video import EpisodeVideo, Overlay, draw
from rdvla_ros.msg import Convergence, GateStatus
from rdvla_ros.nodes.common import conversions, names

START_S = 180.0  # from the start of the processes to the gate's first answer, on a slow machine with a cold disk
RESUME_S = 60.0
SILENCE_S = 15.0  # of the simulated robot
SETTLE_S = LONGEST_STOP_S + 0.2  # simulated time from the reset to the resume
AFTERMATH_S = 1.0  # simulated time filmed after the success
RETRY_S = 0.5


def held_by_person(gate: GateStatus | None) -> bool:
    """The arms rest, or are taken over, because a person asked for it and not a node or this demo."""
    asked = gate is not None and gate.mode in (GateStatus.HOLD, GateStatus.TAKEOVER)
    return asked and gate.who not in (names.GATE, names.POLICY, names.MONITOR, WHO)


class EpisodeRunner:
    """episodes: how many, for the status line. video_hz: rate of the films."""

    def __init__(self, link: DemoClient, status: StatusLine, folder: Path, episodes: int, timeout_s: float, video_hz: float):
        self._link, self._status, self._folder = link, status, folder
        self._episodes, self._timeout_s, self._video_hz = episodes, timeout_s, video_hz
        self._episode: Episode | None = None
        self._video: EpisodeVideo | None = None
        self._unfilmed = False
        self._hold_seen = 0
        self._begun_s = 0.0  # simulated time from the reset to the resume
        link.on_decision, link.on_picture = self._decision, self._picture

    def wait_for_policy(self) -> None:
        """Until the policy has loaded its weights. BringupError when its process has ended, since it could not."""
        started_s = time.monotonic()

        def waiting() -> None:
            self._status.show(f"waiting {time.monotonic() - started_s:.0f} s | the nodes start, the policy loads its weights")

        while not self._link.policy_is_active(waiting, START_S):
            self._link.spin(RETRY_S)
            waiting()

    def run(self, episode: Episode) -> None:
        """Run one episode to its end; `episode` is filled while it runs, so that it is there when something stops it."""
        link = self._link
        waiting = self._waiting_line(episode)
        self._wait_for_person(episode)
        hold_id = link.hold(f"episode {episode.number} begins", waiting, START_S)
        number = link.reset(episode.task, episode.seed)
        link.instruct(instruction_of(episode.task, episode.seed))
        link.wait(lambda: self._settled(number), SILENCE_S, f"{names.SIM_TASK_STAGE} of the new episode.", waiting)
        self._resume(hold_id, RESUME_S, waiting)
        self._begun_s = link.stage.elapsed_s
        self._episode = episode
        try:
            self._watch(episode)
        finally:
            self._episode = None
            if self._video:
                self._video.close()
            self._video, self._unfilmed = None, False

    def _settled(self, number: int) -> bool:
        """The simulator has begun the episode, and long enough ago for the gate to look anew where the arms are."""
        stage = self._link.stage
        return stage is not None and stage.episode == number and stage.elapsed_s >= SETTLE_S

    def _waiting_line(self, episode: Episode) -> Callable[[], None]:
        started_s = time.monotonic()

        def show() -> None:
            causes = "; ".join(self._link.gate.causes) if self._link.gate else "the nodes start"
            waited_s = time.monotonic() - started_s
            self._status.show(f"episode {episode.number}/{self._episodes} | waiting {waited_s:.0f} s | {causes or 'ready'}")

        return show

    def _resume(self, hold_id: int, seconds: float, waiting: Callable[[], None]) -> None:
        """Lift the hold as soon as nothing stands in the way."""
        end = time.monotonic() + seconds
        while not (answer := self._link.resume(hold_id)).accepted:
            if time.monotonic() > end:
                causes = "; ".join(answer.causes) or "none named"
                raise BringupError(f"Expected the gate to resume within {seconds:.0f} s. {answer.message} Causes: {causes}.")
            hold_id = max(hold_id, self._link.gate.hold_id if self._link.gate else 0)
            self._link.spin(RETRY_S)
            waiting()
        self._hold_seen = hold_id

    def _watch(self, episode: Episode) -> None:
        stage_seen, seen_s = None, time.monotonic()
        while not self._over(episode):
            self._link.spin()
            if self._link.stage is not stage_seen:
                stage_seen, seen_s = self._link.stage, time.monotonic()
                elapsed_s = stage_seen.elapsed_s - self._begun_s
                episode.note_stage(stage_seen.best_stage, stage_seen.stage_name, stage_seen.reached, elapsed_s)
            if time.monotonic() - seen_s > SILENCE_S:
                raise BringupError(f"{names.SIM_TASK_STAGE}: expected a message every second, got none for {SILENCE_S:.0f} s.")
            self._lift_new_hold(episode)
            self._status.show(*status_forms(episode, self._episodes, self._link.uncertainty_score, self._link.gate_mode))
        episode.finished = True

    def _wait_for_person(self, episode: Episode) -> None:
        """Who holds the arms between two episodes, or has taken them over, ends that himself."""
        while held_by_person(self._link.gate):
            self._status.show(f"episode {episode.number}/{self._episodes} | waiting for {self._link.gate.who}'s resume")
            self._link.spin()

    def _over(self, episode: Episode) -> bool:
        if held_by_person(self._link.gate):
            return False
        if episode.success_s is not None:
            return episode.elapsed_s >= min(episode.success_s + AFTERMATH_S, self._timeout_s)
        return episode.elapsed_s >= self._timeout_s

    def _lift_new_hold(self, episode: Episode) -> None:
        """The demo is the operator of its own simulated robot: it notes a hold, and resumes when nothing stands in the way.

        What a person holds (in the dashboard, say) that person resumes."""
        gate = self._link.gate
        if gate is None or gate.mode != GateStatus.HOLD or gate.hold_id <= self._hold_seen:
            return
        if not episode.holds or episode.holds[-1] != gate.reason:
            episode.holds.append(gate.reason)
            self._status.say(f"episode {episode.number}: the gate holds: {gate.reason} ({gate.who})")
        if held_by_person(gate):
            return
        if not gate.causes and self._link.resume(gate.hold_id).accepted:
            self._hold_seen = gate.hold_id

    def _decision(self, message: Convergence) -> None:
        if self._episode is None:
            return
        change = message.change[message.iterations - 1] if len(message.change) >= message.iterations > 0 else math.nan
        self._episode.decisions.append(
            DecisionRecord(
                iterations=message.iterations,
                limit=message.limit,
                change=change,
                horizon=message.horizon,
                chunk_length=message.chunk_length,
                latency_s=conversions.seconds(message.header.stamp) - conversions.seconds(message.observation_stamp),
                computation_s=message.timings_s[-1] if message.timings_s else math.nan,
                published=message.published,
                converged=message.converged,
            )
        )
        if self._link.uncertainty is not None:
            self._episode.uncertainties.append(self._link.uncertainty_score)
            self._episode.alarms += bool(self._link.uncertainty.alarm)

    def _picture(self, picture: np.ndarray, stamp_s: float) -> None:
        episode = self._episode
        if episode is None or self._unfilmed:
            return
        try:
            self._film(episode, picture, stamp_s)
        except OSError as error:  # no room on the disk, say: the episode goes on
            self._unfilmed, self._video, episode.video = True, None, None
            why = str(error).strip().splitlines()[0][:200]
            self._status.say(f"[ERROR] The film of episode {episode.number} is given up, the episode goes on: {why}")

    def _film(self, episode: Episode, picture: np.ndarray, stamp_s: float) -> None:
        if self._video is None:
            height, width, _ = picture.shape
            path = self._folder / f"episode_{episode.number}_seed_{episode.seed}.mp4"
            self._video = EpisodeVideo(path, width, height, self._video_hz)
            episode.video = path.name
        self._video.add(draw(picture, self._overlay(episode)), stamp_s)

    def _overlay(self, episode: Episode) -> Overlay:
        last = episode.decisions[-1] if episode.decisions else None
        gate, uncertainty = self._link.gate, self._link.uncertainty
        return Overlay(
            iterations=[d.iterations for d in episode.decisions],
            limit=last.limit if last else 0,
            change=last.change if last else math.nan,
            horizon=last.horizon if last else 0,
            chunk_length=last.chunk_length if last else 0,
            stage=episode.best_stage,
            stage_name=episode.stage_name,
            uncertainty=self._link.uncertainty_score,
            alarm=bool(uncertainty and uncertainty.alarm),
            gate_mode=self._link.gate_mode,
            gate_reason=gate.reason if gate else "",
            elapsed_s=episode.elapsed_s,
        )
