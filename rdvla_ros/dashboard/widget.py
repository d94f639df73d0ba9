"""The whole window, the same alone and inside rqt. It draws what the model knows and never waits for anything."""

from __future__ import annotations

import time

from rdvla_ros.dashboard import plots, style
from rdvla_ros.dashboard.arm_tile import ArmTile
from rdvla_ros.dashboard.binding import QShortcut, Qt, QtCore, QtGui, QtWidgets
from rdvla_ros.dashboard.cameras import Cameras, OpenPicture
from rdvla_ros.dashboard.controls import Controls
from rdvla_ros.dashboard.freshness import NEVER, Source
from rdvla_ros.dashboard.header import Header
from rdvla_ros.dashboard.model import STALE_S, Snapshot
from rdvla_ros.dashboard.pace import Pace
from rdvla_ros.dashboard.picture_feed import PictureFeed
from rdvla_ros.dashboard.station import Station

WORDS_MS = 100  # the mode, the causes, the acts
HEADER, CONTROLS = 0.165, 0.23  # of the window's height
BEAT_MS = 100  # the operator's sign, where it is asked for


class DashboardWidget(QtWidgets.QWidget):
    """in_rqt: the space bar holds while this plugin has the keyboard, not while another one of the same window has."""

    def __init__(self, station: Station, *, operator: str = "", in_rqt: bool = False):
        super().__init__()
        self.setObjectName("rdvla_dashboard")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground, True)
        self.setWindowTitle(f"RD-VLA: {station.robot.name}")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._station, self._model, self._pace = station, station.model, Pace()
        robot, arms = station.robot, [arm.name for arm in station.robot.arms]
        self.header = Header(arms, robot.name, station.spectator)
        self.cameras = Cameras(robot.camera_names)
        self.cameras.opened.connect(self.open_picture)
        self.tiles = [
            plots.IterationsTile(), plots.ChangeTile(), plots.UncertaintyTile(), plots.HorizonTile(), plots.TimingTile(),
            *(ArmTile(arm.name, arm.joints) for arm in robot.arms),
        ]  # fmt: skip
        self.opened = OpenPicture()
        self.opened.closed.connect(self.close_picture)
        self._feed: PictureFeed | None = None
        self.controls = Controls(station.acts, arms, operator, self.snapshot) if station.acts else None
        self._lay_out()
        if self.controls:
            self._hold_on_space(in_rqt)
        self._size = (0, 0)
        self._timers = [self._every(WORDS_MS, self._draw_words), self._every(int(self._pace.period_s * 1000), self._draw_plots)]
        if station.beats:
            self._every(BEAT_MS, station.beat)
        self._draw_words()
        self.setFocus()

    def _lay_out(self) -> None:
        plots_page = QtWidgets.QWidget()
        grid = QtWidgets.QGridLayout(plots_page)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(8)
        upper, lower = self.tiles[:3], self.tiles[3:]
        for column, tile in enumerate(upper):
            grid.addWidget(tile, 0, column * len(lower), 1, len(lower))
        for column, tile in enumerate(lower):
            grid.addWidget(tile, 1, column * len(upper), 1, len(upper))
        grid.setRowStretch(0, 1)
        grid.setRowStretch(1, 1)
        self._stack = QtWidgets.QStackedWidget()
        self._stack.addWidget(plots_page)
        self._stack.addWidget(self.opened)
        middle = QtWidgets.QHBoxLayout()
        middle.setSpacing(8)
        middle.addWidget(self.cameras, 1)
        middle.addWidget(self._stack, 5)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(10, 8, 10, 10)
        layout.setSpacing(8)
        layout.addWidget(self.header)
        layout.addLayout(middle, 1)
        if self.controls:
            layout.addWidget(self.controls)

    def _every(self, milliseconds: int, run) -> QtCore.QTimer:
        timer = QtCore.QTimer(self)
        timer.timeout.connect(run)
        timer.start(milliseconds)
        return timer

    def _hold_on_space(self, in_rqt: bool) -> None:
        """A line that is typed in takes the space for itself; Ctrl + space holds there too."""
        scope = Qt.ShortcutContext.WidgetWithChildrenShortcut if in_rqt else Qt.ShortcutContext.WindowShortcut
        for keys in ("Space", "Ctrl+Space"):
            shortcut = QShortcut(QtGui.QKeySequence(keys), self)
            shortcut.setContext(scope)
            shortcut.setAutoRepeat(False)
            shortcut.activated.connect(self.controls.on_hold)

    def snapshot(self) -> Snapshot:
        return self._model.snapshot(time.monotonic())

    def mousePressEvent(self, event) -> None:
        """A click beside everything gives the keyboard back to the window, and the space bar to Hold."""
        self.setFocus()
        super().mousePressEvent(event)

    def resizeEvent(self, event) -> None:
        super().resizeEvent(event)
        size = (self.width(), self.height())
        if size != self._size:
            self._size, px = size, style.sizes(*size)
            self.setStyleSheet(style.sheet(*size))
            self.header.resize_text(round(HEADER * self.height()), px["text"])
            if self.controls:
                self.controls.setFixedHeight(round(CONTROLS * self.height()))
            for tile in self.tiles:
                tile.resize_text(px["axis"])
            for picture in self.cameras.pictures.values():
                picture.resize_text(px["small"])

    # -- drawing

    def _draw_words(self) -> None:
        snapshot = self.snapshot()
        self.header.show_snapshot(snapshot)
        if self.controls:
            self.controls.show_snapshot(snapshot)
        if self._feed is not None:
            self._draw_open_picture()

    def _draw_plots(self) -> None:
        self._timers[-1].setInterval(int(1000 * self._pace.look(time.monotonic(), time.process_time())))
        if not self.isVisible():
            return
        snapshot = self.snapshot()
        self.cameras.show_snapshot(snapshot)
        if self._feed is None:
            for tile in self.tiles:
                tile.show_snapshot(snapshot)

    # -- the open picture

    def open_picture(self, name: str) -> None:
        self.close_picture()
        camera = next(camera for camera in self._station.robot.cameras if camera.name == name)
        self._feed = PictureFeed(self._station.node.context, camera, self._station.node.get_namespace())
        self.opened.open(name, style.sizes(*self._size)["small"])
        self._stack.setCurrentWidget(self.opened)

    def close_picture(self) -> None:
        if self._feed is not None:
            self._feed.close()
            self._feed = None
            self.opened.clear()
        self._stack.setCurrentIndex(0)

    def _draw_open_picture(self) -> None:
        number, picture, problem = self._feed.newest()
        image, seen = None, NEVER
        if picture is not None:
            height, width, _ = picture.shape
            image = QtGui.QImage(picture.tobytes(), width, height, 3 * width, QtGui.QImage.Format.Format_RGB888).copy()
        if number:
            source = Source("picture", stale_s=STALE_S["camera"][0], dead_s=STALE_S["camera"][1])
            source.hear(0.0)
            seen = source.seen(self._feed.age_s(time.monotonic()))
        self.opened.picture.put(number, image, seen, problem)

    def close_feed(self) -> None:
        """At the end: nothing of the window's goes on."""
        for timer in self.findChildren(QtCore.QTimer):
            timer.stop()
        if self._feed is not None:
            self._feed.close()
