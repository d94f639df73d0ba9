"""The operator's acts. No menu, no list that drops down, no dialog: nothing may lie over Hold or take the click meant for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rdvla_ros.control.supervision.modes import Mode
from rdvla_ros.dashboard import rules, sentences
from rdvla_ros.dashboard.acts import Acts
from rdvla_ros.dashboard.binding import Qt, QtCore, QtWidgets
from rdvla_ros.dashboard.instruction import IdleEdit, InstructionLine
from rdvla_ros.dashboard.model import Act, Snapshot
from rdvla_ros.dashboard.texts import Label

CONFIRM_S = 10.0  # a question that nobody answers goes away
GIVES_BACK = "gives the arms back"
NOBODY = "operator"  # whose hold it is where no name was written: a hold is never refused
SHOWN_ACTS = 4


class Question(QtWidgets.QWidget):
    """'Resume hold 7? The arms may move.' with yes and no, in the place of the button that asked."""

    def __init__(self):
        super().__init__()
        self.words = Label("")
        self.yes, self.no = QtWidgets.QPushButton("Yes"), QtWidgets.QPushButton("No")
        self.yes.setProperty("asks", True)
        row = QtWidgets.QHBoxLayout()
        row.addWidget(self.no)
        row.addWidget(self.yes, 1)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.words, 1)
        layout.addLayout(row)


class Controls(QtWidgets.QWidget):
    """snapshot(): what is known now; every act looks at it again at the moment of the click."""

    def __init__(self, acts: Acts, arms: Sequence[str], operator: str, snapshot: Callable[[], Snapshot]):
        super().__init__()
        self._acts, self._arms, self._snapshot = acts, tuple(arms), snapshot
        self._asked: tuple[Callable[[], None], Callable[[Snapshot], bool], Callable[[Snapshot], bool]] | None = None
        self.hold = QtWidgets.QPushButton(objectName="hold")
        self.hold.setSizePolicy(QtWidgets.QSizePolicy.Policy.Minimum, QtWidgets.QSizePolicy.Policy.Expanding)
        self.hold_word, self.hold_hint = Label("■ HOLD", level="huge"), Label("")
        self.hold_layout = QtWidgets.QVBoxLayout(self.hold)
        self.hold_layout.addStretch(1)
        for label in (self.hold_word, self.hold_hint):
            label.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
            label.setAlignment(Qt.AlignmentFlag.AlignCenter)
            label.setWordWrap(label is self.hold_hint)
            self.hold_layout.addWidget(label)
        self.hold_layout.addStretch(1)
        self.hold.pressed.connect(self.on_hold)  # when the button goes down, not when it is let go
        self.resume = QtWidgets.QPushButton("Resume")
        self.resume.clicked.connect(self._on_resume)
        self.obstacles = Label("", level="small", tone="warn")
        self.question = Question()
        self.question.yes.clicked.connect(self._on_yes)
        self.question.no.clicked.connect(self.drop_question)
        self.takeovers = {arm: QtWidgets.QPushButton(f"Take over {arm}", checkable=True) for arm in self._arms}
        for arm, button in self.takeovers.items():
            button.clicked.connect(lambda _=False, arm=arm: self._on_takeover(arm))
        self.name = IdleEdit(operator, hint="your name", longest=60)
        self.instruction = InstructionLine()
        self.instruction.sent.connect(self._on_instruction)
        self.name.returnPressed.connect(self.name.clearFocus)
        self.log = Label("", level="small", tone="faint")
        self._timer = QtCore.QTimer(self, singleShot=True)
        self._timer.timeout.connect(self.drop_question)
        self._lay_out()

    def _lay_out(self) -> None:
        self._stack = QtWidgets.QStackedWidget()
        page = QtWidgets.QWidget()
        column = QtWidgets.QVBoxLayout(page)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.resume)
        column.addWidget(self.obstacles, 1, Qt.AlignmentFlag.AlignTop)
        self._stack.addWidget(page)
        self._stack.addWidget(self.question)
        takeovers = QtWidgets.QVBoxLayout()
        for button in self.takeovers.values():
            takeovers.addWidget(button)
        takeovers.addStretch(1)
        right = QtWidgets.QVBoxLayout()
        names = QtWidgets.QHBoxLayout()
        names.addWidget(Label("Operator"))
        names.addWidget(self.name, 1)
        right.addLayout(names)
        right.addWidget(self.instruction)
        right.addWidget(self.log, 1, Qt.AlignmentFlag.AlignTop)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(12)
        layout.addWidget(self.hold, 4)
        layout.addWidget(self._stack, 5)
        layout.addLayout(takeovers, 3)
        layout.addLayout(right, 7)

    @property
    def who(self) -> str:
        return self.name.text().strip()

    # -- acts

    def on_hold(self) -> None:
        """At once and always, whatever is known and whoever it is."""
        self._acts.hold(self.who or NOBODY)
        self.drop_question()

    def _on_resume(self) -> None:
        snapshot = self._snapshot()
        if rules.resume_obstacles(snapshot, self.who):
            return self.show_snapshot(snapshot)
        number, who = snapshot.gate.hold_id, self.who

        def valid(now: Snapshot) -> bool:
            return not rules.resume_obstacles(now, who) and now.gate.hold_id == number

        words = f"Lift {Mode(snapshot.gate.mode).name.lower()} {number} ({snapshot.gate.reason})? The arms may move."
        return self._ask(words, f"Yes, resume {number}", lambda: self._acts.resume(who, number), valid)

    def _on_takeover(self, arm: str) -> None:
        snapshot, who = self._snapshot(), self.who
        self.takeovers[arm].setChecked(not self.takeovers[arm].isChecked())  # it shows what is, not what was clicked
        if rules.takeover_obstacles(snapshot, who):
            return self.show_snapshot(snapshot)
        step = rules.takeover_step(snapshot, arm, self._arms)
        if not step.arms:
            return self._acts.hold(who, f"{who} {GIVES_BACK}")
        if not step.starts:
            return self._acts.take_over(who, step.arms)

        def valid(now: Snapshot) -> bool:
            return not rules.takeover_obstacles(now, who) and rules.takeover_step(now, arm, self._arms) == step

        words = f"Take over {' and '.join(step.arms)}? Teleoperation may move it at once."
        return self._ask(words, "Yes, take over", lambda: self._acts.take_over(who, step.arms), valid)

    def _on_instruction(self, text: str) -> None:
        obstacles = rules.instruction_obstacles(self._snapshot(), self.who, text)
        self.instruction.say(" ".join(obstacles))
        if not obstacles:
            number = self._acts.instruct(self.who, text)
            self.instruction.remember(text)
            self._offer_to_go_on(text, number)

    def _offer_to_go_on(self, text: str, instructed: int) -> None:
        """Another instruction answers the robot's question; the arms move only once that is confirmed, as at every resume."""
        snapshot, who = self._snapshot(), self.who
        number = rules.asked_by_the_robot(snapshot)

        def valid(now: Snapshot) -> bool:
            refused = any(act.number == instructed and act.outcome and not act.good for act in now.acts)
            return not refused and not rules.resume_obstacles(now, who) and now.gate.hold_id == number

        def accepted(now: Snapshot) -> bool:
            return any(act.number == instructed and act.good for act in now.acts)

        if number and valid(snapshot):
            words = f"Lift hold {number} and go on with '{text}'? The arms may move."
            self._ask(words, f"Yes, resume {number}", lambda: self._acts.resume(who, number), valid, accepted)

    # -- questions

    def _ask(
        self,
        words: str,
        yes: str,
        act: Callable[[], None],
        valid: Callable[[Snapshot], bool],
        ready: Callable[[Snapshot], bool] = lambda now: True,
    ) -> None:
        """The question goes when it is not valid any more; until it is ready, "yes" does nothing and it stays."""
        self._asked = (act, valid, ready)
        self.question.words.set(words)
        self.question.yes.setText(yes)
        self._stack.setCurrentWidget(self.question)
        self._timer.start(int(CONFIRM_S * 1000))

    def _on_yes(self) -> None:
        asked, snapshot = self._asked, self._snapshot()
        if asked is not None and asked[1](snapshot) and not asked[2](snapshot):
            return
        self.drop_question()
        if asked is not None and asked[1](snapshot):
            asked[0]()

    def drop_question(self) -> None:
        self._asked = None
        self._timer.stop()
        self._stack.setCurrentIndex(0)

    # -- what is shown

    def show_snapshot(self, snapshot: Snapshot) -> None:
        if self._asked is not None and not self._asked[1](snapshot):
            self.drop_question()  # another hold, a new cause, a silent gate: what was asked is no longer the question
        self._show_hold(snapshot)
        mode, gate = sentences.known_mode(snapshot.gate), snapshot.gate
        obstacles = rules.resume_obstacles(snapshot, self.who)
        holding = mode in (Mode.HOLD, Mode.PAUSE) and snapshot.seen("gate").live
        self._set_text(self.resume, f"Resume {mode.name.lower()} {gate.hold_id}" if holding else "Resume")
        self.resume.setEnabled(not obstacles)
        listed = _listed(obstacles) if holding or not snapshot.seen("gate").live else " ".join(obstacles)
        tone = "faint" if mode is Mode.AUTO and snapshot.seen("gate").live else "warn" if obstacles else ""
        self.obstacles.set(listed, tone=tone, level="" if len(listed) < 170 else "small")
        taken = (gate.taken_over or self._arms) if mode is Mode.TAKEOVER and snapshot.seen("gate").live else ()
        possible = not rules.takeover_obstacles(snapshot, self.who)
        for arm, button in self.takeovers.items():
            self._set_text(button, f"◆ Give back {arm}" if arm in taken else f"Take over {arm}")
            button.setChecked(arm in taken)
            button.setEnabled(possible)
        self.instruction.show_force(snapshot.decisions[-1].instruction if snapshot.decisions else "")
        self.log.set("\n".join(_act_line(act) for act in reversed(snapshot.acts[-SHOWN_ACTS:])), tone="faint")

    def _show_hold(self, snapshot: Snapshot) -> None:
        typing = isinstance(QtWidgets.QApplication.focusWidget(), QtWidgets.QLineEdit)
        hint = "Ctrl + space while typing" if typing else "space bar"
        if any(act.what == "hold" for act in snapshot.under_way):
            hint = "asked, no answer yet"
        self.hold_hint.set(hint)

    @staticmethod
    def _set_text(button: QtWidgets.QPushButton, text: str) -> None:
        if button.text() != text:
            button.setText(text)


def _listed(obstacles: Sequence[str]) -> str:
    if not obstacles:
        return "Nothing stands in the way of a resume."
    return "In the way of a resume:\n" + "\n".join(f"• {text}" for text in obstacles)


def _act_line(act: Act) -> str:
    outcome = act.outcome or "asked ..."
    sign = "✓" if act.good else "…" if not act.outcome else "✗"
    return f"{time.strftime('%H:%M:%S', time.localtime(act.at_wall_s))} {act.who}: {act.what} {sign} {outcome}"
