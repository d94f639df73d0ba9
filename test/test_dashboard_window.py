"""The dashboard's window with real clicks and keys, offscreen, over DDS: shown is what is, done is what was asked."""

import array
import contextlib
import time
from dataclasses import replace

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")
pytest.importorskip("PySide6.QtWidgets", reason="needs PySide6: make setup")
pytest.importorskip("pyqtgraph", reason="needs pyqtgraph: make setup")

import numpy as np
from dashboard_rig import System, Window, jpeg, start
from gate_rig import ROBOT
from sensor_msgs.msg import Image

from rdvla_ros.bringup import launcher
from rdvla_ros.bringup.processes import processes
from rdvla_ros.control.supervision.interventions import ASKS
from rdvla_ros.dashboard.binding import Qt
from rdvla_ros.msg import GateStatus
from rdvla_ros.srv import Hold, Resume, SetInstruction, SetMode

AUTO, HOLD, TAKEOVER, PAUSE = GateStatus.AUTO, GateStatus.HOLD, GateStatus.TAKEOVER, GateStatus.PAUSE


class Pair(contextlib.ExitStack):
    """A window and the system around it. `be`: the gate is in this mode, everything lives, and the window shows it."""

    def __init__(self, **options):
        super().__init__()
        self.system = self.enter_context(contextlib.closing(System()))
        self.window = self.enter_context(contextlib.closing(Window(**options)))

    def be(self, mode, condition=lambda: True, what="the mode to be shown", **fields):
        names = {AUTO: "AUTO", HOLD: "HOLD", TAKEOVER: "TAKEOVER", PAUSE: "PAUSE"}
        self.system.live(mode, **fields)

        def shown():
            self.window.run(0.05)
            live = all(self.window.widget.snapshot().seen(name).live for name in ("gate", "policy", "monitor"))
            return live and names[mode] in self.window.header.badge.text() and condition()

        self.window.until(shown, what)


@pytest.fixture
def pair():
    with Pair() as pair:
        yield pair


def asked(pair, kind, count=1):
    pair.window.until(lambda: len(pair.system.asked(kind)) >= count, f"{kind.__name__} to be asked for")
    return pair.system.asked(kind)[-1]


# -- what is shown


def test_before_anything_is_heard_everything_is_unknown_and_nothing_but_hold_is_offered():
    with contextlib.closing(Window()) as window:
        window.run(0.3)
        assert "UNKNOWN" in window.header.badge.text() and "not known" in window.header.sentence.text()
        assert all("unknown" in line.text() for line in window.header.sources.values())
        assert not window.controls.resume.isEnabled() and window.controls.hold.isEnabled()
        assert not any(button.isEnabled() for button in window.controls.takeovers.values())
        assert window.text().count("no picture yet") == 0 and "? top unknown" in window.text()


@pytest.mark.parametrize("mode", [AUTO, HOLD, PAUSE, TAKEOVER])
def test_mode_reason_who_and_since_stand_in_one_sentence(pair, mode):
    pair.be(mode)
    sentence = pair.window.header.sentence.text()
    assert "a hand in the way" in sentence and "by Bob" in sentence and "since" in sentence


def test_the_causes_that_stand_in_the_way_of_a_resume_are_listed_beside_the_button(pair):
    causes = ["Nothing has come on /left/joint_states for 3 s.", "No heartbeat of /policy for 2 s."]
    pair.be(HOLD, lambda: causes[1] in pair.window.controls.obstacles.text(), causes=causes)
    assert causes[0] in pair.window.controls.obstacles.text() and not pair.window.controls.resume.isEnabled()
    pair.be(HOLD, pair.window.controls.resume.isEnabled, "the button once the causes are gone")
    assert pair.window.controls.resume.text() == "Resume hold 7"


def test_a_gate_that_falls_silent_is_stale_then_dead_and_its_mode_is_not_shown_as_in_force(pair):
    pair.be(AUTO)
    pair.system.silent()
    pair.window.until_says("GATE STALE", "Last known: AUTO")
    pair.window.until_says("GATE DEAD", "not known", "✕ gate dead")
    assert not pair.window.controls.resume.isEnabled() and pair.window.controls.hold.isEnabled()
    pair.be(HOLD, what="the gate to be heard again")


def test_the_numbers_of_a_decision_are_shown_and_age(pair):
    def decided():
        pair.system.decide(iterations=4)
        pair.system.score(0.25, alarm_threshold=0.8, calibrated=True)
        return "4 of 16, converged" in pair.window.text() and "0.25, no alarm" in pair.window.text()

    pair.be(AUTO, decided, "a decision to be shown")
    for words in (
        "3.0e-07, threshold 1.0e-06",
        "6 of 8 steps (0.6 s)",
        "Uncertainty, calibrated",
        "50 ms",
        "pick up the red cube",
    ):
        pair.window.until_says(words)
    pair.window.until_says("OLD: 4 of 16", "the curves are old")


def test_an_alarm_and_its_reason_are_said_in_words(pair):
    def alarmed():
        pair.system.decide()
        pair.system.score(1.4, alarm_threshold=0.8, alarm=True, reason="The plans do not settle: 1.40 within 5 decisions.")
        return all(words in pair.window.text() for words in ("ALARM", "⚠ The plans do not settle", "UNCALIBRATED"))

    pair.be(AUTO, alarmed, "the alarm and its reason")


def test_damaged_messages_are_named_and_the_window_lives_on(pair):
    nan, inf = float("nan"), float("inf")
    bad = [
        dict(change=[]), dict(change=[nan, -1.0, inf], threshold=nan), dict(stop_reason=99), dict(iterations=2**32 - 1, limit=0),
        dict(step_s=nan, timing_names=["a", "b"], timings_s=[nan]), dict(horizon=2**32 - 1, chunk_length=2**31), dict(sequence=0),
        dict(instruction="\x1b[31m" + "x" * 5000, doubts=["<b>bold</b>"] * 50),
    ]  # fmt: skip
    said = set()

    def survived():
        for fields in bad:
            pair.system.decide(**fields)
            pair.system.score(nan, score=inf, alarm_threshold=nan, reason="<script>")
            pair.window.run(0.3)
            said.update(pair.window.header.remark.text().split())
        return {"empty", "negative", "99"} <= {word.strip(".;,") for word in said}

    pair.be(AUTO, survived, "the oddities to be named")
    pair.system.show(ROBOT.camera_names[0], b"\xff\xd8 no picture")
    pair.system.move(ROBOT.arms[0], np.full(len(ROBOT.arms[0].joints), nan))
    pair.be(AUTO, lambda: pair.system.decide() or "4 of 16, converged" in pair.window.text(), "a good decision after them")


def test_pictures_are_shown_and_crossed_out_when_they_stop(pair):
    name = ROBOT.camera_names[0]

    def pictured():
        pair.system.show(name, jpeg())
        return f"● {name} live" in pair.window.text()

    pair.be(AUTO, pictured, "the picture")
    picture = pair.window.widget.cameras.pictures[name]
    pair.window.run(0.6)
    red = picture.grab().toImage().pixelColor(picture.width() // 2, picture.height() // 2)
    assert red.red() > 150 > red.green()
    pair.window.until_says(f"◐ {name} stale")
    pair.window.until_says(f"✕ {name} dead")


def test_a_click_opens_a_camera_at_full_size_and_another_closes_it(pair):
    camera = ROBOT.cameras[0]
    pixels = np.full((camera.height, camera.width, 3), (30, 30, 200), dtype=np.uint8)
    message = Image(height=camera.height, width=camera.width, step=3 * camera.width, encoding="rgb8")
    message.header.frame_id, message.data = camera.frame_id, array.array("B", pixels.tobytes())
    publisher = pair.system.node.create_publisher(Image, camera.topic, 1)
    widget = pair.window.widget
    pair.window.click(widget.cameras.pictures[camera.name])
    picture = widget.opened.picture

    def opened():
        publisher.publish(message)
        return f"● {camera.name} live" in picture.caption

    pair.window.until(opened, "the open picture")
    pair.window.until(lambda: not widget.tiles[0].isVisible(), "the picture to stand in the place of the curves")
    colour = picture.grab().toImage().pixelColor(picture.width() // 2, picture.height() // 2)
    assert colour.blue() > 150 > colour.red() and pair.window.controls.hold.isVisible()
    message.encoding = "of no colour"
    pair.window.until(lambda: publisher.publish(message) or "of no colour" in picture.caption, "what is wrong with the picture")
    pair.window.click(widget.opened.close_button)
    pair.window.until(widget.tiles[0].isVisible, "the curves")
    pair.window.until(lambda: publisher.get_subscription_count() == 0, "the end of the subscription")


# -- what is done


def test_a_click_on_hold_holds_at_once_with_the_operators_name(pair):
    pair.be(AUTO)
    pair.system.answer = {"accepted": True, "message": "Hold 8 begins: a click."}
    pair.window.click(pair.window.controls.hold)
    assert asked(pair, Hold).who == "Anna"
    pair.window.until_says("Anna: hold ✓ Hold 8 begins")
    assert len(pair.system.asked(Hold)) == 1


def test_the_space_bar_holds_wherever_the_keyboard_is_and_in_a_text_with_control(pair):
    pair.be(AUTO)
    pair.window.controls.resume.setFocus()
    pair.window.key(Qt.Key.Key_Space)
    asked(pair, Hold)
    pair.window.controls.instruction.edit.setFocus()
    pair.window.key(Qt.Key.Key_Space)
    pair.window.until(lambda: pair.window.controls.instruction.edit.text() == " ", "a space in the text")
    pair.window.until_says("Ctrl + space while typing")
    assert len(pair.system.asked(Hold)) == 1
    pair.window.key(Qt.Key.Key_Space, Qt.KeyboardModifier.ControlModifier)
    asked(pair, Hold, 2)
    pair.window.key(Qt.Key.Key_Escape)
    pair.window.key(Qt.Key.Key_Space)
    asked(pair, Hold, 3)


def test_a_hold_needs_neither_a_name_nor_a_live_gate_and_is_asked_for_until_it_is_answered():
    with contextlib.closing(Window(operator="")) as window:
        window.click(window.controls.hold)
        window.until_says("asked, no answer yet")
        with contextlib.closing(System()) as system:
            system.answer = {"accepted": True, "message": "Hold 1 begins."}
            window.until(lambda: system.asked(Hold), "the hold to reach a gate that came later")
            window.until_says("Hold 1 begins")
            assert system.asked(Hold)[0].who == "operator"


def test_a_resume_names_its_hold_and_is_confirmed(pair):
    pair.be(HOLD, pair.window.controls.resume.isEnabled, "a hold that can be lifted")
    pair.window.click(pair.window.controls.resume)
    pair.window.run(0.2)
    assert not pair.system.asked(Resume) and "The arms may move" in pair.window.text()
    pair.be(HOLD)
    pair.window.click(pair.window.controls.question.yes)
    request = asked(pair, Resume)
    assert (request.hold_id, request.who) == (7, "Anna")


def test_a_confirmation_is_void_when_another_hold_or_a_cause_came_meanwhile(pair):
    for change in ({"hold_id": 8}, {"causes": ["The left arm is silent."]}):
        pair.be(HOLD, pair.window.controls.resume.isEnabled, "a hold that can be lifted")
        pair.window.click(pair.window.controls.resume)
        pair.system.live(HOLD, **change)
        pair.window.until(lambda: pair.window.controls.resume.isVisible(), "the question to go")
        pair.window.controls.question.yes.click()
    pair.window.run(0.3)
    assert not pair.system.asked(Resume)


def test_a_yes_counts_only_for_what_was_asked_even_before_the_window_shows_the_change(pair):
    pair.be(HOLD, pair.window.controls.resume.isEnabled, "a hold that can be lifted")
    pair.window.click(pair.window.controls.resume)
    pair.system.silent()
    pair.window.run(0.1)
    model, gate = pair.window.station.model, pair.window.widget.snapshot().gate
    model.on_gate(time.monotonic(), replace(gate, hold_id=gate.hold_id + 1))
    pair.window.controls.question.yes.click()
    pair.window.run(0.3)
    assert not pair.system.asked(Resume)


def test_an_answer_no_or_a_hold_drops_the_question(pair):
    for answer in (pair.window.controls.question.no, pair.window.controls.hold):
        pair.be(HOLD, pair.window.controls.resume.isEnabled, "a hold that can be lifted")
        pair.window.click(pair.window.controls.resume)
        pair.window.click(answer)
        assert pair.window.controls.resume.isVisible()
    assert not pair.system.asked(Resume)


def test_without_a_name_nothing_but_hold_can_be_asked_for():
    with Pair(operator="") as pair:
        pair.be(HOLD, lambda: "Write your name" in pair.window.text(), "the name to be asked for")
        assert not pair.window.controls.resume.isEnabled()
        assert not any(b.isEnabled() for b in pair.window.controls.takeovers.values())
        pair.window.controls.name.setText("Eve")
        pair.be(HOLD, pair.window.controls.resume.isEnabled, "the button once there is a name")


def test_a_takeover_is_asked_for_per_arm_and_given_back_by_a_hold(pair):
    first, second = [arm.name for arm in ROBOT.arms]
    buttons = pair.window.controls.takeovers
    pair.be(AUTO, buttons[first].isEnabled)
    pair.window.click(buttons[first])
    request = asked(pair, SetMode)
    assert (request.mode, list(request.arms), request.who) == (TAKEOVER, [first], "Anna")
    pair.be(TAKEOVER, lambda: "Give back" in buttons[first].text(), taken_over=[first])
    pair.window.click(buttons[second])
    pair.be(TAKEOVER, taken_over=[first])
    pair.window.click(pair.window.controls.question.yes)  # the second arm rests and may move then
    assert list(asked(pair, SetMode, 2).arms) == [first, second]
    pair.be(TAKEOVER, buttons[first].isChecked, taken_over=[first])
    pair.window.click(buttons[first])
    assert "gives the arms back" in asked(pair, Hold).reason


def test_an_instruction_is_sent_and_remembered_and_a_refusal_is_shown(pair):
    pair.be(AUTO)
    pair.system.answer = {"accepted": False, "message": "Refused: too long."}
    line = pair.window.controls.instruction
    line.edit.setFocus()
    for letter in "stack":
        pair.window.key(getattr(Qt.Key, f"Key_{letter.upper()}"))
    pair.window.key(Qt.Key.Key_Return)
    request = asked(pair, SetInstruction)
    assert (request.instruction, request.who) == ("stack", "Anna")
    pair.window.until_says("Anna: instruction 'stack' ✗ Refused: too long.")
    assert not line.edit.text()
    line.edit.setFocus()
    pair.window.key(Qt.Key.Key_Up)
    assert line.edit.text() == "stack"


def instruct(pair, text):
    pair.window.controls.instruction.edit.setText(text)
    pair.window.click(pair.window.controls.instruction.send)
    return asked(pair, SetInstruction)


def test_an_instruction_that_answers_the_robots_question_offers_the_resume_unless_it_is_refused(pair):
    controls = pair.window.controls
    pair.be(HOLD, controls.resume.isEnabled, "a hold that can be lifted", reason="a hand in the way")
    instruct(pair, "stack")
    assert not controls.question.isVisible(), "a hold of a person: words alone answer nothing"
    pair.be(HOLD, controls.resume.isEnabled, hold_id=8, reason=f"{ASKS} while moving left: ...", who="monitor")
    pair.system.answer = {"accepted": False, "message": "Refused: too long."}
    pair.system.requests.clear()
    instruct(pair, "stack")
    pair.window.until_says("✗ Refused")
    pair.window.until(lambda: not controls.question.isVisible(), "the question to go away")
    pair.system.hangs.set()
    pair.system.requests.clear()
    controls.instruction.edit.setText("fold")
    pair.window.click(controls.instruction.send)
    pair.window.until(controls.question.isVisible, "the question")
    pair.window.click(controls.question.yes)
    assert controls.question.isVisible(), "nobody knows yet whether the policy takes it"
    pair.window.until_says("'fold' ✗ no answer")
    assert not pair.system.asked(Resume) and not controls.question.isVisible()
    pair.system.hangs.clear()
    pair.system.answer = {"accepted": True}
    pair.system.requests.clear()
    instruct(pair, "sort")
    pair.window.until(controls.question.isVisible, "the question")
    pair.window.until_says("'sort' ✓")
    assert "hold 8" in controls.question.words.text() and "'sort'" in controls.question.words.text()
    assert not pair.system.asked(Resume), "not without a yes"
    pair.window.click(controls.question.yes)
    request = asked(pair, Resume)
    assert (request.hold_id, request.who) == (8, "Anna")


def test_an_act_that_nobody_answers_is_reported_as_not_known(pair):
    pair.be(HOLD, pair.window.controls.resume.isEnabled, "a hold that can be lifted")
    pair.system.hangs.set()
    pair.window.click(pair.window.controls.resume)
    pair.window.click(pair.window.controls.question.yes)
    pair.window.until_says("resume of hold 7 ✗ no answer")


def test_a_spectator_has_no_acts_and_calls_nothing():
    with Pair(spectator=True) as pair:
        pair.be(HOLD)
        assert "spectator" in pair.window.text() and pair.window.controls is None
        assert not list(pair.window.station.node.clients)
        pair.window.key(Qt.Key.Key_Space)
        pair.window.run(0.3)
        assert not pair.system.requests


def test_nothing_ever_covers_hold(pair):
    """Whatever is open: the point where Hold was is still Hold's."""
    pair.be(HOLD, pair.window.controls.resume.isEnabled, "a hold that can be lifted")
    hold, widget = pair.window.controls.hold, pair.window.widget
    place = hold.mapTo(widget, hold.rect().center())
    pair.window.click(pair.window.controls.resume)
    widget.open_picture(ROBOT.camera_names[0])
    pair.window.controls.instruction.edit.setFocus()
    pair.window.run(0.3)
    at = widget.childAt(place)
    assert at is hold or hold.isAncestorOf(at)
    widget.close_picture()


# -- the program


def test_a_screenshot_is_drawn_without_a_screen_and_the_program_ends(tmp_path):
    picture = tmp_path / "window.png"
    with open(tmp_path / "log", "w") as log:
        process = start(["-m", "rdvla_ros.cli", "dashboard"], "--screenshot", str(picture), "--after", "1", log=log)
        assert process.wait(60) == 0, (tmp_path / "log").read_text()
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_a_robot_file_that_is_not_there_and_a_place_that_cannot_be_written_are_refused(tmp_path):
    for words, said in (
        (["--robot", "/nowhere.yaml"], "expected a YAML file"),
        (["--screenshot", "/nowhere/x.png", "--after", "0"], "expected a picture file"),
    ):
        with open(tmp_path / "log", "w") as log:
            assert start(["-m", "rdvla_ros.cli", "dashboard"], *words, log=log).wait(60) == 1
        assert said in (tmp_path / "log").read_text()


def test_the_dashboard_of_the_list_of_processes_runs_and_may_end(tmp_path):
    picture = tmp_path / "window.png"
    (spec,) = [s for s in processes({"sim": True, "dashboard": True, "checkpoint": str(tmp_path)}) if s.node == "dashboard"]
    values = {**spec.parameters, "screenshot": str(picture), "after_s": 0.5, "operator": "Eve"}
    with launcher.start([replace(spec, parameters=values, namespace="/cell_1")], tmp_path) as running:
        assert running["dashboard"].process.wait(60) == 0, running["dashboard"].last_lines()
        running.check()
    assert picture.read_bytes()[:4] == b"\x89PNG"
