"""Which peers there are. Without PyTorch, because the driver reads it too."""
import dataclasses


@dataclasses.dataclass(frozen=True)
class Variant:
    layers: str = 'plain'
    channels_last: bool = False
    bf16: bool = False
    compiled: bool = False

    @property
    def tuned(self):
        """Not as it comes."""
        return self.channels_last or self.bf16 or self.compiled


def family(layers):
    """The ways to run one network that a PyTorch user would try, from the plainest to the fastest."""
    return [Variant(layers), Variant(layers, channels_last=True), Variant(layers, channels_last=True, bf16=True),
            Variant(layers, channels_last=True, bf16=True, compiled=True)]


FULL_PRECISION = dict(zip(['torch_fp32', 'torch_channels_last', 'torch_bf16', 'torch_bf16_compiled'], family('plain')))
DOREFA = dict(zip(['torch_dorefa', 'torch_dorefa_channels_last', 'torch_dorefa_bf16', 'torch_dorefa_bf16_compiled'], family('dorefa')))
VARIANTS = {**FULL_PRECISION, **DOREFA, 'brevitas': Variant('brevitas'), 'brevitas_settled': Variant('brevitas_settled')}

# Compared with whichever of the family was fastest in the same run.
BEST = {'torch_best': FULL_PRECISION, 'torch_dorefa_best': DOREFA}
# The batch a paper trains the network with, or what one machine of a group takes of it.
BATCH = {'resnet20': 128, 'resnet18': 16}
