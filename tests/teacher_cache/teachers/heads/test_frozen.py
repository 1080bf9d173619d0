"""Frozen heads travel as a file and a card, and come back as they were, or not at all."""

from __future__ import annotations

import subprocess
import sys

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from schemas.base import sha256_digest
from schemas.errors import BadInput, SignalMissing, StoreDamaged
from schemas.heads import DPTHeadConfig, HeadsCard
from teacher_cache.teachers.heads.dpt import DPTHead
from teacher_cache.teachers.heads.frozen import FrozenHeads, load_heads, save_heads, to_physical


def make_heads() -> dict[str, DPTHead]:
    torch.manual_seed(0)

    def make(grid, outputs):
        return DPTHead(
            DPTHeadConfig(embed_dim=12, feature_dim=6, last_dim=4, layer_dims=(3, 4, 5, 6), grid=grid, outputs=outputs)
        )

    return {
        "depth": make("pixels", ("log_depth",)),
        "flow": make("pixels", ("u", "v")),
        "camray": make("tokens", tuple("dddmmm")),
    }


def export(heads=None, dtype="float32") -> tuple[bytes, bytes]:
    return save_heads(heads or make_heads(), family="l4p", dtype=dtype, f4d=(4, 8, 2, 2, 12), image_size=28, frames=16)


F4D = torch.linspace(-1, 1, 2 * 4 * 8 * 2 * 2 * 12).sin().view(2, 4, 8, 2, 2, 12)


def test_heads_come_back_as_they_were():
    heads = make_heads()
    file, card = export(heads)
    loaded = load_heads(file, card)
    raw = loaded.raw(F4D, list(heads))
    assert set(raw) == set(heads)
    with torch.no_grad():
        assert all(torch.equal(x, heads[signal](F4D)) for signal, x in raw.items())


def test_heads_load_from_a_path_and_a_parsed_card(tmp_path):
    file, card = export()
    (tmp_path / "heads.safetensors").write_bytes(file)
    parsed = HeadsCard.model_validate_json(card)
    from_path = load_heads(tmp_path / "heads.safetensors", parsed)
    assert torch.equal(from_path.raw(F4D, ["depth"])["depth"], load_heads(file, card).raw(F4D, ["depth"])["depth"])
    assert from_path.card == parsed


def test_the_export_is_the_same_bytes_every_time():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_frozen, hashlib; "
        "print(*(hashlib.sha256(part).hexdigest() for part in test_frozen.export()))"
    )
    folder = __file__.rpartition("/")[0]
    runs = {
        subprocess.run([sys.executable, "-c", script, folder], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert len(runs) == 1
    assert export() == export()


def test_each_tensor_is_stored_once(tmp_path):
    (tmp_path / "heads.safetensors").write_bytes(export()[0])
    with safe_open(tmp_path / "heads.safetensors", framework="pt") as file:
        names = set(file.keys())
        assert len(file.metadata()) == 1
    assert "depth.scratch.layer1_rn.weight" in names
    assert not any("layer_rn" in name for name in names)


def test_the_card_tells_everything_needed():
    file, card = export(dtype="bfloat16")
    parsed = HeadsCard.model_validate_json(card)
    assert parsed.weights == sha256_digest(file)
    assert (parsed.family, parsed.dtype, parsed.f4d, parsed.image_size, parsed.frames) == (
        "l4p",
        "bfloat16",
        (4, 8, 2, 2, 12),
        28,
        16,
    )
    assert parsed.heads["flow"].outputs == ("u", "v")


def test_gradients_flow_through_frozen_weights():
    heads = load_heads(*export())
    f4d = F4D.clone().requires_grad_()
    raw = heads.raw(f4d, ["depth", "camray"])
    sum(x.square().mean() for x in raw.values()).backward()
    assert f4d.grad.isfinite().all()
    assert (f4d.grad.abs().amax(dim=(2, 3, 4, 5)) > 0).all()
    assert not any(p.requires_grad or p.grad is not None for p in heads.parameters())


def test_the_cards_precision_holds_whatever_the_caller_runs_in():
    heads = load_heads(*export())
    alone = heads.raw(F4D, ["flow"])["flow"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(heads.raw(F4D, ["flow"])["flow"], alone)
    heads.precision = "bfloat16"
    rounded = heads.raw(F4D, ["flow"])["flow"]
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - alone).abs().max() < 0.05


def test_depth_becomes_physical_by_the_exponential():
    raw = {"depth": torch.tensor([0.0, 1.0]), "flow": torch.tensor([2.0])}
    physical = to_physical(raw)
    assert torch.equal(physical["depth"], raw["depth"].exp())
    assert physical["flow"] is raw["flow"]


def test_only_what_is_there_can_be_asked_for():
    heads = load_heads(*export())
    with pytest.raises(SignalMissing, match="no head gives motion; the heads here give camray, depth, flow"):
        heads.raw(F4D, ["motion", "depth"])
    with pytest.raises(BadInput, match=r"features of shape \(batch, 4, 8, 2, 2, 12\), got \(2, 8, 2, 2, 12\)"):
        heads.raw(F4D[:, 0], ["depth"])


def test_a_file_that_is_not_the_cards_is_refused():
    file, card = export()
    with pytest.raises(StoreDamaged, match=r"digest sha256:\w+, its card says sha256:\w+"):
        load_heads(file[:-1] + b"\x00", card)
    with pytest.raises(StoreDamaged, match="the file is damaged or belongs to other heads"):
        load_heads(file[:-40], card)


def test_a_file_that_does_not_fit_its_card_is_named():
    file, card = export()
    tensors = safetensors.torch.load(file)
    del tensors["depth.head1.0.bias"]
    tensors["depth.head3.bias"] = torch.zeros(1)
    tensors["flow.head2.2.bias"] = torch.zeros(5)
    other = safetensors.torch.save(tensors)
    forged = HeadsCard.model_validate_json(card).model_copy(update={"weights": sha256_digest(other)})
    with pytest.raises(StoreDamaged) as error:
        load_heads(other, forged)
    assert "1 missing: depth.head1.0.bias" in str(error.value)
    assert "1 unexpected: depth.head3.bias" in str(error.value)
    assert "1 of the wrong shape: flow.head2.2.bias (needs [2], found [5])" in str(error.value)


def test_files_of_another_kind_are_refused(tmp_path):
    file, card = export()
    junk = b"not safetensors at all"
    forged = HeadsCard.model_validate_json(card).model_copy(update={"weights": sha256_digest(junk)})
    with pytest.raises(StoreDamaged, match="not a safetensors file"):
        load_heads(junk, forged)
    with pytest.raises(StoreDamaged, match="not a card of frozen heads"):
        load_heads(file, b'{"family": "l4p"}')
    with pytest.raises(BadInput, match=r"cannot read the heads file .*none"):
        load_heads(tmp_path / "none", card)


def test_heads_can_move_to_half_precision_by_hand():
    heads = FrozenHeads(HeadsCard.model_validate_json(export(dtype="bfloat16")[1])).to(torch.bfloat16)
    assert heads.raw(F4D.bfloat16(), ["depth"])["depth"].dtype == torch.float32


def test_a_trainer_needs_no_teacher_to_load_heads():
    script = "import sys, teacher_cache.teachers.heads.frozen; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert [name for name in loaded if name.startswith("teacher_cache.teachers.") and ".heads" not in name] == []
    heavy = ("ray", "transformers", "av", "decord", "zarr", "pyarrow")
    assert not [name for name in loaded if name.startswith(heavy)]
