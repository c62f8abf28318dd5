from .rome_hparams import ROMEHyperParams as ROMEHyperParams
from .rome_main import apply_rome_to_model as apply_rome_to_model
