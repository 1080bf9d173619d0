"""Questions whose right answers follow from the renderer's truth, not from how the questions were made."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, is_one_clear_error
from PIL import Image

from schemas.errors import BadInput
from schemas.evaluation import DYNAMIC_TASKS, OPTION_LETTERS, SCENE_TASKS, STATIC_TASKS
from teacher_cache.scenes import random_scene, render_scene
from teacher_cache.scenes.dataset import Asking, VideoFormat, clip_seconds, write_scenes
from teacher_cache.scenes.questions import (
    Mark,
    draw_marks,
    mark_objects,
    scene_questions,
)

SEEDS = range(40)
R4D = {*STATIC_TASKS, *DYNAMIC_TASKS} - {"3D Video Grounding", "False Positives"}
SHAPE = VideoFormat(height=48, width=64, frames=5)


@pytest.fixture(scope="module")
def asked():
    """(scene, truth, marks, questions) of some scenes, seen small."""
    found = []
    for seed in SEEDS:
        scene = random_scene(seed)
        truth = render_scene(scene, np.linspace(0, clip_seconds(seed), 5), height=48, width=64, ray_grid=(4, 4))
        marks = mark_objects(truth, seed)
        found.append((scene, truth, marks, scene_questions(scene, truth, marks)))
    return found


def of(asked, task):
    return [(scene, truth, marks, q) for scene, truth, marks, questions in asked for q in questions if q.task == task]


def marked(marks, text):
    return [next(m for m in marks if m.name == word.strip("?:,")) for word in text.split() if word.startswith("<obj_")]


def centre(scene, mark, time):
    return scene.objects[mark.instance].trajectory.pose(float(time)).translation


def path(scene, mark, times):
    places = np.array([centre(scene, mark, t) for t in times])
    return np.linalg.norm(np.diff(places, axis=0), axis=1).sum()


def test_every_kind_of_r4d_bench_that_a_scene_can_answer_is_asked(asked):
    tasks = Counter(q.task for *_, questions in asked for q in questions)
    assert set(tasks) == R4D | {"Duration", "Ego Motion", "Scene Depth"} == set(SCENE_TASKS)
    assert all(count >= 8 for count in tasks.values()), tasks


def test_no_option_is_nearly_always_right(asked):
    for task in R4D | {"Duration", "Ego Motion", "Scene Depth"}:
        answers = Counter((q.options[0], q.right) for *_, q in of(asked, task))
        assert max(answers.values()) <= 0.75 * sum(answers.values()), (task, answers)


def test_which_way_objects_go_is_how_their_pictures_move_in_the_first_camera(asked):
    ways = Counter()
    for scene, truth, marks, question in of(asked, "Translational"):
        (mark,) = marked(marks, question.text)
        first = scene.camera.pose(0.0)
        start, end = (first.rotation.T @ (centre(scene, mark, t) - first.translation) for t in truth.times_seconds[[0, -1]])
        answer = question.options[question.right]
        ways[answer] += 1
        if answer == "it stays in its place":
            assert not scene.objects[mark.instance].trajectory.moving or np.allclose(start, end, atol=0.03)
        elif answer in {"to the left", "to the right"}:
            assert (end[0] > start[0]) == (answer == "to the right")
        else:
            assert (end[2] < start[2]) == (answer == "towards the camera")
    assert len(ways) == 5


def test_the_way_of_turning_is_seen_from_above(asked):
    for scene, _, marks, question in of(asked, "Rotational"):
        (mark,) = marked(marks, question.text)
        now, soon = (scene.objects[mark.instance].trajectory.pose(t).rotation for t in (0.0, 0.01))
        # From above, x to the right and z up on the page: y points away from the eye.
        before, after = (r @ [1.0, 0.0, 0.0] for r in (now, soon))
        turned = before[0] * after[2] - before[2] * after[0]  # positive: counterclockwise
        expected = {"clockwise": -1, "counterclockwise": 1, "it does not turn": 0}[question.options[question.right]]
        assert np.sign(np.round(turned, 9)) == expected


def test_the_nearer_object_has_the_smaller_depth_where_it_is_seen(asked):
    agreeing = []
    for _, truth, marks, question in of(asked, "Spatial Relation"):
        pair = marked(marks, question.text)
        depths = [np.median(truth.depth[0][truth.instance[0] == mark.instance]) for mark in pair]
        agreeing.append(question.right == int(np.argmin(depths)))
    assert np.mean(agreeing) > 0.95  # the centre of a large thing lies behind its face


@pytest.mark.parametrize(
    ("task", "measure"),
    [
        ("Displacement & Path Length", path),
        ("Speed & Acceleration", lambda scene, mark, times: path(scene, mark, times) / times[-1]),
        ("Duration", lambda _scene, _mark, times: times[-1]),
        # Another size of pictures: a question is about the scene, not about its pixels.
        ("Scene Depth", lambda scene, _mark, times: render_scene(scene, times, height=40, width=40).depth.mean()),
    ],
)
def test_ranges_hold_what_was_measured(asked, task, measure):
    for scene, truth, marks, question in of(asked, task):
        mark = next(iter(marked(marks, question.text)), None)
        value = measure(scene, mark, truth.times_seconds)
        words = question.options[question.right].split()
        if words[0] in {"less", "more"}:
            assert (value < float(words[2])) == (words[0] == "less")
        else:
            assert float(words[0]) < value < float(words[2])


def test_the_camera_moves_to_the_side_from_which_the_still_room_leaves(asked):
    for _, truth, _, question in of(asked, "Ego Motion"):
        answer = question.options[question.right]
        travelled = truth.camera_to_first[-1][:3, 3]
        assert (np.linalg.norm(travelled[[0, 2]]) < 0.05) == (answer == "it hardly moves")
        if answer != "it hardly moves":
            assert (travelled[0] > 0) == (answer == "to the right")


def test_marks_outline_the_objects_that_they_number():
    scene = random_scene(5)
    truth = render_scene(scene, np.array([0.0, 1.0]), height=120, width=160)
    marks = mark_objects(truth, 5)
    assert [mark.number for mark in marks] == list(range(1, len(marks) + 1))
    drawn = draw_marks(truth.rgb[0], truth.instance[0], marks)
    changed = (drawn != truth.rgb[0]).any(-1)
    for mark in marks:
        y, x = np.nonzero(truth.instance[0] == mark.instance)
        assert changed[y, x].any()
        left, top, right, bottom = mark.box
        assert (left, top) == (pytest.approx(x.min() / 160, abs=1e-4), pytest.approx(y.min() / 120, abs=1e-4))
        assert (right, bottom) == (pytest.approx((x.max() + 1) / 160, abs=1e-4), pytest.approx((y.max() + 1) / 120, abs=1e-4))
    assert changed.mean() < 0.25


def test_a_mark_at_the_very_edge_stays_in_the_picture():
    instance = np.full((40, 60), -1, np.int16)
    instance[:2, 58:] = 0
    frame = np.zeros((40, 60, 3), np.uint8)
    drawn = draw_marks(frame, instance, [Mark(1, 0, (0.96, 0.0, 1.0, 0.05))])
    assert (drawn > 0).any(-1).sum() > 40  # the number's plate, whole


# --- as files ---


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    return folder, write_scenes(folder, range(3), SHAPE, Asking(), workers=1, advance=lambda _: None)


def test_students_and_evaluations_read_what_is_written(written):
    from student_train.data.conversations import read_conversations
    from student_train.evaluation.benchmarks.protocol import read
    from student_train.evaluation.benchmarks.r4d import QUESTIONS

    folder, report = written
    conversations = read_conversations([str(folder / "conversations.json")])
    questions = read(QUESTIONS, folder).items
    assert (report.videos, report.conversations, report.questions) == (3, len(conversations), len(questions))
    assert sum(turn.role == "assistant" for c in conversations for turn in c.turns) == len(questions)
    by_text = {(q.video, q.question): q for q in questions}
    for conversation in conversations:
        assert (folder / str(conversation.video)).is_file()
        assert bool(conversation.images) == any("<obj_" in turn.text for turn in conversation.turns)
        for image in conversation.images:
            with Image.open(folder / image) as picture:
                assert picture.size == (64, 48)
        for asked, answer in zip(conversation.turns[::2], conversation.turns[1::2], strict=True):
            text = asked.text.replace("<image>\n", "").replace("<video>\n", "").split("\nOptions:")[0]
            assert OPTION_LETTERS[by_text[conversation.video, text].right] == answer.text


def test_chosen_kinds_of_questions_are_asked_in_conversations_of_the_length_wished_for(written, tmp_path: Path):
    from student_train.data.conversations import read_conversations

    folder, _ = written
    every = json.loads((folder / "questions.json").read_text())
    shutil.copytree(folder, tmp_path / "scenes")  # rendered already, and asked other questions
    asking = Asking(tasks=("Counting", "Ego Motion", "Duration", "Spatial Relation"), turns=100)
    report = write_scenes(tmp_path / "scenes", range(3), SHAPE, asking, workers=1, advance=lambda _: None)
    chosen = json.loads((tmp_path / "scenes" / "questions.json").read_text())
    assert chosen == [question for question in every if question["task"] in asking.tasks]
    assert {"som_image" in question for question in chosen if question["task"] == "Counting"} == {False}
    assert {"som_image" in question for question in chosen if question["task"] == "Spatial Relation"} == {True}
    conversations = read_conversations([str(tmp_path / "scenes" / "conversations.json")])
    assert len(conversations) == report.conversations == 3  # each video is shown once
    assert report.questions == len(chosen) == sum(len(c.turns) // 2 for c in conversations)
    first = {c.turns[0].text.removeprefix("<image>\n").removeprefix("<video>\n").split("\n")[0] for c in conversations}
    assert len(first) > 1  # no kind is always the first: each is asked alone when a student is evaluated
    single = write_scenes(tmp_path / "scenes", range(3), SHAPE, Asking(("Counting",), 1), workers=1, advance=lambda _: None)
    assert single.conversations == single.questions
    assert not any(c.images for c in read_conversations([str(tmp_path / "scenes" / "conversations.json")]))


def test_an_unknown_kind_of_question_is_named_beside_the_known_ones(tmp_path: Path, teacher_cache_command: Command):
    done = teacher_cache_command("scenes", tmp_path / "scenes", "--task", "Egg Motion")
    is_one_clear_error(done, 2, "no questions of the kind 'Egg Motion'", "use Translational, Rotational, Counting")
    assert not (tmp_path / "scenes").exists()


def test_a_video_lasts_as_long_as_its_question_says(written):
    from decoding import opened

    folder, _ = written
    for question in json.loads((folder / "questions.json").read_text()):
        if question["task"] == "Duration":
            with opened(str(folder / question["video"])) as video:
                footage = video.footage
            seconds = (footage.frames - 1) / footage.fps
            seed = int(question["id"].split("-")[1])
            assert seconds == pytest.approx(clip_seconds(seed), rel=0.01)


def test_a_stopped_data_set_goes_on_and_is_the_same(written, tmp_path: Path):
    folder, report = written
    write_scenes(tmp_path, range(2), SHAPE, Asking(), workers=1, advance=lambda _: None)
    video = tmp_path / "videos" / "scene-0000001.mp4"
    before = video.stat().st_mtime_ns
    again = write_scenes(tmp_path, range(3), SHAPE, Asking(), workers=1, advance=lambda _: None)
    assert video.stat().st_mtime_ns == before
    assert again.model_copy(update={"out": report.out}) == report
    for name in ("conversations.json", "questions.json", "marks/scene-0000002.png"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_other_videos_in_the_folder_are_refused(written):
    folder, _ = written
    with pytest.raises(BadInput, match="frames 5, not 6"):
        write_scenes(folder, range(3), VideoFormat(48, 64, 6), Asking(), workers=1, advance=lambda _: None)
    with pytest.raises(BadInput, match="must be even"):
        write_scenes(folder, range(3), VideoFormat(47, 64, 5), Asking(), workers=1, advance=lambda _: None)
