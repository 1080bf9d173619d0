"""TRAIN.yaml: which store teaches which student, with which losses; and what a finished fit reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from schemas.base import Frozen
from schemas.mixture import Mixture

Modality = Literal["depth", "flow", "motion", "camray"]
"""A signal that explicit distillation (ED) compares."""
Mode = Literal["heads", "latent", "direct", "sft"]
"""``heads``: LD, and ED with the teacher's frozen heads, which decode the student's F4D; ``latent``: LD alone, with nothing of
the teacher on the device; ``direct``: LD, and ED with light heads that are trained with the student, without the teacher's;
``sft``: nothing is distilled, for comparison."""
Reduction = Literal["frame_sum", "mean"]
"""``frame_sum``: mean within one time step, summed over time steps; ``mean``: mean over every element."""
DepthSpace = Literal["log", "linear"]
"""Whether ED compares logarithms of depth or depths."""
Precision = Literal["fp32", "bf16"]
Dtype = Literal["float32", "bfloat16"]
Separator = Literal["newline", "none"]
Attention = Literal["sdpa", "flash_attention_2", "eager"]
Reporter = Literal["tensorboard", "wandb", "trackio", "mlflow"]
BackboneName = Literal["4d-rgpt", "qwen2.5-vl", "qwen3-vl", "image-text-to-text"]


RecipeName = Literal["paper", "released"]


class LossRecipe(Frozen):
    """L = SFT + alpha · LD + beta · Σ_m weights[m] · ED_m, with every choice resolved. 4D-RGPT, arXiv 2512.17012, section 3."""

    name: str
    """The recipe that it started from."""
    alpha: float
    """Weight of LD, the latent distillation."""
    beta: float
    """Weight of ED, the explicit distillation."""
    weights: dict[Modality, float]
    """Modality → its weight in ED."""
    reduction: Reduction
    """How elements are averaged: `Reduction`."""
    depth: DepthSpace
    """The space in which depths are compared."""
    depth_offset: float
    """Added to both depths before the logarithm."""
    mask_first_flow_frame: bool
    """Whether frame 0 is left out of the flow loss: its backward flow has no earlier frame to point to."""


RECIPES: dict[str, LossRecipe] = {
    # The paper's equations sum over time steps. The paper does not say in which space depth is compared; the logarithm is the
    # released code's choice, and suits a depth known up to scale.
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
        mask_first_flow_frame=False,
    ),
}


PRESETS: dict[RecipeName, dict[str, Any]] = {
    "paper": {"epochs": 5},
    "released": {
        "epochs": 10,
        "loss": {"recipe": "released"},
        "decoder": {"kind": "linear"},
        "model": {"freeze": ("vision_tower", "projector")},
    },
}
"""What a recipe says of a run where it differs from the fields' own defaults. The released code's script passes no flag for the
timestamp encoding that its README tells of; here it stays on."""


def _merged(preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given values, and the preset's where none is given, at any depth."""
    found: dict[str, Any] = {**preset, **given}
    for name in preset.keys() & given.keys():
        value = given[name].model_dump(exclude_unset=True) if isinstance(given[name], BaseModel) else given[name]
        if isinstance(preset[name], Mapping) and isinstance(value, Mapping):
            found[name] = _merged(preset[name], value)
    return found


class ConfidenceConfig(Frozen):
    """Weigh each pixel of ED by the agreement of two teachers: 1 where they agree, 1/2 where they are a tolerance apart."""

    store: str = Field(min_length=1)
    """Another teacher's store of the same clips, with maps of the same size."""
    version: int | None = Field(None, ge=0)
    """The version of it to read; the newest when absent. A resumed run keeps the version that it began with."""
    tolerance: dict[Modality, Annotated[float, Field(gt=0)]] = Field({})
    """How far apart teachers have half the weight. When absent: ``depth`` 0.1, in logarithms after one scale for the clip;
    ``flow`` 1, in pixels; ``motion`` 0.25, in probability; ``camray`` 0.1, in radians between directions. A modality that the
    other store lacks is not weighted."""

    def tolerances(self) -> dict[Modality, float]:
        """Modality → its tolerance."""
        return {"depth": 0.1, "flow": 1.0, "motion": 0.25, "camray": 0.1, **self.tolerance}


class RegionLossConfig(Frozen):
    """Weigh each pixel of ED by where it lies: 1 in the background, other weights inside of objects and at their edges."""

    inside: float = Field(1, ge=0, allow_inf_nan=False)
    """Weight of a pixel of an object."""
    edge: float = Field(1, ge=0, allow_inf_nan=False)
    """Weight of a pixel near a border between two objects, or an object and the background, on both sides."""
    edge_pixels: int = Field(2, ge=1, le=64)
    """How near, in pixels of the maps."""


class RegionsConfig(Frozen):
    """A store of the objects of the same clips: to draw marks from, and to weigh pixels by (``loss.regions``)."""

    store: str = Field(min_length=1)
    """The store, of a teacher such as ``grounded-sam`` or ``given``, with label maps of the size of the maps."""
    version: int | None = Field(None, ge=0)
    """The version of it to read; the newest when absent. A resumed run keeps the version that it began with."""
    marks: Literal["none", "first", "all"] = "first"
    """Where the student sees marks, in conversations that ask about ``<obj_k>``: nowhere, in the clip's first frame, as the
    paper's Set-of-Mark, or in every frame that shows the object."""


class LossConfig(Frozen):
    """A named recipe, and changes to it. A field that is left out keeps the recipe's value."""

    recipe: RecipeName = "paper"
    """``paper``: the paper's equations; ``released``: the public code of June 2026. The run's own ``recipe`` when absent."""
    alpha: float | None = Field(None, ge=0)
    """Weight of LD, the latent distillation."""
    beta: float | None = Field(None, ge=0)
    """Weight of ED, the explicit distillation, multiplied by the weight of each modality."""
    weights: dict[Modality, float] = Field({})
    """Weight of each modality in ED; one with 0 is neither read nor decoded."""
    reduction: Reduction | None = None
    """``frame_sum``: mean within one time step, summed over time steps; ``mean``: mean over every element."""
    depth: DepthSpace | None = None
    """The space in which depths are compared."""
    mask_first_flow_frame: bool | None = None
    """Whether frame 0 is left out of the flow loss: its backward flow has no earlier frame to point to. ``paper`` leaves it out
    here, of which the paper says nothing; ``released`` does not, as the released code."""
    confidence: ConfidenceConfig | None = None
    """Weigh the pixels of ED by another teacher's agreement. Without it, as in the paper, every pixel has the same weight."""

    regions: RegionLossConfig | None = None
    """Weigh the pixels of ED by the objects of the run's ``regions``. With ``confidence`` too, weights are multiplied."""

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
    """The conversations to train on, and where their videos are."""

    conversations: tuple[str, ...] = ()
    """Files in the LLaVA JSON conversation format, of chat ``messages``, or of questions with answers; ``qa_*.json`` names
    several. Relative paths start from the current folder. Without any, and without a ``mixture``, every committed clip of the
    store gets one built-in question about its length, answered from the store's frame times."""
    mixture: Mixture | str | None = None
    """Several sets of conversations in the place of ``conversations``, each with its folders, weight and count: the sets
    themselves, or a YAML file of them, which the ``videos.mixture`` of a job may name too."""
    image_root: tuple[str, ...] = ()
    """The folders or URLs that images may be read from, and none from anywhere else; a relative ``image`` path starts from the
    first."""
    video_root: tuple[str, ...] = ()
    """The folders or URLs that videos may be read from, and none from anywhere else: conversations and stores name any place.
    A relative ``video`` path starts from the first; samples without one read the uri in the store's catalog."""
    without_targets: Literal["stop", "drop", "sft"] = "stop"
    """What to do with a conversation whose clip is not in the store, or is failed or pending there. ``stop``: refuse to train;
    ``drop``: leave it out; ``sft``: train on it without distillation, with frames spread over its video, but drop it if its
    clip failed."""
    frames: Literal["store", "videos"] | None = None
    """Where the frames of clips with targets come from. ``store``: its signal ``frames``, so that no video is opened; refused
    if it has none of the student's size. ``videos``: decoded. When absent, the store's if it has them, and else videos'."""
    flipped_share: float = Field(0, ge=0, le=1)
    """The share of the conversations with targets that show their clip with left and right swapped, chosen by ``seed``; the
    store was taught so with ``clips.views: [plain, flipped]``. Conversations that speak of left, right, clockwise, o'clock,
    mirror, east or west (NE, SW), in English, also inside of words, are not among them."""
    frame_cache_mib: int = Field(512, ge=0)
    """MiB of decoded frames that each data process may cache; the least recently used clip is dropped first."""
    decode_timeout_seconds: float = Field(120, gt=0)
    """How long decoding a conversation's frames may take before its decoder is killed and the run stops."""
    workers: int | None = Field(None, ge=0)
    """Processes that make text and frames ahead, each with a decoder and a cache of frames of its own; with 0, the training
    process makes them between steps. Targets are read ahead by its own threads, whatever this is. When absent, the cores that
    each training process of the machine has beside its own, at most 4."""
    max_length: int | None = Field(None, ge=1)
    """Most tokens of a conversation, its frames and images included; any number when absent. Of a longer one the end of its
    text is cut; where that would cut into a frame or an image, or leaves no answer, it is left out. Both are counted."""

    @field_validator("conversations", "image_root", "video_root", mode="before", json_schema_input_type=str | tuple[str, ...])
    @classmethod
    def _one_is_a_list_of_one(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.conversations and self.mixture is not None:
            raise ValueError("give `conversations` or `mixture`; a mixture names its own files")
        return self


class ModelConfig(Frozen):
    """Which student to build."""

    backbone: BackboneName = "4d-rgpt"
    """``4d-rgpt``: SigLIP, a projector and Qwen2, joined as in NVILA-Lite; the others are transformers' own models.
    ``image-text-to-text``: LLaVA or InternVL, which are shown a video as its frames, one image after another, without their
    times."""
    weights: str | None = None
    """Folder of a checkpoint: NVILA-Lite's (``vision_tower``, ``mm_projector``, ``llm``), transformers', or one that a fit or
    an export wrote. Without it, the ``preset`` is built with random weights."""
    preset: Literal["tiny"] = "tiny"
    """Configuration of a student without ``weights``; small enough for a CPU."""
    dtype: Dtype = "float32"
    """Dtype of the weights that do not train, such as a frozen tower's, or those under adapters. Weights that train are in
    float32: AdamW's steps are too small for bfloat16 to hold."""
    attention: Attention = "sdpa"
    """How attention is computed, as transformers names it. ``sdpa``: PyTorch's own; ``flash_attention_2`` needs the package
    flash-attn and ``precision: bf16``."""
    timestamps: Literal["before_projector", "after_projector", "none"] | None = None
    """Where 4D-RGPT adds the timestamp positional encoding. ``before_projector``, the default, is the paper's place;
    ``after_projector`` is the released README's. The Qwen models have their own encoding of real time;
    ``image-text-to-text`` has none."""
    separator: Separator | None = None
    """What 4D-RGPT has after the tokens of every frame and image. ``newline``: the embedding of a line break, as NVILA trains
    it, the default for an NVILA-Lite checkpoint; ``none``: nothing, the default of a student without ``weights``. A student
    that a fit or an export wrote keeps its own."""
    freeze: tuple[Literal["vision_tower", "projector", "llm"], ...] = ("vision_tower",)
    """Parts that do not train; the paper trains the projector and the language model."""


class DecoderConfig(Frozen):
    """The perception decoder, from the language model's hidden states to F4D. Only training uses it."""

    kind: Literal["mlp3", "linear"] = "mlp3"
    """``mlp3``: the paper's three-layer MLP; ``linear``: the released code's single linear layer per F4D layer (hook)."""
    hidden: int = Field(2560, ge=1)
    """Width of the MLP's hidden layers; ``linear`` has none."""


class LoraConfig(Frozen):
    """Low-rank adapters (LoRA, arXiv 2106.09685) in the language model, trained instead of its own weights."""

    rank: int = Field(16, ge=1)
    """Rank of each adapter."""
    alpha: float = Field(32.0, gt=0)
    """The adapters' output is scaled by ``alpha / rank``."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout probability of an adapter's inputs."""
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), min_length=1
    )
    """Linear layers that get an adapter, by the last part of their names."""


TrainedPart = Literal["vision_tower", "projector", "llm", "distillation"]


class OptimConfig(Frozen):
    """The optimizer and its schedule. The defaults are the paper's fine-tuning of a pretrained student."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon``: Muon for the matrices of linear layers, and AdamW for all other weights. From random weights it learns far more
    in few steps. Both use the same learning rate, since Muon's updates are scaled to AdamW's."""
    learning_rate: float = Field(1e-5, gt=0)
    """Highest learning rate, reached at the end of the warm-up."""
    part_learning_rates: dict[TrainedPart, Annotated[float, Field(gt=0)]] = Field({})
    """Highest learning rates of parts that have their own; ``distillation`` is the perception decoder, which starts from random
    weights, and light heads."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay, decoupled from the gradient."""
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup: float = Field(0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises from 0."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are clipped to this norm; 0 does not clip."""


class ValidationConfig(Frozen):
    """Conversations that are held out of training, on which the losses are measured before it and then every some steps."""

    conversations: tuple[str, ...] = ()
    """Files of them, in the LLaVA JSON conversation format. Without any, a share of the training conversations is held out."""
    share: float = Field(0.02, gt=0, lt=1)
    """Share of the videos (or images) whose conversations are held out, when `conversations` is empty; at least one."""
    every: int = Field(500, ge=1)
    """Optimizer steps between two validations; the last step has one too."""
    student: Literal["best", "last"] = "best"
    """Which student the finished run holds. ``best``: that of the validation with the lowest loss, whose checkpoint is kept;
    ``last``: that of the last step."""
    pictures: int = Field(2, ge=0)
    """Clips whose maps each validation draws beside the teacher's, into the run's folder and TensorBoard; none in a mode
    without maps."""

    @field_validator("conversations", mode="before", json_schema_input_type=str | tuple[str, ...])
    @classmethod
    def _one_is_a_list_of_one(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class TrainConfig(Frozen):
    """One run of ``student-train fit``."""

    store: str = Field(min_length=1)
    """The store of cached targets: a local path, or an ``s3://``, ``gs://`` or ``az://`` URL."""
    fingerprint: str | None = Field(None, min_length=8)
    """Fingerprint, or its first digits, of the recipe that the store must have; a store with another recipe is refused."""
    store_version: int | None = Field(None, ge=0)
    """The version of the store to learn from, as ``teacher-cache log`` lists them; the newest when absent. A resumed run keeps
    the version that it began with, whatever the store has gained or lost since."""
    regions: RegionsConfig | None = None
    """A store of the clips' objects, for marks in what the student sees and for ``loss.regions``."""
    output: str = Field(min_length=1)
    """Folder of the run, for its losses, checkpoints, report and weights."""
    recipe: RecipeName = "paper"
    """Where the values come from that this file does not give. ``paper``: 4D-RGPT's; ``released``: those of its public code of
    June 2026, which also has a linear decoder, keeps the projector frozen, and trains for 10 epochs in place of 5."""
    mode: Mode = "heads"
    """What is distilled, and how. ``heads``: LD, and ED through the teacher's frozen heads; ``latent``: LD alone; ``direct``:
    LD, and ED through light heads that are trained with the student; ``sft``: nothing, for comparison."""
    data: DataConfig = DataConfig()
    """The conversations to train on."""
    model: ModelConfig = ModelConfig()
    """The student."""
    decoder: DecoderConfig = DecoderConfig()
    """The perception decoder, which only training uses."""
    loss: LossConfig = LossConfig()
    """The losses and their weights."""
    optim: OptimConfig = OptimConfig()
    """The optimizer and its schedule."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps. Give this or ``epochs``."""
    epochs: float | None = Field(None, gt=0)
    """How often every conversation is seen; the recipe's number when neither this nor ``steps`` is given."""
    batch: int = Field(4, ge=1)
    """Conversations per forward pass and process."""
    accumulate: int = Field(1, ge=1)
    """Gradient accumulation: forward passes per optimizer step."""
    seed: int = Field(0, ge=0)
    """Seed of random weights, of the order of samples and of every random choice in training."""
    report_to: tuple[Reporter, ...] = ()
    """Where losses, learning rate and gradient norm are logged besides ``metrics.jsonl``, by transformers' integrations. Each
    needs its package, and is set up by its own environment variables, such as TENSORBOARD_LOGGING_DIR and WANDB_PROJECT."""
    log_every: int = Field(1, ge=1)
    """Optimizer steps per line of ``metrics.jsonl``, which holds their mean."""
    precision: Precision = "fp32"
    """``bf16``: bfloat16 autocast; weights, gradients and losses stay in float32."""
    lora: LoraConfig | None = None
    """Train the language model with adapters, which are merged when the student is saved. Without it, all its weights train."""
    gradient_checkpointing: bool = False
    """Recompute the language model's activations in the backward pass instead of storing them."""
    fsdp: Literal["full_shard", "hybrid_shard"] | None = None
    """Shard weights, gradients and optimizer states over the processes: ``full_shard`` over all of them; ``hybrid_shard``
    (HSDP) over those of a machine, the same on every machine. Without it, each process has all of them (DDP)."""
    validation: ValidationConfig | None = None
    """Measure the losses on held-out conversations, and keep the best student. Without it, nothing is held out."""
    max_bad_steps: int = Field(10, ge=0)
    """Optimizer steps that may be skipped because their loss or gradient is not finite; one more stops the run."""
    checkpoint_every: int = Field(0, ge=0)
    """Optimizer steps between checkpoints, from which ``--resume`` continues; with 0, only a run that is asked to stop writes
    one."""
    keep_checkpoints: int = Field(2, ge=1)
    """How many checkpoints to keep; the oldest is removed first."""

    @model_validator(mode="before")
    @classmethod
    def _by_the_recipe(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        preset = next((values for name, values in PRESETS.items() if name == given.get("recipe", "paper")), {})
        if given.get("steps") is not None:
            preset = {name: value for name, value in preset.items() if name != "epochs"}
        return _merged(preset, {name: value for name, value in given.items() if value is not None})

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"`steps` is {self.steps} and `epochs` is {self.epochs:g}; give one of them")
        return self

    @model_validator(mode="after")
    def _one_type_or_autocast(self) -> Self:
        if self.model.dtype != "float32" and self.precision != "bf16":
            raise ValueError("weights in two dtypes need `precision: bf16`, or leave `model.dtype` out")
        return self

    @model_validator(mode="after")
    def _shards_of_one_type(self) -> Self:
        if self.fsdp is not None and self.model.dtype != "float32":
            raise ValueError("`fsdp` shards weights in float32: leave `model.dtype` out, and compute in `precision: bf16`")
        return self

    @model_validator(mode="after")
    def _whole_matrices(self) -> Self:
        if self.fsdp is not None and self.optim.optimizer == "muon":
            raise ValueError("Muon needs whole matrices, and `fsdp` shards them: leave one of the two out")
        return self

    @model_validator(mode="after")
    def _adapters_in_a_model_that_trains(self) -> Self:
        if self.lora is not None and "llm" in self.model.freeze:
            raise ValueError(
                "`lora` trains the language model, but `model.freeze` names `llm`: leave `llm` out of `model.freeze`"
            )
        return self

    @model_validator(mode="after")
    def _maps_to_weigh(self) -> Self:
        for name in ("confidence", "regions"):
            if getattr(self.loss, name) is not None and self.mode in {"latent", "sft"}:
                raise ValueError(
                    f"`loss.{name}` weighs the pixels of maps, and mode `{self.mode}` compares none; use `heads` or `direct`"
                )
        if self.loss.regions is not None and self.regions is None:
            raise ValueError("`loss.regions` weighs by the objects of a store of regions: name it as `regions: {store: …}`")
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
    """Mean losses over some lines of ``metrics.jsonl``."""

    from_step: int
    to_step: int
    losses: dict[str, float]
    """``loss``, the weighted total, and the unweighted ``sft``, ``ld``, ``ed_depth``, …"""


class Validated(Frozen):
    """Mean losses over the held-out conversations at one step."""

    step: int
    losses: dict[str, float]
    """As in `SmoothedLosses`."""


class TrainedSet(Frozen):
    """One set of a mixture in a fit."""

    samples: int
    """Its conversations that are trained on."""
    in_epoch: int
    """How many of them an epoch has; one that comes twice counts twice."""


class TrainedOn(Frozen):
    """What a run learns from, and how much of it in a step: what makes it that run, beside its settings."""

    fingerprints: dict[str, str]
    """Setting that names a store → the fingerprint of its recipe."""
    conversations: str
    """Digest of the conversations, in their order."""
    samples_per_step: int
    """Conversations of an optimizer step, of all processes."""


class FitReport(Frozen):
    """A finished fit, as ``result.json`` holds it and ``--json`` prints it."""

    output: str
    store: str
    store_version: int
    """Version of the store that it learnt from."""
    fingerprint: str
    """Fingerprint of the store's recipe."""
    trained_on: TrainedOn | None = None
    """What it learnt from: of conversations, all that were read, held-out ones included; null if the run ended before this was
    kept."""
    mode: Mode
    loss: LossRecipe
    steps: int
    samples: int
    """Conversations that were trained on."""
    epoch: int
    """Conversations of an epoch: all of them, or what the weights of a mixture make of them."""
    sets: dict[str, TrainedSet]
    """Set of the mixture → its part; empty without one."""
    clips: int
    """Clips whose targets were used."""
    dropped: int
    """Conversations that were left out: the store has no targets for them, or they do not fit `data.max_length`."""
    cut: int
    """Conversations whose text was cut at `data.max_length`."""
    processes: int
    """World size: processes that trained together."""
    first: SmoothedLosses
    """Mean losses at the start."""
    last: SmoothedLosses
    """Mean losses at the end."""
    validation: Validated | None
    """The validation of the student that the run holds; null without validations, or if none was finite."""
    bad_steps: int
    """Optimizer steps that were skipped because their loss or gradient was not finite."""
    parameters: dict[str, int]
    """Part of the student or of P4D → number of its parameters."""
    trained_parameters: int
    """Number of parameters that trained."""
    seconds: float
    """Wall time of the training loop; in a resumed run it includes the time up to its checkpoint."""
    data_wait_seconds: float
    """Part of it spent waiting for batches, in the process that waited longest."""


class FitFailure(Frozen):
    """A fit that ended since its loss or gradient was not finite, as ``failure.json`` holds it."""

    reason: str
    store_version: int
    fingerprint: str
    trained_on: TrainedOn
    """As in `FitReport`."""
    bad_steps: int
    seconds: float
    """As in `FitReport`."""


class ShownPart(Frozen):
    """A part of the student, or of P4D."""

    parameters: int
    trained: int
    learning_rate: float | None
    """The highest; null if nothing of it trains."""


class ShownFit(Frozen):
    """What a config comes to, as ``student-train fit --show`` prints it. Nothing is trained or written."""

    config: dict[str, Any]
    """Every field of TRAIN.yaml, with the recipe's values where the file gives none."""
    loss: LossRecipe
    processes: int
    """World size that it is reckoned for."""
    samples: int
    epoch: int
    """As in `FitReport`."""
    sets: dict[str, TrainedSet]
    """As in `FitReport`."""
    dropped: int
    """As in `FitReport`."""
    cut: int
    """As in `FitReport`."""
    tokens: int
    """Tokens of all conversations, those of frames and images included."""
    longest: int
    """Tokens of the longest conversation."""
    steps: int
    warmup_steps: int
    samples_per_step: int
    parts: dict[str, ShownPart]
    memory: dict[str, int]
    """Bytes on each device in a step of conversations as long as the longest, by what they hold; ``total`` is their sum. As
    reckoned: the allocator's own and the vision tower's activations are not in it."""
    checkpoint_host_bytes: int
    """Bytes of each process's host that a checkpoint takes while it is written: a copy of trained weights and AdamW's two
    moments, and once more as safetensors."""


class ExportReport(Frozen):
    """An exported student, without what only training uses."""

    out: str
    backbone: BackboneName
    store: str
    """The store whose targets it was trained on."""
    fingerprint: str
    tensors: int
    parameters: int
    bytes: int
    """Bytes of all files together."""
