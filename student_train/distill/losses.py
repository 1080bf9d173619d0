"""P4D's distances: a prediction, its cached target and which clips have one go in; one scalar comes out.

Definitions: 4D-RGPT, arXiv 2512.17012, section 3 (latent and explicit distillation). All functions are pure.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from schemas.train import LossRecipe, Modality, Reduction

Count = torch.Tensor | float


def latent_loss(
    prediction: torch.Tensor, target: torch.Tensor, *, valid: torch.Tensor, recipe: LossRecipe, clips: Count
) -> torch.Tensor:
    """LD: SmoothL1 between the student's and the teacher's F4D, without `alpha`.

    ``prediction``, ``target``: float (clip, layer, token_time, token_y, token_x, channel).
    ``valid``: bool (clip,); a clip that is False adds nothing, whatever its target holds, NaN included.
    ``clips``: how many clips the loss is the mean over; as a rule ``valid.sum()``, and more where one optimizer step
    has several batches. The paper's sum over the N' time steps of F4D is ``frame_sum``.
    """
    return masked_smooth_l1(
        prediction.movedim(2, 1), target.movedim(2, 1), valid=valid, reduction=recipe.reduction, clips=clips
    )


def explicit_loss(
    modality: Modality,
    raw: torch.Tensor,
    target: torch.Tensor,
    *,
    valid: torch.Tensor,
    recipe: LossRecipe,
    clips: Count,
) -> torch.Tensor:
    """ED of one modality: SmoothL1 between decoded maps, without `beta` and the modality's weight.

    ``raw``: float (clip, frame, …), what the frozen heads give: log depth, flow in pixels, motion logits, raw camera rays.
    ``target``: float, same axes, in the store's physical units: depth is positive depth, not its logarithm.
    ``valid`` and ``clips`` as in `latent_loss`.
    """
    if modality == "depth":
        raw, target = depth_pair(raw, target, recipe)
    if modality == "flow" and recipe.mask_first_flow_frame:
        # Backward flow points to the frame before, which frame 0 does not have: the teacher's values there mean nothing.
        raw, target = raw[:, 1:], target[:, 1:]
    return masked_smooth_l1(raw, target, valid=valid, reduction=recipe.reduction, clips=clips)


def depth_pair(log_depth: torch.Tensor, depth: torch.Tensor, recipe: LossRecipe) -> tuple[torch.Tensor, torch.Tensor]:
    """(student, teacher) depths in the recipe's space, from the student's log depth and the teacher's depth."""
    if recipe.depth == "linear":
        return log_depth.exp(), depth
    if recipe.depth_offset == 0:
        return log_depth, depth.log()
    # log(exp(x) + offset), which overflows for no x.
    offset = log_depth.new_tensor(math.log(recipe.depth_offset))
    return torch.logaddexp(log_depth, offset), (depth + recipe.depth_offset).log()


def masked_smooth_l1(
    prediction: torch.Tensor, target: torch.Tensor, *, valid: torch.Tensor, reduction: Reduction, clips: Count
) -> torch.Tensor:
    """SmoothL1 (beta 1) over (clip, time, …) tensors of one shape; float32 scalar.

    Every time step has as many elements as the next, so the sum over time steps of each one's mean is the sum over all
    elements divided by the elements of one step, and one fused sum serves both reductions.
    """
    # A clip without a target is compared with the student's own value: no distance, no gradient, and no NaN from what
    # stands in the target's place, since 0 · NaN in the backward pass would be NaN.
    mask = valid.view(-1, *[1] * (prediction.dim() - 1))  # (clip, 1, …)
    prediction = prediction.float()
    target = torch.where(mask, target.float(), prediction.detach())
    elements = math.prod(prediction.shape[2 if reduction == "frame_sum" else 1 :])
    total = F.smooth_l1_loss(prediction, target, reduction="sum")
    # Where no clip has a target the sum is 0 already; the floor only keeps 0 / 0 away.
    return total / (torch.as_tensor(clips, dtype=total.dtype, device=total.device).clamp(min=1) * elements)
