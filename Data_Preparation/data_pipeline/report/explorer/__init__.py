"""The explorer: Embedding Atlas on the rows, scores, subsets and vectors of a dataset.

The atlas shows what is stored and what this package computes; it neither embeds texts nor projects vectors, and its
page may only ask the server of this package, which listens on 127.0.0.1.
"""
