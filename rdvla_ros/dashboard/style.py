"""Colours and sizes. Sizes are for a screen 1080 pixels high, seen from two metres, and grow and shrink with the window.

From two metres a capital letter of 6 mm is read without effort (ISO 9241-303: at least 10 minutes of arc; 22 pixels of a 24 inch
screen): the sentences. The mode and HOLD are twice that. What only a person at the desk needs, axes and the log, is smaller.
Each colour stands beside a word and a sign.
"""

from __future__ import annotations

from rdvla_ros.control.supervision.modes import Mode
from rdvla_ros.dashboard.freshness import State

BACKGROUND, PANEL, TEXT, FAINT = "#12161b", "#1b2129", "#f2f5f8", "#9fb0c0"
BLUE, ORANGE, RED, GREEN, GREY = "#5bb0ff", "#ffb000", "#d7263d", "#1f9d55", "#5a6672"
MODE_COLOURS = {Mode.AUTO: GREEN, Mode.HOLD: RED, Mode.PAUSE: "#b26a00", Mode.TAKEOVER: "#7048c6"}
DARK = {Mode.AUTO: "#10291b", Mode.HOLD: "#5c0f1a", Mode.PAUSE: "#4a2c00", Mode.TAKEOVER: "#2d1d52"}  # behind the sentence
STATE_COLOURS = {State.LIVE: "#7fe0a7", State.STALE: ORANGE, State.DEAD: "#ff8a96", State.UNKNOWN: FAINT}
STAGES = ("#5bb0ff", "#ffb000", "#3ddc97", "#ff7eb6", "#c5a3ff", "#f2f5f8")  # of a decision, in their order
SIZES = {"huge": 52, "big": 32, "text": 26, "small": 19, "axis": 15}
DESIGN = (1920, 1080)  # width and height of the window that the sizes are for


def sizes(width: int, height: int) -> dict[str, int]:
    """Pixel sizes for a window."""
    scale = min(2.5, max(0.4, min(width / DESIGN[0], height / DESIGN[1])))
    return {name: max(9, round(size * scale)) for name, size in SIZES.items()}


def sheet(width: int, height: int) -> str:
    """The style sheet of the whole widget."""
    px = sizes(width, height)
    modes = "".join(
        f"""
    #header[mode="{mode.name}"] {{ border: 3px solid {colour}; background: {DARK[mode]}; }}
    #rdvla_dashboard QLabel#badge[mode="{mode.name}"] {{ background: {colour}; border: 4px solid #ffffff; }}"""
        for mode, colour in MODE_COLOURS.items()
    )
    return f"""
    #rdvla_dashboard {{ background: {BACKGROUND}; }}
    #rdvla_dashboard QLabel {{ color: {TEXT}; font-size: {px["text"]}px; background: transparent; }}
    #rdvla_dashboard QLabel[level="huge"] {{ font-size: {px["huge"]}px; font-weight: bold; }}
    #rdvla_dashboard QLabel[level="big"] {{ font-size: {px["big"]}px; }}
    #rdvla_dashboard QLabel[level="small"] {{ font-size: {px["small"]}px; }}
    #rdvla_dashboard QLabel[level="axis"] {{ font-size: {px["axis"]}px; }}
    #rdvla_dashboard QLabel[tone="faint"] {{ color: {FAINT}; }}
    #rdvla_dashboard QLabel[tone="warn"] {{ color: {ORANGE}; }}
    #rdvla_dashboard QFrame[panel="true"] {{ background: {PANEL}; border-radius: 6px; }}
    #header {{ background: #22272d; border: 3px dashed #9fb0c0; border-radius: 8px; }}
    #rdvla_dashboard QLabel#badge {{ background: {GREY}; border: 4px dashed #ffffff; border-radius: 8px; padding: 0 18px; }}
    {modes}
    #rdvla_dashboard QPushButton {{ font-size: {px["text"]}px; color: {TEXT}; background: #2f3a46; border: 2px solid #6b7b8c;
        border-radius: 6px; padding: {px["axis"] // 3}px {px["axis"]}px; }}
    #rdvla_dashboard QPushButton:disabled {{ color: #7d8a97; background: #20272f; border: 2px dashed #3c4752; }}
    #rdvla_dashboard QPushButton:pressed {{ background: #4b5b6c; }}
    #rdvla_dashboard QPushButton#hold {{ background: {RED}; border: 4px solid #ffffff; }}
    #rdvla_dashboard QPushButton#hold:pressed {{ background: #8f1022; }}
    #rdvla_dashboard QPushButton[asks="true"] {{ background: #b26a00; border: 3px solid #ffffff; font-weight: bold; }}
    #rdvla_dashboard QPushButton:checked {{ background: {MODE_COLOURS[Mode.TAKEOVER]}; border: 3px solid #ffffff; }}
    #rdvla_dashboard QLineEdit, #rdvla_dashboard QComboBox {{ font-size: {px["text"]}px; color: {TEXT}; background: #0c1014;
        border: 2px solid #6b7b8c; border-radius: 4px; padding: 2px 6px; }}
    #rdvla_dashboard QComboBox QAbstractItemView {{ color: {TEXT}; background: #0c1014; }}
    """
