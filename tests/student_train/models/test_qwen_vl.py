"""Qwen2.5-VL and Qwen3-VL: inputs as transformers' own processors make them, time in its place."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, Qwen2_5_VLProcessor, Qwen3VLProcessor
from transformers.video_utils import VideoMetadata
from without_values import is_the_same_without_values

from schemas.errors import BadInput
from schemas.train import BackboneName, ModelConfig
from student_train.data.chat import prompt, tokenize
from student_train.data.conversations import turn
from student_train.models.backbone import Pixels
from student_train.models.build import BACKBONES, build_student, load_student
from student_train.models.qwen_vl import SETTINGS, QwenBackbone, QwenProcessor

NAMES: tuple[BackboneName, ...] = ("qwen2.5-vl", "qwen3-vl")
GRID = 4
"""Of the tiny presets: tokens along a frame's side."""
FRAMES = 6
FPS = 2.0
SECONDS = [i / FPS for i in range(FRAMES)]
TURNS = (turn("system", "Look."), turn("user", "<image>\n<video>\nWhat moves?"), turn("assistant", "A ball."))


def built(name: BackboneName, **model: Any) -> QwenBackbone:
    student = build_student(ModelConfig(backbone=name, **model))
    assert isinstance(student, QwenBackbone)
    return student


@pytest.fixture(scope="module", params=NAMES)
def student(request: pytest.FixtureRequest) -> QwenBackbone:
    torch.manual_seed(0)
    return built(request.param, freeze=())


@pytest.fixture(scope="module")
def folder(student: QwenBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    student.save(path)
    return path


def pictures(student: QwenBackbone, *shape: int) -> Pixels:
    size = student.processor.image_size
    return np.random.default_rng(1).integers(0, 256, (*shape, size, size, 3), dtype=np.uint8)


def seconds(clips: int) -> np.ndarray[Any, Any]:
    return np.tile(SECONDS, (clips, 1))


def padded(rows: list[list[int]], pad: int, *, left: bool = False) -> dict[str, torch.Tensor]:
    length = max(map(len, rows))
    ids, mask = torch.full((len(rows), length), pad), torch.zeros(len(rows), length, dtype=torch.int64)
    for i, row in enumerate(rows):
        place = slice(length - len(row), None) if left else slice(len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


def batch(student: QwenBackbone) -> dict[str, Any]:
    """A video, an image and a video, and text alone."""
    processor = student.processor
    video = processor.video_ids(SECONDS)
    rows = [[5, *video, 7], [*processor.image_ids(), 6, *video, 9, 8], [5, 6, 7]]
    text = padded(rows, int(processor.tokenizer.pad_token_id))
    visual = processor.visual(pictures(student, 2, FRAMES), seconds(2), pictures(student, 1))
    return {**text, "labels": text["input_ids"].masked_fill(text["attention_mask"] == 0, -100), "visual": visual}


# What transformers' own processors make of the same


def test_images_are_what_the_models_image_processor_makes(student: QwenBackbone, folder: Path) -> None:
    images = pictures(student, 2)
    expected = AutoImageProcessor.from_pretrained(folder)(list(images), return_tensors="pt")
    visual = student.processor.visual(None, None, images)
    torch.testing.assert_close(visual["pixel_values"], expected["pixel_values"], rtol=0, atol=1e-6)
    assert torch.equal(visual["image_grid_thw"], expected["image_grid_thw"])


def test_each_frame_of_a_patch_is_what_the_image_processor_makes(student: QwenBackbone, folder: Path) -> None:
    """The tower's convolution reads a patch as (RGB, frame, y, x), and an image as the same frame twice."""
    frames, patch = pictures(student, 2, FRAMES), student.processor.patches.size
    visual = student.processor.visual(frames, seconds(2), None)
    values = visual["pixel_values_videos"].view(2, FRAMES // 2, -1, 3, 2, patch * patch)  # (clip, time, patch, RGB, frame, …)
    images = AutoImageProcessor.from_pretrained(folder)(list(frames.reshape(-1, *frames.shape[2:])), return_tensors="pt")
    expected = images["pixel_values"].view(2, FRAMES // 2, 2, -1, 3, 2, patch * patch)[..., 0, :]
    torch.testing.assert_close(values, expected.permute(0, 1, 3, 4, 2, 5), rtol=0, atol=1e-6)
    assert visual["video_grid_thw"].tolist() == [[3, 2 * GRID, 2 * GRID]] * 2


def test_a_last_frame_that_fills_no_patch_is_repeated(student: QwenBackbone) -> None:
    processor, frames = student.processor, pictures(student, 1, 3)
    odd = processor.visual(frames, seconds(1)[:, :3], None)
    even = processor.visual(frames[:, [0, 1, 2, 2]], seconds(1)[:, [0, 1, 2, 2]], None)
    assert torch.equal(odd["pixel_values_videos"], even["pixel_values_videos"])
    assert processor.video_ids(SECONDS[:3]) == processor.video_ids([*SECONDS[:3], SECONDS[2]])


def messages() -> list[dict[str, Any]]:
    user = [{"type": "image"}, {"type": "text", "text": "\n"}, {"type": "video"}, {"type": "text", "text": "\nWhat moves?"}]
    return [
        {"role": "system", "content": "Look."},
        {"role": "user", "content": user},
        {"role": "assistant", "content": [{"type": "text", "text": "A ball."}]},
    ]


def clock() -> VideoMetadata:
    return VideoMetadata(total_num_frames=FRAMES, fps=FPS, frames_indices=list(range(FRAMES)))


def text_processor(student: QwenBackbone, folder: Path) -> Any:
    """The model's processor without its video processor: transformers builds that only where torchvision is, and what is
    written in the text needs no more of it than the settings that the images' has too."""
    kind = Qwen3VLProcessor if "qwen3" in student.model.config.model_type else Qwen2_5_VLProcessor
    processor = kind.__new__(kind)
    processor.image_processor = processor.video_processor = AutoImageProcessor.from_pretrained(folder)
    processor.image_token, processor.video_token = "<|image_pad|>", "<|video_pad|>"
    processor.vision_start_token, processor.vision_end_token = "<|vision_start|>", "<|vision_end|>"
    return processor


def test_text_is_what_the_models_processor_writes(student: QwenBackbone, folder: Path) -> None:
    theirs, tokenizer = text_processor(student, folder), student.processor.tokenizer
    side = 2 * GRID
    image = theirs.replace_image_token({"image_grid_thw": torch.tensor([[1, side, side]])}, 0)
    shown = {"video_grid_thw": torch.tensor([[FRAMES // 2, side, side]]), "video_metadata": [clock()]}
    video = theirs.replace_video_token(shown, 0)
    text = tokenizer.apply_chat_template(messages(), tokenize=False)
    (text,), _ = theirs.get_text_with_replacements([text], [image], [video])
    assert tokenize(TURNS, student.processor, SECONDS)[0] == tokenizer(text, add_special_tokens=False).input_ids


def test_the_whole_pipeline_of_the_model_gives_the_same(student: QwenBackbone, folder: Path) -> None:
    pytest.importorskip("torchvision", reason="transformers' video processors need it")
    theirs = AutoProcessor.from_pretrained(folder)
    frames, image = pictures(student, 1, FRAMES), pictures(student, 1)
    expected = theirs(
        text=[theirs.apply_chat_template(messages(), tokenize=False)],
        images=[image[0]],
        videos=[frames[0]],
        video_metadata=[clock()],
        do_sample_frames=False,
        do_resize=False,
        return_tensors="pt",
    )
    ids = torch.tensor([tokenize(TURNS, student.processor, SECONDS)[0]])
    visual = student.processor.visual(frames, seconds(1), image)
    assert torch.equal(ids, expected["input_ids"])
    for name, value in visual.items():
        torch.testing.assert_close(value, torch.as_tensor(expected[name]), rtol=0, atol=1e-6)
    logits = student.model(**expected).logits
    torch.testing.assert_close(student(ids, torch.ones_like(ids), visual=visual).logits, logits)


# Time


def test_qwen25_counts_time_in_quarter_seconds() -> None:
    student = built("qwen2.5-vl")
    ids = torch.tensor([student.processor.video_ids(SECONDS)])
    visual = student.processor.visual(pictures(student, 1, FRAMES), seconds(1), None)
    metadata = clock()
    assert visual["second_per_grid_ts"].tolist() == [2 / metadata.sampled_fps]
    positions, _ = student.model.model.get_rope_index(
        ids, 2 * (ids == student.video_token_id).int(), video_grid_thw=visual["video_grid_thw"],
        second_per_grid_ts=visual["second_per_grid_ts"],
    )  # fmt: skip
    time = positions[0, 0, 1:-1].view(FRAMES // 2, GRID * GRID)  # after the mark where it begins
    assert (time == time[:, :1]).all()
    assert (time[:, 0] - 1).tolist() == [0, 4, 8]  # a pair of frames each second


def test_uneven_times_count_by_their_mean() -> None:
    student = built("qwen2.5-vl")
    uneven = np.array([[3.0, 3.5, 4.5, 6.0]])
    visual = student.processor.visual(pictures(student, 1, 4), uneven, None)
    assert visual["second_per_grid_ts"].tolist() == [2.0]


def test_qwen3_writes_the_mean_time_of_each_pair() -> None:
    processor = built("qwen3-vl").processor
    text = processor.tokenizer.decode(processor.video_ids([3.0, 3.5, 4.5, 6.0, 7.26]))
    tokens = "<|vision_start|>" + "<|video_pad|>" * GRID**2 + "<|vision_end|>"
    assert text == f"<|vision_start|><3.2 seconds>{tokens}<5.2 seconds>{tokens}<7.3 seconds>{tokens}<|vision_end|>"


def test_real_time_changes_what_the_model_sees(student: QwenBackbone) -> None:
    frames = pictures(student, 1, FRAMES)
    hidden = []
    for times in (seconds(1), 8 * seconds(1)):
        ids = torch.tensor([student.processor.video_ids(times[0])])
        hidden.append(student(ids, torch.ones_like(ids), visual=student.processor.visual(frames, times, None)).hidden)
    assert not torch.allclose(*hidden)


@pytest.mark.parametrize("name", NAMES)
def test_the_other_models_timestamps_are_refused(name: BackboneName) -> None:
    with pytest.raises(BadInput, match=f"`model.timestamps: before_projector` is 4D-RGPT's; {name} encodes real time"):
        built(name, timestamps="before_projector")
    built(name, timestamps="none")


# The seam


def test_hidden_are_the_last_states_at_the_video_tokens(student: QwenBackbone) -> None:
    given = batch(student)
    output = student(**given)
    assert output.hidden is not None
    assert output.hidden.shape == (2, FRAMES // 2, GRID, GRID, student.hidden_size)
    is_video = given["input_ids"] == student.video_token_id
    logits = student(**given | {"labels": None}).logits
    torch.testing.assert_close(student.model.lm_head(output.hidden.flatten(0, 3)), logits[is_video])


def test_a_batch_gives_what_its_samples_give_alone(student: QwenBackbone) -> None:
    given, processor = batch(student), student.processor
    logits = student(**given | {"labels": None}).logits
    frames, images = pictures(student, 2, FRAMES), pictures(student, 1)
    shown = [(frames[:1], seconds(1), None), (frames[1:], seconds(1), images), (None, None, None)]
    for row, visual in enumerate(shown):
        ids = given["input_ids"][row][given["attention_mask"][row].bool()][None]
        alone = student(ids, torch.ones_like(ids), visual=processor.visual(*visual)).logits
        torch.testing.assert_close(logits[row, : ids.shape[1]], alone[0], rtol=1e-4, atol=1e-5)


def test_the_loss_is_over_the_labels_that_are_counted(student: QwenBackbone) -> None:
    given = batch(student)
    labels = float((given["labels"][:, 1:] != -100).sum())
    torch.testing.assert_close(student(**given, label_count=4 * labels).loss, student(**given).loss / 4)
    own = {name: value for name, value in given.items() if name != "visual"} | student.model_inputs(
        given["input_ids"], given["visual"]
    )
    torch.testing.assert_close(student(**given).loss, student.model(**own).loss)


def test_the_parts_are_the_whole_model(student: QwenBackbone) -> None:
    parts = {name: {id(p) for p in part.parameters()} for name, part in student.parts().items()}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values()))
    assert set.union(*parts.values()) == {id(p) for p in student.parameters()}
    assert parts["projector"] == {id(p) for name, p in student.named_parameters() if "merger" in name}
    assert parts["vision_tower"] < {id(p) for p in student.model.model.visual.parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_by_default_all_but_the_tower_is_trained(name: BackboneName) -> None:
    student = built(name)
    output = student(**batch(student))
    assert output.hidden is not None
    (output.loss + output.hidden.sum()).backward()
    parts = student.parts()
    assert all(p.grad is None for p in parts["vision_tower"].parameters())
    assert all(p.grad is not None for part in ("projector", "llm") for p in parts[part].parameters())


def test_answers_to_padded_prompts_are_the_likeliest_tokens(student: QwenBackbone) -> None:
    """Two prompts of unlike length, the shorter padded, and each token checked against the prompt alone."""
    processor, frames = student.processor, pictures(student, 2, FRAMES)
    texts = ("<video>\nWhat?", "<video>\nWhat is it that moves here?")
    prompts = [prompt((turn("user", text),), processor, SECONDS) for text in texts]
    text = padded(prompts, int(processor.tokenizer.pad_token_id), left=True)
    answers = student.generate(**text, visual=processor.visual(frames, seconds(2), None), max_new_tokens=4)
    assert answers.shape == (2, 4)
    for row, answer in enumerate(answers):
        visual, ids = processor.visual(frames[row : row + 1], seconds(1), None), torch.tensor([prompts[row]])
        for token in answer:
            assert token == student(ids, torch.ones_like(ids), visual=visual).logits[0, -1].argmax()
            ids = torch.cat([ids, token.view(1, 1)], dim=1)
    alone = student.generate(torch.tensor([[5, 6]]), torch.ones(1, 2, dtype=torch.int64), max_new_tokens=2)
    assert alone.shape == (1, 2)  # text after a video


def test_the_processor_crosses_a_process_boundary(student: QwenBackbone) -> None:
    other: QwenProcessor = pickle.loads(pickle.dumps(student.processor))
    assert tokenize(TURNS, other, SECONDS) == tokenize(TURNS, student.processor, SECONDS)


# To disk and back


def test_transformers_alone_loads_what_is_saved(student: QwenBackbone, folder: Path) -> None:
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(loaded) is type(student.model)
    assert loaded.state_dict().keys() == student.model.state_dict().keys()
    given = batch(student)
    ids = given["input_ids"]
    types = torch.zeros_like(ids).masked_fill(ids == student.model.config.image_token_id, 1)
    types = types.masked_fill(ids == student.video_token_id, 2)
    logits = loaded(ids, given["attention_mask"], mm_token_type_ids=types, **given["visual"]).logits
    torch.testing.assert_close(logits, student(**given | {"labels": None}).logits, rtol=0, atol=0)
    assert not [path for path in folder.rglob("*") if path.suffix in {".py", ".bin", ".pt", ".pkl"}]
    assert not [path for path in folder.glob("*.json") if "auto_map" in path.read_text(encoding="utf-8")]


def test_what_is_saved_is_a_student_again(student: QwenBackbone, folder: Path, tmp_path: Path) -> None:
    again = load_student(folder)
    assert again.processor.image_size == student.processor.image_size
    given = batch(student)
    torch.testing.assert_close(again(**given).logits, student(**given).logits, rtol=0, atol=0)
    again.save(tmp_path)
    for name in {name for name in SETTINGS if (folder / name).exists()}:
        assert (tmp_path / name).read_text() == (folder / name).read_text()


def test_weights_load_in_half_the_bytes(student: QwenBackbone, folder: Path) -> None:
    half = load_student(folder, "bfloat16")
    output = half(**batch(student))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert output.hidden is not None
    assert output.hidden.dtype == torch.bfloat16
    torch.testing.assert_close(output.loss.float(), student(**batch(student)).loss, rtol=0.02, atol=0)


def test_without_weights_it_is_the_same_but_for_the_values(student: QwenBackbone, folder: Path) -> None:
    is_the_same_without_values(ModelConfig(backbone=BACKBONES[student.model.config.model_type], weights=str(folder)))


def test_a_folder_of_another_model_is_refused(student: QwenBackbone, folder: Path, tmp_path: Path) -> None:
    other: BackboneName = "qwen2.5-vl" if "qwen3" in student.model.config.model_type else "qwen3-vl"
    with pytest.raises(BadInput, match=f"holds a {student.model.config.model_type}; needed a qwen"):
        built(other, weights=str(folder))
    with pytest.raises(BadInput, match="holds no model"):
        built(other, weights=str(tmp_path))


def published(folder: Path, to: Path, settings: dict[str, Any], file: str) -> Path:
    """The checkpoint with its pixels' settings written another way."""
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    for name in SETTINGS:
        (to / name).unlink(missing_ok=True)
    (to / file).write_text(json.dumps(settings), encoding="utf-8")
    return to


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_published_settings_give_frames_of_about_384_pixels(
    student: QwenBackbone, folder: Path, tmp_path: Path, file: str
) -> None:
    image = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "min_pixels": 3136, "max_pixels": 12845056}
    both = {"image_processor": {**image, "image_mean": [0.0] * 3}, "video_processor": image}
    settings = both if file == "processor_config.json" else image
    loaded = load_student(published(folder, tmp_path, settings, file))
    processor = loaded.processor
    assert f"(16, 3, {processor.image_size}, {processor.image_size}," in loaded.example
    assert processor.image_size == {14: 392, 16: 384}[student.model.config.vision_config.patch_size]
    assert processor.video_ids([0.0, 1.0]).count(student.video_token_id) == {14: 196, 16: 144}[processor.patches.size]
    white = np.full((1, 2, processor.image_size, processor.image_size, 3), 255, dtype=np.uint8)
    values = processor.visual(white, np.array([[0.0, 1.0]]), None)["pixel_values_videos"].view(
        -1, 3, 2, processor.patches.size**2
    )
    torch.testing.assert_close(values[0, :, 0, 0], torch.tensor([0.6 / 0.2, 0.5 / 0.3, 0.4 / 0.4]))


def test_settings_that_say_too_little_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no 'image_mean' for its pixels; needed in one of processor_config\.json"):
        load_student(published(folder, tmp_path, {}, "preprocessor_config.json"))
