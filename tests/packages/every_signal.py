"""L4P's tiny network and a set's own masks as one teacher, so that one store has signals of every kind. For tests.

With this folder on PYTHONPATH it is the family `every-signal`. Presets, weights and dtype are L4P's, options `given`'s.
"""

from __future__ import annotations

from schemas.job import TeacherJob
from teacher_cache.teachers.given import FAMILY as GIVEN
from teacher_cache.teachers.l4p.teacher import FAMILY as L4P
from teacher_cache.teachers.protocol import ForwardBytes


def _jobs(job):
    """The two teachers' own."""
    own = job.model_copy(update={"family": "l4p", "options": {}})
    return own, TeacherJob(family="given", preset=f"px{L4P.identify(own).image_size}", options=job.options)


class _EverySignal:
    def __init__(self, description, network, masks):
        self.identity = description.identity
        self.image_size, self.frames, self.shapes = description.image_size, description.frames, description.shapes
        self._network, self._masks = network, masks
        self.heads, self.prepare = network.heads, masks.prepare

    def raw(self, frames, signals, told=()):
        of_masks = [signal for signal in signals if signal in self._masks.shapes]
        of_network = [signal for signal in signals if signal not in of_masks]
        found = self._network.raw(frames, of_network) if of_network else {}
        return found | (self._masks.raw(frames, of_masks, told) if of_masks else {})


class _EverySignalFamily:
    presets = L4P.presets

    def identify(self, job):
        network, masks = (family.identify(own) for family, own in zip((L4P, GIVEN), _jobs(job), strict=True))
        identity = network.identity.model_copy(
            update={"family": "every-signal", "config": network.identity.config | masks.identity.config}
        )
        return network.model_copy(update={"identity": identity, "shapes": network.shapes | masks.shapes})

    def load(self, job, device):
        network, masks = (family.load(own, device) for family, own in zip((L4P, GIVEN), _jobs(job), strict=True))
        return _EverySignal(self.identify(job), network, masks)

    def forward_bytes(self, job, batch, signals):
        both = [family.forward_bytes(own, batch, signals) for family, own in zip((L4P, GIVEN), _jobs(job), strict=True)]
        return ForwardBytes(weights=sum(one.weights for one in both), working=sum(one.working for one in both))


FAMILY = _EverySignalFamily()
