"""Sparse encoders: models that give a text a weight for each of some words of their vocabulary (SPLADE, BGE-M3).

`load` imports torch, the other modules that stages use do not.
"""
