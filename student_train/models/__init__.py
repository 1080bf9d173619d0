"""The students: 4D-RGPT and Qwen-VL backbones, their projectors, adapters and tokenizers."""
