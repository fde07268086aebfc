"""The counter plugin: `adapter` has the model and `options` what can be asked of it; nothing is imported here.

The command line reads `options` to say its help, so importing this package must not import torch.
"""
