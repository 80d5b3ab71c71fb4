"""Faithfulness: does the map show what the model's score depends on?

The model runs on images that are masked by the map, or perturbed.
"""
