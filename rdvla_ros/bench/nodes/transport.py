"""`rdvla bench transport`: three cameras from one process to another, over shared memory and over UDP.

Two processes of this file: `send` publishes images with the time in their stamp (steady clock, which both share), `receive`
counts them. Best effort on the receiving side, as in the policy node. Loss, latency from the publish call to the callback,
processor time of both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image

from rdvla_ros.bench.machine import machine
from rdvla_ros.bringup.launcher import free_domain
from rdvla_ros.nodes.common import transport
from rdvla_ros.robot import import_path, shipped

WIDTH, HEIGHT, CAMERAS, RATE_HZ = 640, 480, 3, 30.0
DEPTH = 5
END_S = 2.0  # what comes later than this after the last image is lost
SMALL_BUFFER = 212992  # net.core.rmem_max of an untouched Linux
LARGE_SEGMENTS = "config/fastdds_shared_memory.xml"
WAYS = {
    "shared memory": "the middleware's own choice in the range LOCALHOST",
    "large segments": LARGE_SEGMENTS,
    "udp": "config/fastdds_loopback_images.xml",
    "udp, small buffers": f"the same with the {SMALL_BUFFER} bytes that an untouched Linux allows",
}


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    if options.role:
        return _send(options.seconds, options.together) if options.role == "send" else _receive()
    rows = []
    for way in options.ways:
        for number in range(options.n):
            rows.append({"way": way, "run": number, **_measure(way, options)})
            print(_line(rows[-1]), flush=True)
    found = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "seconds": options.seconds,
        "busy": options.busy,
        "together": options.together,
        "rmem_max": transport.receive_limit(),
        "runs": rows,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        print(f"saved in {options.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("rdvla bench transport", description=__doc__)
    parser.add_argument("--ways", nargs="*", choices=tuple(WAYS), default=list(WAYS), help="what is measured")
    parser.add_argument("--n", type=int, default=3, help="runs of each")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a run")
    parser.add_argument("--busy", type=int, default=0, help="processes that compute beside it")
    parser.add_argument("--together", action="store_true", help="all cameras at one moment, as with a common trigger")
    parser.add_argument("--out", type=Path, help="JSON file of the results; none: only print")
    parser.add_argument("--role", choices=("send", "receive"), help=argparse.SUPPRESS)
    return parser


def _measure(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """One run: what the receiver saw, and the processor time of both."""
    words = [sys.executable, "-m", __spec__.name, "--seconds", str(options.seconds)] + ["--together"] * options.together
    with free_domain() as domain, _profile(way) as chosen, _load(options.busy):
        others = {name: value for name, value in {**os.environ, **domain}.items() if name not in transport.PROFILES}
        environment = {**others, "PYTHONPATH": import_path(), **chosen}
        receiver = subprocess.Popen([*words, "--role", "receive"], env=environment, stdout=subprocess.PIPE, text=True)
        sender = subprocess.Popen([*words, "--role", "send"], env=environment, stdout=subprocess.PIPE, text=True)
        sent = json.loads(sender.communicate(timeout=options.seconds + 60.0)[0])
        received = json.loads(receiver.communicate(timeout=60.0)[0])
    latency_ms = 1e3 * np.array(received["latency_s"])
    return {
        "sent": sent["count"],
        "lost": sent["count"] - len(latency_ms),
        "p50_ms": round(float(np.percentile(latency_ms, 50)), 2),
        "p99_ms": round(float(np.percentile(latency_ms, 99)), 2),
        "max_ms": round(float(latency_ms.max()), 2),
        "sender_cores": round(sent["cpu_s"] / options.seconds, 3),
        "receiver_cores": round(received["cpu_s"] / options.seconds, 3),
    }


@contextmanager
def _profile(way: str) -> Iterator[dict[str, str]]:
    """Environment variables of a way."""
    if way == "shared memory":
        yield {transport.RANGE: "LOCALHOST"}
        return
    path = shipped(LARGE_SEGMENTS if way == "large segments" else transport.FOR_IMAGES[transport.LOOPBACK])
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as changed:
        text = path.read_text(encoding="utf-8")
        changed.write(text.replace("4194304", str(SMALL_BUFFER)) if "small" in way else text)
        changed.flush()
        yield {transport.RANGE: "SYSTEM_DEFAULT", **dict.fromkeys(transport.PROFILES, changed.name)}


@contextmanager
def _load(processes: int) -> Iterator[None]:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['way']:20} lost {row['lost']:5} of {row['sent']}   latency p50 {row['p50_ms']:6.2f} p99 {row['p99_ms']:7.2f} "
        f"max {row['max_ms']:7.2f} ms   cores: sender {row['sender_cores']:.3f} receiver {row['receiver_cores']:.3f}"
    )


def _send(seconds: float, together: bool) -> int:
    """Publish once the receiver listens; the cameras at thirds of the period, or all at one moment."""
    rclpy.init()
    node = Node("sender")
    reliable = QoSProfile(depth=DEPTH, reliability=QoSReliabilityPolicy.RELIABLE)
    publishers = [node.create_publisher(Image, f"/camera_{i}/image_raw", reliable) for i in range(CAMERAS)]
    pixels = array("B", os.urandom(WIDTH * HEIGHT * 3))
    message = Image(height=HEIGHT, width=WIDTH, step=3 * WIDTH, encoding="rgb8", data=pixels)
    while not all(p.get_subscription_count() for p in publishers):
        time.sleep(0.05)
    time.sleep(0.5)
    begun_cpu_s, count, begun_s = time.process_time(), 0, time.monotonic()
    while count < seconds * RATE_HZ * CAMERAS:
        frame, camera = divmod(count, CAMERAS)
        due_s = begun_s + (frame + (0.0 if together else camera / CAMERAS)) / RATE_HZ
        time.sleep(max(0.0, due_s - time.monotonic()))
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(time.monotonic_ns(), 10**9)
        publishers[camera].publish(message)
        count += 1
    cpu_s = time.process_time() - begun_cpu_s
    time.sleep(END_S)
    print(json.dumps({"count": count, "cpu_s": cpu_s}), flush=True)
    node.destroy_node()
    rclpy.shutdown()
    return 0


def _receive() -> int:
    """Until the sender is gone."""
    rclpy.init()
    node, latency_s, cpu_s = Node("receiver"), [], [0.0, 0.0]

    def receive(message: Image) -> None:
        stamp = message.header.stamp
        latency_s.append(time.monotonic() - stamp.sec - 1e-9 * stamp.nanosec)
        cpu_s[:] = [cpu_s[0] or time.process_time(), time.process_time()]

    best_effort = QoSProfile(depth=DEPTH, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    subscriptions = [node.create_subscription(Image, f"/camera_{i}/image_raw", receive, best_effort) for i in range(CAMERAS)]
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    last_s = time.monotonic()
    while time.monotonic() - last_s < (END_S if latency_s else 60.0):
        count = len(latency_s)
        executor.spin_once(timeout_sec=0.5)
        if len(latency_s) > count:
            last_s = time.monotonic()
    print(json.dumps({"latency_s": latency_s, "cpu_s": cpu_s[1] - cpu_s[0]}), flush=True)
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    return 0 if subscriptions else 1


if __name__ == "__main__":
    raise SystemExit(main())
