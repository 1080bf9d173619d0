"""TRAIN.yaml: which store teaches which student, by which losses; and what a finished fit reports."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from schemas.base import Frozen

Modality = Literal["depth", "flow", "motion", "camray"]
"""A signal that explicit distillation compares, decoded by the teacher's heads."""
Mode = Literal["heads", "latent", "direct", "sft"]
"""``heads``: the teacher's frozen heads decode the student's F4D, so LD and ED; ``latent``: LD alone, and nothing of the
teacher on the device; ``direct``: LD, and ED by light heads that are trained with the student, again without the teacher;
``sft``: nothing is distilled, for comparison."""
Reduction = Literal["frame_sum", "mean"]
"""``frame_sum``: mean within one time step, summed over time steps; ``mean``: mean over every element."""
DepthSpace = Literal["log", "linear"]
Precision = Literal["fp32", "bf16"]
Dtype = Literal["float32", "bfloat16"]
BackboneName = Literal["4d-rgpt", "qwen2.5-vl", "qwen3-vl"]


class LossRecipe(Frozen):
    """L = SFT + alpha · LD + beta · Σ_m weights[m] · ED_m, every term settled. 4D-RGPT, arXiv 2512.17012, section 3."""

    name: str
    alpha: float
    beta: float
    weights: dict[Modality, float]
    reduction: Reduction
    depth: DepthSpace
    """The space in which depths are compared."""
    depth_offset: float
    """Added to both depths before the logarithm."""
    mask_first_flow_frame: bool
    """Whether frame 0 is left out of the flow's loss: backward flow has no earlier frame to point to there."""


RECIPES: dict[str, LossRecipe] = {
    # The paper's equations sum over time steps. It does not say in which space depth is compared; the logarithm is
    # the released code's choice and the one that suits a depth known up to scale.
    "paper": LossRecipe(
        name="paper",
        alpha=0.5,
        beta=0.1,
        weights={"depth": 1.0, "flow": 0.1, "motion": 0.05, "camray": 0.05},
        reduction="frame_sum",
        depth="log",
        depth_offset=0.0,
        mask_first_flow_frame=True,
    ),
    # The public code of June 2026: torch's smooth_l1_loss with its default mean, log(depth + 1e-8), no separate beta.
    "released": LossRecipe(
        name="released",
        alpha=0.01,
        beta=1.0,
        weights={"depth": 0.1, "flow": 0.001, "motion": 0.01, "camray": 1e-5},
        reduction="mean",
        depth="log",
        depth_offset=1e-8,
        mask_first_flow_frame=True,
    ),
}


class LossConfig(Frozen):
    """A named recipe, and what to change in it. A field left out keeps the recipe's own value."""

    recipe: Literal["paper", "released"] = "paper"
    """``paper``: as the paper's equations have it; ``released``: as the public code of June 2026 has it."""
    alpha: float | None = Field(None, ge=0)
    """Weight of LD, the latent distillation."""
    beta: float | None = Field(None, ge=0)
    """Weight of ED, the explicit distillation, before the weights of its modalities."""
    weights: dict[Modality, float] = Field({})
    """Weight of each modality in ED; 0 leaves it out, and it is then neither read nor decoded."""
    reduction: Reduction | None = None
    """``frame_sum``: mean within one time step, summed over time steps; ``mean``: mean over every element."""
    depth: DepthSpace | None = None
    """The space in which depths are compared."""
    mask_first_flow_frame: bool = True
    """Neither the paper nor the released code masks that frame; ``false`` gives their habit."""

    @field_validator("weights")
    @classmethod
    def _not_negative(cls, weights: dict[Modality, float]) -> dict[Modality, float]:
        if negative := [name for name, weight in weights.items() if weight < 0]:
            raise ValueError(f"a weight cannot be negative: {', '.join(negative)}")
        return weights

    def resolved(self) -> LossRecipe:
        """The recipe with the changes applied."""
        base = RECIPES[self.recipe]
        changes = {
            name: value
            for name in ("alpha", "beta", "reduction", "depth", "mask_first_flow_frame")
            if (value := getattr(self, name)) is not None
        }
        return base.model_copy(update={**changes, "weights": {**base.weights, **self.weights}})


class DataConfig(Frozen):
    """The conversations to train on, and where their videos lie."""

    conversations: tuple[str, ...] = ()
    """Files in the LLaVA JSON conversation format; relative paths start from the current folder. With none, every
    committed clip of the store gets one built-in question and answer about its length, which the store's frame times
    alone can answer."""
    image_root: str | None = None
    """Folder or URL that the conversations' ``image`` paths start from."""
    video_root: str | None = None
    """Folder or URL that the conversations' ``video`` paths start from; without it, videos are read where the store's
    catalog says they are."""
    without_targets: Literal["stop", "drop", "sft"] = "stop"
    """What to do with a conversation whose clip the store does not hold, or holds as failed or pending. ``sft`` trains the
    language model on it without distilling, from frames spread over its video; those of failed clips are dropped."""
    frame_cache_mib: int = Field(512, ge=0)
    """MiB that the student's decoded frames may take in each data process; the least recently used clip goes first."""
    workers: int = Field(0, ge=0)
    """Processes that decode and read ahead; 0 does it between the steps."""

    @field_validator("conversations", mode="before", json_schema_input_type=str | tuple[str, ...])
    @classmethod
    def _one_file_is_a_list_of_one(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class ModelConfig(Frozen):
    """Which student to build."""

    backbone: BackboneName = "4d-rgpt"
    """``4d-rgpt``: SigLIP, a projector and Qwen2, as NVILA-Lite joins them; the others are transformers' own models."""
    weights: str | None = None
    """Folder of a checkpoint: NVILA-Lite's (``vision_tower``, ``mm_projector``, ``llm``), transformers', or one that a fit
    or an export wrote. Without it the ``preset`` is built from config, freshly initialised."""
    preset: Literal["tiny"] = "tiny"
    """The configuration of a student without weights: small enough for a CPU."""
    dtype: Dtype = "float32"
    """Of the weights as they are loaded and trained."""
    timestamps: Literal["before_projector", "after_projector", "none"] | None = None
    """Where 4D-RGPT adds the timestamp positional encoding: the paper's site (the default), or the one that the released
    README names. The Qwen models have their own encoding of real time."""
    freeze: tuple[Literal["vision_tower", "projector", "llm"], ...] = ("vision_tower",)
    """Parts that keep their weights; the paper tunes the projector and the language model."""


class DecoderConfig(Frozen):
    """The training-only perception decoder, from the language model's hidden states to F4D."""

    kind: Literal["mlp3", "linear"] = "mlp3"
    """``mlp3``: the paper's three-layer MLP; ``linear``: the released code's one linear layer for each hook."""
    hidden: int = Field(2560, ge=1)
    """Width of the MLP's hidden layers; ``linear`` has none."""


class LoraConfig(Frozen):
    """Low-rank adapters in the language model, trained in the place of its own weights. arXiv 2106.09685."""

    rank: int = Field(16, ge=1)
    """Rank of each adapter."""
    alpha: float = Field(32.0, gt=0)
    """What the adapters add is scaled by ``alpha / rank``."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is left out at each step."""
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), min_length=1
    )
    """Linear layers that get an adapter, by the last part of their names."""


class OptimConfig(Frozen):
    """The optimizer and its schedule. The defaults are the paper's fine-tuning of a pretrained student."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon``: Muon for the matrices of linear layers, which makes far more of few steps from random weights, and AdamW for
    all others; the rate is both's, as Muon's steps are scaled to AdamW's length."""
    learning_rate: float = Field(1e-5, gt=0)
    """The highest, at the end of the warm-up."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled from the gradient."""
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup: float = Field(0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises from 0."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients longer than this are scaled down to it; 0 leaves them as they are."""


class TrainConfig(Frozen):
    """One run of ``student-train fit``."""

    store: str = Field(min_length=1)
    """The store of cached targets: any fsspec URL or a local path."""
    fingerprint: str | None = Field(None, min_length=8)
    """Fingerprint of the recipe that the store must have, or how it begins; a store of another recipe is then refused."""
    output: str = Field(min_length=1)
    """Folder of the run: its losses, its result and its weights."""
    mode: Mode = "heads"
    """What is distilled, and by what: ``heads``: LD and ED through the teacher's frozen heads; ``latent``: LD alone;
    ``direct``: LD, and ED by light heads that are trained with the student; ``sft``: nothing, for comparison."""
    data: DataConfig = DataConfig()
    """The conversations to train on."""
    model: ModelConfig = ModelConfig()
    """The student."""
    decoder: DecoderConfig = DecoderConfig()
    """The perception decoder, which only training needs."""
    loss: LossConfig = LossConfig()
    """What the losses weigh."""
    optim: OptimConfig = OptimConfig()
    """The optimizer and its schedule."""
    steps: int = Field(100, ge=1)
    """Optimizer steps."""
    batch: int = Field(4, ge=1)
    """Conversations in one forward pass of one process."""
    accumulate: int = Field(1, ge=1)
    """Forward passes whose gradients make one optimizer step."""
    seed: int = Field(0, ge=0)
    """Of fresh weights, of the samples' order and of every random choice in training."""
    log_every: int = Field(1, ge=1)
    """Optimizer steps between two lines of ``metrics.jsonl``; a line holds the mean over those steps."""
    precision: Precision = "fp32"
    """``bf16``: products in bfloat16, by autocast; weights, gradients and losses stay in float32."""
    lora: LoraConfig | None = None
    """Train the language model by adapters, which are merged into it when the student is saved. Without: all its weights."""
    gradient_checkpointing: bool = False
    """Compute the language model's activations once more in the backward pass, in place of keeping them."""
    fsdp: Literal["full_shard"] | None = None
    """Shard weights, gradients and optimizer states over the processes. Without: each process holds them all (DDP)."""
    checkpoint_every: int = Field(0, ge=0)
    """Optimizer steps between two checkpoints, from which ``--resume`` goes on; 0 writes one only where the run is told to
    stop."""
    keep_checkpoints: int = Field(2, ge=1)
    """How many checkpoints stay; the oldest goes first."""

    @model_validator(mode="after")
    def _shards_of_one_type(self) -> Self:
        if self.fsdp is not None and self.model.dtype != "float32":
            raise ValueError("`fsdp` shards weights in float32: leave `model.dtype` out, and compute in `precision: bf16`")
        return self

    @model_validator(mode="after")
    def _whole_matrices(self) -> Self:
        if self.fsdp is not None and self.optim.optimizer == "muon":
            raise ValueError("Muon works on whole matrices, and `fsdp` shards them: leave one of the two out")
        return self

    @model_validator(mode="after")
    def _adapters_in_a_model_that_trains(self) -> Self:
        if self.lora is not None and "llm" in self.model.freeze:
            raise ValueError("`lora` trains the language model, and `model.freeze` keeps it as it is: leave `llm` out of it")
        return self

    @model_validator(mode="after")
    def _something_to_distil(self) -> Self:
        if self.mode == "sft":
            return self
        recipe = self.loss.resolved()
        explicit = self.mode != "latent" and recipe.beta > 0 and any(recipe.weights.values())
        if recipe.alpha == 0 and not explicit:
            raise ValueError(
                "nothing would be distilled: `loss.alpha` is 0 and no modality has a weight in this mode; "
                "`mode: sft` trains without distilling"
            )
        return self


class SmoothedLosses(Frozen):
    """Losses as means over some lines of ``metrics.jsonl``."""

    from_step: int
    to_step: int
    losses: dict[str, float]
    """``loss``, the weighted total; ``sft``, ``ld``, ``ed_depth``, …, each unweighted."""


class FitReport(Frozen):
    """A finished fit, as ``result.json`` holds it and ``--json`` prints it."""

    output: str
    store: str
    fingerprint: str
    """Of the recipe that the store was written under."""
    mode: Mode
    loss: LossRecipe
    steps: int
    samples: int
    """Conversations trained on."""
    clips: int
    """Clips whose targets they use."""
    dropped: int
    """Conversations left out because the store has no targets for them."""
    processes: int
    """Processes that trained it together."""
    first: SmoothedLosses
    last: SmoothedLosses
    parameters: dict[str, int]
    """How many parameters each part has: those of the student, and those that only training needs."""
    trained_parameters: int
    seconds: float
    """Wall time of the training loop; of a resumed run, with what led to its checkpoint."""
    data_wait_seconds: float
    """How much of it passed waiting for a batch, in the process that waited longest."""


class ExportReport(Frozen):
    """A student written for use, without what only its training needed."""

    out: str
    backbone: BackboneName
    store: str
    """Whose targets it was trained on."""
    fingerprint: str
    tensors: int
    parameters: int
    bytes: int
    """Of all files together."""
