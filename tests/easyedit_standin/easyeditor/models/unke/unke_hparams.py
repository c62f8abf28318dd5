import json
from dataclasses import dataclass


@dataclass
class unkeHyperParams:  # noqa: N801 - as EasyEdit spells it
    model_name: str
    layers: list
    rewrite_module_tmp: str
    ex_data_num: int

    @classmethod
    def from_json(cls, path):
        with open(path, encoding="utf-8") as stream:
            return cls(**json.load(stream))
