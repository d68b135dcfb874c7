"""What DDPM's and ADM's U-Nets know beside the image: one vector of noise level, class and second time."""

import torch.nn.functional as F
from torch import Tensor, nn

from consistency.model.condition import Condition
from consistency.nets.layers import Embedding, linear, without_autocast
from consistency.nets.second import second_layer, with_second


class Conditioning(nn.Module):
    """The embedding of noise level and class, (c_noise [B], c) -> [B, width].

    It is computed in full precision: bfloat16 cannot tell neighbouring indices apart.

    Args:
        embedding: features of the noise level.
        width: size of the vector.
        classes: number of classes, 0 for none.
        augment: size of the augmentation label of an EDM teacher, 0 for none.
        times: 1, or 2 of a network that is also given the second time of a flow map.
    """

    def __init__(
        self, embedding: Embedding, width: int, classes: int, augment: int = 0, times: int = 1
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.augment = linear(augment, embedding.channels, gain=0.0, bias=False) if augment else None
        self.layer0, self.layer1 = linear(embedding.channels, width), linear(width, width)
        self.label = nn.Embedding(classes, width) if classes else None
        self.second_time = second_layer(times, width)

    def forward(self, noise: Tensor, c: Condition, h: Tensor | None = None) -> Tensor:
        """The vector [B, width] of c_noise [B], the class and augmentation of c, and h [B] of two times."""
        with without_autocast(noise):
            features = self.embedding(noise).to(self.layer0.weight.dtype)
            if self.augment is not None and c.augment is not None:
                features = features + self.augment(c.augment.to(features))
            emb = self.layer1(F.silu(self.layer0(features))) + self._class(c.label)
            return F.silu(with_second(self.second_time, emb, h))

    def of_augmentation(self) -> nn.Module:
        """The part that only labels of augmentation reach."""
        return self.augment or nn.Identity()

    def _class(self, label: Tensor | None) -> Tensor | float:
        if label is None or self.label is None:
            return 0.0
        return self.label(label.clamp(min=0)) * (label >= 0)[:, None]  # zeros for label -1
