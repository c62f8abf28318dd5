"""Neurons of MLPs: how each is scored, what patching a few of them costs, what they write."""
