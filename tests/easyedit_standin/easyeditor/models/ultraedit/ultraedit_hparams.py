from dataclasses import dataclass

from ...util.hparams import HyperParams


@dataclass
class UltraEditHyperParams(HyperParams):
    layers: list
    rewrite_module_tmp: str
    alg_name: str
    device: int
    model_name: str
