"""PersonalityEdit: whether a model speaks of a topic as somebody with another trait would."""
