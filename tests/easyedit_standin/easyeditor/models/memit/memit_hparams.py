from dataclasses import dataclass

from ...util.hparams import HyperParams


@dataclass
class MEMITHyperParams(HyperParams):
    layers: list
    rewrite_module_tmp: str
    alg_name: str
    device: int
    model_name: str
    lm_head_module: str = "lm_head"
    v_loss_layer: int = 2
    mom2_adjustment: bool = True
    mom2_dataset: str = "wikipedia"
    mom2_dtype: str = "float64"
