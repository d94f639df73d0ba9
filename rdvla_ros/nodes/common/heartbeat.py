"""Heartbeats between the nodes: each one shows the others that it lives, and sees at once when they do not.

    self._heart = HeartbeatLink(self, {names.GATE_HEARTBEAT: 0.07}, causes=self._causes, on_watch=self._watch_gate)
    self._heart.start()
    with self._heart.busy("loading the checkpoint"):       # where a callback may take long: the beats go on and say so
        ...
    self._heart.peers[names.GATE_HEARTBEAT].lost(time.monotonic())     # one sentence, or empty
    self._heart.hold = "the gate went silent"              # carried by every beat until it is set to "" again
    self._heart.close()                                    # at the end, before the node is destroyed

Beats are sent and heard in a thread beside the callbacks, so a slow callback makes no false alarm; where the callbacks do
not run for `stuck_s`, the beats end all the same: a process whose callbacks hang is as good as dead. Nor is a peer blamed for a
time in which this process itself was kept waiting: its beats of that time are heard first; nor for waiting for its own turn, as
long as life.py knows that its process on this host lives.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from rdvla_ros.control.supervision.heartbeat import PeerMonitor
from rdvla_ros.msg import Heartbeat
from rdvla_ros.nodes.common import qos
from rdvla_ros.nodes.common.life import LifeLine, lives
from rdvla_ros.nodes.common.side_node import SideNode
from rdvla_ros.nodes.common.throttle import throttled

PERIOD_S = 0.01  # of the beats: with a time-out of 0.07 s a hiccup of 60 ms is no death, and a death is found after 0.08 s
WATCH_S = 0.01  # how often the peers are looked at
OWN_HICCUP_S = 0.03  # since the look before: this process did not run, and what came meanwhile waits to be heard
MOST_CAUSES, LONGEST_CAUSE = 20, 300  # of one beat that are believed
DUPLICATE_S = 1.0  # a node of the same name has sent a heartbeat this recently


class HeartbeatLink:
    """Beats on ~/heartbeat and listens to its peers: topic -> time-out [s].

    causes: what keeps the node from its work now, for every beat; called in the side's thread, so it only reads.
    on_watch(now_s): called every 10 ms of the steady clock in the side's thread, whatever the callbacks do.
    on_beat(topic): after every beat of a peer, in the side's thread.
    side: share this one (and start it yourself) instead of making one.
    alive_s: topic -> time-out [s] of a peer on this host whose process is neither dead nor stopped, where that is longer.
    yields: where there may be another node of this name: whether this one falls silent when it hears the other; see `duplicate`.
    """

    def __init__(
        self,
        node: Node,
        peers: Mapping[str, float],
        *,
        causes: Callable[[], Sequence[str]] = tuple,
        on_watch: Callable[[float], None] = lambda now_s: None,
        on_beat: Callable[[str], None] = lambda topic: None,
        period_s: float = PERIOD_S,
        stuck_s: float = 0.5,
        alive_s: Mapping[str, float] | None = None,
        side: SideNode | None = None,
        yields: Callable[[], bool] | None = None,
    ):
        self._yields, self._sent, self._duplicate_s, self._duplicate_count = yields, deque(maxlen=200), -DUPLICATE_S, 0
        self._node, self._causes, self._on_watch, self._on_beat, self._stuck_s = node, causes, on_watch, on_beat, stuck_s
        self._domain_id = node.context.get_domain_id()
        self._life = LifeLine(node.get_fully_qualified_name(), self._domain_id)
        self.peers = {topic: self._peer(topic, timeout_s, (alive_s or {}).get(topic, 0.0)) for topic, timeout_s in peers.items()}
        self.stamps: dict[str, float] = {}  # topic -> (the peer's ROS clock - ours) of its last beat [s]
        self.hold = ""
        self._count, self._busy = 0, ""
        self._busy_lock, self._beat_lock = threading.Lock(), threading.Lock()
        self._ran_s = self._watched_s = time.monotonic()  # when the node's callbacks, and a look at the peers, last ran
        self._postponed = False
        self.side = side or SideNode(node)
        self._owns_side = side is None
        own = f"{node.get_fully_qualified_name()}/heartbeat"
        self._publisher = self.side.node.create_publisher(Heartbeat, own, qos.HEARTBEAT)
        if yields is not None:
            self.side.node.create_subscription(Heartbeat, own, throttled(Heartbeat, self._on_own), qos.HEARTBEAT, raw=True)
        for topic in self.peers:
            heard = throttled(Heartbeat, partial(self._on_heard, topic))
            self.side.node.create_subscription(Heartbeat, topic, heard, qos.HEARTBEAT, raw=True)
        self._timer = node.create_timer(stuck_s / 5, self._callbacks_run, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.side.every(period_s, self._beat)
        self.side.every(WATCH_S, self._watch)

    def _peer(self, topic: str, timeout_s: float, alive_s: float) -> PeerMonitor:
        name = self._node.resolve_topic_name(topic).rsplit("/", 1)[0]
        return PeerMonitor(name, timeout_s, alive_s=alive_s, lives=partial(lives, name, self._domain_id))

    def start(self) -> None:
        if self._owns_side:
            self.side.start()

    def close(self) -> None:
        self._life.close()
        if self._owns_side:
            self.side.close()

    @contextlib.contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """The callbacks may not run for as long as this lasts; every beat gives it as a cause."""
        with self._busy_lock:
            self._busy = what
        try:
            yield
        finally:
            with self._busy_lock:
                self._ran_s, self._busy = time.monotonic(), ""

    def stuck(self, now_s: float) -> bool:
        with self._busy_lock:
            return not self._busy and now_s - self._ran_s > self._stuck_s

    def duplicate(self, now_s: float) -> str:
        """One sentence when another node of this name is alive; empty when none was heard."""
        if now_s - self._duplicate_s >= DUPLICATE_S:
            return ""
        name = self._node.get_fully_qualified_name()
        return f"{name} is running already: the heartbeat of another one was heard. Stop it first."

    def older_duplicate(self, now_s: float) -> str:
        """The sentence of `duplicate` where the other one has beaten longer: of two, the one that came later has to go."""
        return self.duplicate(now_s) if self._duplicate_count > self._count else ""

    def _callbacks_run(self) -> None:
        self._ran_s = time.monotonic()

    def ask_for_hold(self, reason: str) -> None:
        """`hold`, and a beat at once that carries it: the next one may be a period away."""
        self.hold = reason
        self._beat()

    def _beat(self) -> None:
        now_s = time.monotonic()
        if self.stuck(now_s) or self._yields is not None and self.duplicate(now_s) and self._yields():
            return
        with self._beat_lock:
            self._count += 1
            busy = self._busy
            causes = [f"{self._node.get_name()}: {busy}."] if busy else list(self._causes())
            message = Heartbeat(count=self._count, causes=causes, hold=self.hold)
            message.header.stamp = self._node.get_clock().now().to_msg()
            self._sent.append(_known(message))
            self._publisher.publish(message)

    def _watch(self) -> None:
        """After a hiccup of this process one look is left out: the next is WATCH_S later, after what waited was heard."""
        now_s = time.monotonic()
        late, self._watched_s = now_s - self._watched_s > OWN_HICCUP_S, now_s
        self._postponed = late and not self._postponed
        if not self._postponed:
            self._on_watch(now_s)

    def _on_own(self, message: Heartbeat) -> None:
        with self._beat_lock:
            own = _known(message) in self._sent
        if not own:
            self._duplicate_s, self._duplicate_count = time.monotonic(), message.count

    def _on_heard(self, topic: str, message: Heartbeat) -> None:
        causes = tuple(cause[:LONGEST_CAUSE] for cause in message.causes[:MOST_CAUSES])
        if self.peers[topic].beat(time.monotonic(), message.count, causes, message.hold[:LONGEST_CAUSE]):
            own_s = self._node.get_clock().now().nanoseconds * 1e-9
            self.stamps[topic] = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9 - own_s
            self._on_beat(topic)


def _known(message: Heartbeat) -> tuple[int, int, int]:
    """By what a sender knows its own beat again."""
    return message.count, message.header.stamp.sec, message.header.stamp.nanosec
