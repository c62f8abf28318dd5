from dataclasses import dataclass

from ..rome.rome_hparams import ROMEHyperParams


@dataclass
class NeedyHyperParams(ROMEHyperParams):
    num_steps: int = 5
    lr: float = 5e-3
