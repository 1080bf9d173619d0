"""A seed in; a folder of tiny, random Grounding DINO and SAM 2 out, or of SAM 3: the classes that phrases are asked of."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertTokenizerFast,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam3VideoConfig,
    Sam3VideoModel,
    SwinConfig,
)
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

WORDS = ("a", "cup", "dog", "red", "ball", "box", "blue", "green", "unicorn", ".")
_SIDE, _PICTURE = 64, 128


def write_models(folder: Path, *, seed: int = 0, mm: bool = False) -> Path:
    """Write both models below the folder, some megabytes."""
    torch.manual_seed(seed)
    _write_grounding(folder / "grounding", mm=mm)
    _write_segmenter(folder / "segmenter")
    return folder


def _write_grounding(folder: Path, *, mm: bool) -> None:
    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "?", *WORDS]
    (folder / "words.txt").write_text("\n".join(words))
    text = BertConfig(vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    backbone = SwinConfig(
        image_size=_PICTURE, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 4], window_size=4, out_indices=[2, 3, 4]
    )
    settings = {
        "backbone_config": backbone, "text_config": text, "d_model": 32, "num_queries": 12, "encoder_layers": 1,
        "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "max_text_len": 32, "num_feature_levels": 4, "disable_custom_kernels": True,
    }  # fmt: skip
    kinds = (
        (MMGroundingDinoConfig, MMGroundingDinoForObjectDetection)
        if mm
        else (GroundingDinoConfig, GroundingDinoForObjectDetection)
    )
    kinds[1](kinds[0](**settings)).save_pretrained(folder)
    BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    GroundingDinoImageProcessorPil(size={"shortest_edge": _PICTURE, "longest_edge": _PICTURE}).save_pretrained(folder)


def _write_segmenter(folder: Path) -> None:
    vision = {
        "model_type": "sam2_vision_model", "fpn_hidden_size": 128, "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[_SIDE // 4] * 2, [_SIDE // 8] * 2, [_SIDE // 16] * 2],
        "backbone_config": {
            "model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [_SIDE, _SIDE],
            "blocks_per_stage": [1, 2, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
            "num_attention_heads_per_stage": [1, 1, 2, 2],
            "window_size_per_stage": [4, 4, 4, 4], "global_attention_blocks": [4],
            "window_positional_embedding_background_size": [4, 4],
        },
    }  # fmt: skip
    config = Sam2VideoConfig(
        vision_config=vision, image_size=_SIDE,
        prompt_encoder_config={"hidden_size": 128, "image_size": _SIDE, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 128, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
        memory_attention_hidden_size=128, memory_attention_num_layers=1, memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[_SIDE // 16] * 2, memory_encoder_hidden_size=128, memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128, memory_fuser_embed_dim=128, memory_fuser_intermediate_dim=64,
    )  # fmt: skip
    Sam2VideoModel(config).save_pretrained(folder)


def write_sam3(folder: Path, *, seed: int = 0) -> Path:
    """Write a SAM 3, some megabytes, with a tokenizer of `WORDS`."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "?", *WORDS]
    side, width = 112, 128
    grid = side // 14
    layer = {"hidden_size": width, "num_attention_heads": 2}
    small = layer | {"num_layers": 1, "intermediate_size": 64}
    vision = {
        "model_type": "sam3_vision_model", "fpn_hidden_size": width,
        "backbone_feature_sizes": [[grid * 4] * 2, [grid * 2] * 2, [grid] * 2],
        "backbone_config": layer | {
            "model_type": "sam3_vit_model", "intermediate_size": 64, "num_hidden_layers": 2, "image_size": side,
            "patch_size": 14, "window_size": 4, "global_attn_indexes": [1], "pretrain_image_size": side,
        },
    }  # fmt: skip
    text = layer | {
        "model_type": "clip_text_model", "vocab_size": len(words), "intermediate_size": 64, "projection_dim": width,
        "num_hidden_layers": 1, "max_position_embeddings": 32, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0,
    }  # fmt: skip
    detector = {
        "model_type": "sam3", "vision_config": vision, "text_config": text, "geometry_encoder_config": small,
        "detr_encoder_config": small, "detr_decoder_config": small | {"num_queries": 8}, "mask_decoder_config": layer,
    }  # fmt: skip
    tracker = {
        "model_type": "sam3_tracker_video", "vision_config": vision, "image_size": side,
        "prompt_encoder_config": {"hidden_size": width, "image_size": side, "patch_size": 14, "mask_input_channels": 4},
        "mask_decoder_config": {
            "hidden_size": width, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        },
        "memory_attention_hidden_size": width, "memory_attention_num_layers": 1, "mask_downsampler_embed_dim": width,
        "memory_attention_feed_forward_hidden_size": 32, "memory_attention_rope_feat_sizes": [grid, grid],
        "memory_encoder_hidden_size": width, "memory_encoder_output_channels": 64, "memory_fuser_embed_dim": width,
        "memory_fuser_intermediate_dim": 32,
    }  # fmt: skip
    config = Sam3VideoConfig(detector_config=detector, tracker_config=tracker, low_res_mask_size=grid * 4)
    Sam3VideoModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    return folder
