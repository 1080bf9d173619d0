"""P4D's losses: a prediction, its cached target and a mask of the clips that have one go in; one scalar comes out.

Definitions: 4D-RGPT, arXiv 2512.17012, section 3 (latent and explicit distillation). All functions are pure.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from schemas.train import LossRecipe, Modality, Reduction

Count = torch.Tensor | float
"""A number of clips that a mean is over."""


def latent_loss(
    prediction: torch.Tensor, target: torch.Tensor, *, valid: torch.Tensor, recipe: LossRecipe, clips: Count
) -> torch.Tensor:
    """LD: SmoothL1 between the student's and the teacher's F4D, without `alpha`.

    ``prediction``, ``target``: float (clip, layer, token_time, token_y, token_x, channel).
    ``valid``: bool (clip,); where False the clip adds nothing, whatever its target holds, even NaN.
    ``clips``: how many clips the loss is a mean over: ``valid.sum()`` for a single batch, more under gradient accumulation.
    The paper's sum over the N' time steps of F4D is the reduction ``frame_sum``. Returns a float32 scalar.
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
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """ED of one modality: SmoothL1 between decoded maps, without `beta` and the modality's weight.

    ``raw``: float (clip, frame, …), what the frozen heads give: log depth, flow in pixels, motion logits, raw camera rays.
    ``target``: float, same axes, in the store's physical units: depth is positive depth, not its logarithm.
    ``valid``, ``clips`` and the result as in `latent_loss`.
    ``weights``: float (clip, frame, y, x), each pixel's weight, at least 0; all 1 when absent. The mean is still over the
    number of pixels: where two teachers disagree, the clip teaches less, and the other pixels no more.
    """
    if modality == "depth":
        raw, target = depth_pair(raw, target, recipe)
    if modality == "flow" and recipe.mask_first_flow_frame:
        # Backward flow points to the previous frame, and frame 0 has none: the teacher's values there mean nothing.
        raw, target = raw[:, 1:], target[:, 1:]
        weights = None if weights is None else weights[:, 1:]
    return masked_smooth_l1(raw, target, valid=valid, reduction=recipe.reduction, clips=clips, weights=weights)


def depth_pair(log_depth: torch.Tensor, depth: torch.Tensor, recipe: LossRecipe) -> tuple[torch.Tensor, torch.Tensor]:
    """(student, teacher) depths in the recipe's space, from the student's log depth and the teacher's depth."""
    if recipe.depth == "linear":
        return log_depth.exp(), depth
    if recipe.depth_offset == 0:
        return log_depth, depth.log()
    # log(exp(x) + offset), without overflow for any x.
    offset = log_depth.new_tensor(math.log(recipe.depth_offset))
    return torch.logaddexp(log_depth, offset), (depth + recipe.depth_offset).log()


def masked_smooth_l1(
    prediction: torch.Tensor,
    target: torch.Tensor,
    *,
    valid: torch.Tensor,
    reduction: Reduction,
    clips: Count,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """SmoothL1 (beta 1) over (clip, time, …) tensors of one shape; float32 scalar.

    All time steps have the same number of elements. So ``frame_sum`` is the sum over all elements divided by the number in
    one step, and one fused sum serves both reductions. ``valid`` and ``clips`` as in `latent_loss`.
    ``weights``: as in `explicit_loss`, with the first axes of the tensors; an element with 0 adds nothing, whatever its target.
    """
    # A clip without a target is compared with the student's own value: no loss, no gradient. Multiplying by the mask would
    # not do, since the missing target is NaN and 0 · NaN in the backward pass is NaN.
    mask = valid.view(-1, *[1] * (prediction.dim() - 1))  # (clip, 1, …)
    prediction = prediction.float()
    if weights is not None:
        weights = weights.view(*weights.shape, *[1] * (prediction.dim() - weights.dim()))
        mask = mask & (weights > 0)
    target = torch.where(mask, target.float(), prediction.detach())
    elements = math.prod(prediction.shape[2 if reduction == "frame_sum" else 1 :])
    if weights is None:
        total = F.smooth_l1_loss(prediction, target, reduction="sum")
    else:
        total = (weights * F.smooth_l1_loss(prediction, target, reduction="none")).sum()
    # If no clip has a target, the sum is 0 already; the clamp only avoids 0 / 0.
    return total / (torch.as_tensor(clips, dtype=total.dtype, device=total.device).clamp(min=1) * elements)
