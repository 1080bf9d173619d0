"""The memory that is reckoned for a step is the memory that a step of that size takes here."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2Config, Qwen2Model, SiglipVisionConfig

from schemas.train import LoraConfig
from student_train.distill.perception import Mlp3Decoder
from student_train.models.lora import add_adapters
from student_train.models.rgpt import FourDRgptConfig, FourDRgptForConditionalGeneration
from student_train.training.memory import Batch, kept_by_layers, reckon
from teacher_cache.teachers.heads.frozen import decode_raw
from teacher_cache.teachers.l4p.config import PRESETS
from teacher_cache.teachers.l4p.network import L4P


def qwen(layers: int, width: int = 128) -> Qwen2Model:
    return Qwen2Model(
        Qwen2Config(
            hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=50, pad_token_id=0,
        )
    )  # fmt: skip


def held_after_forward(model: Qwen2Model, batch: Batch, *, bf16: bool) -> int:
    """Bytes that a forward pass allocates and does not free: torch's allocator says."""
    embedded = torch.zeros(batch.samples, batch.tokens, model.config.hidden_size, requires_grad=True)
    with (
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found,
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        held = model(inputs_embeds=embedded, use_cache=False)
    assert held.last_hidden_state.requires_grad
    return sum(event.self_cpu_memory_usage for event in found.key_averages())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(("tokens", "width"), [(333, 128), (700, 64)])
def test_layers_keep_what_is_reckoned(tokens: int, width: int, bf16: bool) -> None:
    batch = Batch(2, tokens, 0)
    more, few = qwen(5, width), qwen(2, width)
    kept, inputs = kept_by_layers(more, more.layers, batch, bf16=bf16)
    assert inputs == [2 * tokens * width * 4] * 5
    assert len(set(kept[1:])) == 1  # the first one keeps the rotations for all
    # Two models, so that what is outside the layers is out of it; autocast keeps copies of weights, which are counted apart.
    measured = held_after_forward(more, batch, bf16=bf16) - held_after_forward(few, batch, bf16=bf16)
    copies = 2 * sum(p.numel() for layer in more.layers[2:] for p in layer.parameters() if p.dim() == 2) if bf16 else 0
    assert sum(kept[2:]) == pytest.approx(measured - copies, rel=0.05)


def test_weights_gradients_and_moments_are_what_a_step_leaves() -> None:
    model = qwen(2)
    model.layers[0].requires_grad_(requires_grad=False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model(inputs_embeds=torch.zeros(1, 8, 128)).last_hidden_state.sum().backward()
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.grad is None:  # the table of words, which no one looked into
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    batch = Batch(1, 8, 3)
    found = reckon(model, model, model.layers, batch, shards=None, bf16=False)
    bytes_of = lambda tensors: sum(t.numel() * t.element_size() for t in tensors)  # noqa: E731
    assert found.weights == bytes_of(model.parameters())
    assert found.gradients == bytes_of(p.grad for p in model.parameters() if p.grad is not None)
    assert found.moments == bytes_of(v for s in optimizer.state.values() for name, v in s.items() if name != "step")
    assert (found.logits, found.gathered, found.copies, found.recomputed) == (3 * 50 * 12, 0, 0, 0)
    shared = reckon(model, model, model.layers, batch, shards=4, bf16=True)
    assert shared.moments == pytest.approx(found.moments / 4, rel=1e-3)
    assert shared.weights == pytest.approx(found.weights / 4, rel=1e-3)
    layer = sum(p.numel() for p in model.layers[0].parameters())
    assert shared.gathered == 4 * (50 * 128 + 128) + 2 * 2 * layer
    model.activation_checkpointing_enable()
    again = reckon(model, model, model.layers, batch, shards=4, bf16=True)
    assert again.activations == (8 * 128 * 4,) * 2
    assert again.recomputed == max(shared.activations)
    assert again.total < shared.total


def nvila_8b(*, lora: bool, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """NVILA-Lite-8B at 448 pixels with the paper's decoder, for L4P at its published size, without values."""
    config = FourDRgptConfig(
        SiglipVisionConfig(
            hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16, image_size=448,
            patch_size=14, vision_use_head=False,
        ),
        Qwen2Config(
            hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
            vocab_size=152064, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
        ),
        downsample=3, projector_layers=[10368, 3456, "gelu", "norm", 3584], separator="\n",
    )  # fmt: skip
    with torch.device("meta"):
        student = FourDRgptForConditionalGeneration(config).to(dtype)
        decoder = Mlp3Decoder(3584, (4, 8, 16, 16, 1408))
        student.vision_tower.requires_grad_(requires_grad=False)
        if lora:
            student.projector.requires_grad_(requires_grad=False)
            add_adapters(student.llm, LoraConfig(rank=16))
    return nn.ModuleList([student, decoder]), student.llm.model


def giant_heads() -> list[Any]:
    """For each map, a function that decodes one clip by the published teacher's head, in bfloat16."""
    with FakeTensorMode():
        heads = L4P(PRESETS["giant"]).requires_grad_(requires_grad=False).heads

    def decode(signal: str) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return decode_raw(heads, torch.zeros(1, 4, 8, 16, 16, 1408, requires_grad=True), [signal])

    return [partial(decode, signal) for signal in heads]


ROWS: dict[str, dict[str, Any]] = {
    "DDP": {"shards": None},
    "DDP, LoRA of rank 16, `dtype: bfloat16`": {"shards": None, "lora": True},
    "the same, `gradient_checkpointing`": {"shards": None, "lora": True, "recomputes": True},
    "`fsdp`": {"shards": 8},
    "`fsdp`, `gradient_checkpointing`": {"shards": 8, "recomputes": True},
    "`fsdp`, `gradient_checkpointing`, batch of 1": {"shards": 8, "recomputes": True, "samples": 1},
}


def test_the_page_says_what_fits() -> None:
    """Its table is what is reckoned, to a tenth of a GiB."""
    page = (Path(__file__).parents[3] / "docs" / "explanation" / "memory.md").read_text(encoding="utf-8")
    decode = giant_heads()
    for name, how in ROWS.items():
        lora = how.get("lora", False)
        model, llm = nvila_8b(lora=lora, dtype=torch.bfloat16 if lora else torch.float32)
        if how.get("recomputes"):
            llm.activation_checkpointing_enable()
        samples = how.get("samples", 4)
        found = reckon(
            model, llm, llm.layers, Batch(samples, 2100, 40 * samples), shards=how["shards"], bf16=True, decode=decode
        )
        layer = found.activations[-1]
        parts = (
            found.weights, found.gradients + found.moments, found.gathered + found.copies, layer, sum(found.activations),
            found.recomputed, found.logits, found.heads, found.total,
        )  # fmt: skip
        row = f"| {name} | " + " | ".join(f"{size / 2**30:.1f}" for size in parts) + " |"
        assert row in page
