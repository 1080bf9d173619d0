"""Distil a store's targets into a small video model of your own, in a plain PyTorch loop.

    python examples/train_your_own_loop.py STORE VIDEOS --epochs 10

STORE is one that holds f4d, such as examples/precompute_folder.py writes, of videos under the folder or URL VIDEOS. The model
here cuts frames into patches and runs a transformer layer over them; its own task is to tell which video it sees. Distillation
adds three things to such a loop: `TargetCollator` puts each clip's targets into the batch, `P4D` turns hidden states into
losses, and its parameters are trained with the model's. Neither Ray nor transformers is loaded. Needs `pip install '.[teach]'`.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, default_collate

from schemas.train import DecoderConfig
from student_train import P4D, TargetCollator
from teacher_cache import open_cache
from teacher_cache.clips.decoder import DECODE_TIMEOUT_SECONDS, Decoder
from teacher_cache.clips.preprocess import FrameSize
from teacher_cache.io.places import Roots

GRID = (8, 7, 7)  # video tokens of a clip along (time, y, x); any grid will do, P4D resamples it to the teacher's
SIZE, WIDTH = 112, 64


class VideoModel(nn.Module):
    """Frames in; hidden states at the video tokens, and a score for each video, out."""

    def __init__(self, videos: int) -> None:
        super().__init__()
        self.embed = nn.Conv3d(3, WIDTH, kernel_size=(2, 16, 16), stride=(2, 16, 16))
        self.place = nn.Parameter(torch.randn(8 * 7 * 7, WIDTH) / 8)
        self.layer = nn.TransformerEncoderLayer(WIDTH, nhead=4, dim_feedforward=2 * WIDTH, dropout=0, batch_first=True)
        self.score = nn.Linear(WIDTH, videos)

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``frames``: float (clip, RGB, frame 16, y, x). Returns (clip, time, y, x, hidden) and (clip, video)."""
        tokens = self.layer(self.embed(frames).flatten(2).mT + self.place)
        return tokens.unflatten(1, GRID), self.score(tokens.mean(dim=1))


def main() -> None:
    parser = argparse.ArgumentParser(description="Distil a store into a model of your own.")
    parser.add_argument("store", help="a local path or a URL")
    parser.add_argument("videos", help="where videos may be read from, whatever the store says")
    parser.add_argument("--epochs", type=int, default=10)
    options, _ = parser.parse_args(), torch.manual_seed(0)
    cache, samples = open_cache(options.store), []
    with Decoder(None, DECODE_TIMEOUT_SECONDS) as decoder:  # a process of its own: videos may be hostile
        for label, clip_id in enumerate(cache.committed_ids()):
            frame_index = cache.read(["frame_index"], [clip_id])["frame_index"][0]  # the frames that the teacher saw
            video = Roots((options.videos,), "VIDEOS").find(cache.clip(clip_id).video)
            pixels = torch.tensor(decoder.frames(video, frame_index, FrameSize(SIZE)).frames) / 127.5 - 1  # (frame, y, x, RGB)
            samples.append({"clip_id": clip_id, "frames": pixels.permute(3, 0, 1, 2), "label": label})

    model = VideoModel(len(samples))
    p4d = P4D.for_store(cache, WIDTH, decoder=DecoderConfig(hidden=256))  # and the teacher's frozen heads
    optimizer = torch.optim.AdamW([*model.parameters(), *p4d.parameters()], lr=1e-3)
    collate = TargetCollator(default_collate, cache, p4d.signals)  # a sample's "clip_id" names its clip
    loader = DataLoader(samples, batch_size=2, shuffle=True, collate_fn=collate)

    for epoch in range(options.epochs):
        for batch in loader:
            hidden, scores = model(batch["frames"])
            own = nn.functional.cross_entropy(scores, batch["label"])
            distilled = p4d(hidden, batch["targets"], batch["valid"])
            loss = own + distilled.total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            parts = ", ".join(f"{name} {value:.3f}" for name, value in distilled.parts.items())
            print(f"epoch {epoch}: loss {loss:.3f}, own {own:.3f}, {parts}")


if __name__ == "__main__":
    main()
