"""The cameras: a small picture each; a click opens one at its full size."""

from __future__ import annotations

from rdvla_ros.dashboard import style
from rdvla_ros.dashboard.binding import Qt, QtCore, QtGui, QtWidgets, Signal
from rdvla_ros.dashboard.freshness import NEVER, Seen, State
from rdvla_ros.dashboard.model import Snapshot
from rdvla_ros.dashboard.texts import Label


class Picture(QtWidgets.QWidget):
    """A picture with its name below it; what is not live is crossed out and says so."""

    clicked = Signal(str)

    def __init__(self, name: str, hint: str):
        super().__init__()
        self.name = name
        self._number, self._pixels, self._seen, self._hint, self._problem = -1, QtGui.QPixmap(), NEVER, hint, ""
        self._px = 20
        self.setMinimumSize(100, 80)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Expanding)
        self.setCursor(QtGui.QCursor(Qt.CursorShape.PointingHandCursor))

    @property
    def caption(self) -> str:
        text = f"{self._seen.state.symbol} {self.name} {self._seen.text()}"
        return f"{text}: {self._problem}" if self._problem else f"{text}  {self._hint}"

    def resize_text(self, px: int) -> None:
        self._px = px
        self.update()

    def put(self, number: int, image: QtGui.QImage | bytes | None, seen: Seen, problem: str = "") -> None:
        """number: grows with every picture, so that each is decoded once."""
        words = (seen.state, seen.text(), problem)
        if number == self._number and words == (self._seen.state, self._seen.text(), self._problem):
            return
        if number != self._number and image is not None:
            decoded = image if isinstance(image, QtGui.QImage) else QtGui.QImage.fromData(image)
            if decoded.isNull():
                problem = problem or "a picture that cannot be decoded"
            else:
                self._pixels = QtGui.QPixmap.fromImage(decoded)
        self._number, self._seen, self._problem = number, seen, problem
        self.update()

    def mousePressEvent(self, event) -> None:
        self.clicked.emit(self.name)

    def paintEvent(self, event) -> None:
        painter = QtGui.QPainter(self)
        painter.fillRect(self.rect(), QtGui.QColor(style.PANEL))
        font = QtGui.QFont()
        font.setPixelSize(self._px)
        painter.setFont(font)
        bar = painter.fontMetrics().height() + 4
        area = self.rect().adjusted(2, 2, -2, -bar)
        if not self._pixels.isNull():
            size = self._pixels.size().scaled(area.size(), Qt.AspectRatioMode.KeepAspectRatio)
            target = QtCore.QRect(QtCore.QPoint(0, 0), size)
            target.moveCenter(area.center())
            painter.drawPixmap(target, self._pixels)
        if not self._seen.live:
            self._cross_out(painter, area)
        painter.setPen(QtGui.QColor(style.STATE_COLOURS[self._seen.state]))
        words = painter.fontMetrics().elidedText(self.caption, Qt.TextElideMode.ElideRight, self.width() - 12)
        painter.drawText(self.rect().adjusted(6, 0, -6, -2), Qt.AlignmentFlag.AlignBottom | Qt.AlignmentFlag.AlignLeft, words)
        painter.end()

    def _cross_out(self, painter: QtGui.QPainter, area: QtCore.QRect) -> None:
        painter.fillRect(area, QtGui.QColor(0, 0, 0, 150))
        if self._seen.state is not State.UNKNOWN:
            painter.setPen(QtGui.QPen(QtGui.QColor(style.STATE_COLOURS[self._seen.state]), 3))
            painter.drawLine(area.topLeft(), area.bottomRight())
            painter.drawLine(area.topRight(), area.bottomLeft())
        painter.setPen(QtGui.QColor(style.TEXT))
        words = "no picture yet" if self._seen.state is State.UNKNOWN else f"OLD: {self._seen.text()}"
        painter.drawText(area, Qt.AlignmentFlag.AlignCenter, words)


class Cameras(QtWidgets.QWidget):
    """The column of thumbnails. opened(name): one was clicked."""

    opened = Signal(str)

    def __init__(self, names: tuple[str, ...]):
        super().__init__()
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.pictures = {name: Picture(name, "(click: full size)") for name in names}
        for picture in self.pictures.values():
            picture.clicked.connect(self.opened)
            layout.addWidget(picture, 1)

    def show_snapshot(self, snapshot: Snapshot) -> None:
        for name, picture in self.pictures.items():
            number, data = snapshot.pictures.get(name, (0, None))
            picture.put(number, data, snapshot.seen(f"camera {name}"))


class OpenPicture(QtWidgets.QWidget):
    """One camera at full size, in the place of the plots, so that Hold stays where it is. closed: back to the plots."""

    closed = Signal()

    def __init__(self):
        super().__init__()
        self._layout = QtWidgets.QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self.close_button = QtWidgets.QPushButton("Close the picture")
        self.close_button.clicked.connect(self.closed)
        self._hint = Label("Full size and rate, straight from the camera: heavy on a slow network.", level="small", tone="faint")
        row = QtWidgets.QHBoxLayout()
        row.addWidget(self._hint, 1)
        row.addWidget(self.close_button)
        self._layout.addLayout(row)
        self.picture: Picture | None = None

    def open(self, name: str, px: int) -> None:
        self.clear()
        self.picture = Picture(name, "(click: close)")
        self.picture.resize_text(px)
        self.picture.clicked.connect(lambda _: self.closed.emit())
        self._layout.addWidget(self.picture, 1)

    def clear(self) -> None:
        if self.picture is not None:
            self._layout.removeWidget(self.picture)
            self.picture.deleteLater()
            self.picture = None
