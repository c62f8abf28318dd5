from dataclasses import dataclass

import yaml


@dataclass
class HyperParams:
    @classmethod
    def from_hparams(cls, hparams_name_or_path: str):
        with open(hparams_name_or_path, encoding="utf-8") as stream:
            return cls(**yaml.safe_load(stream))
