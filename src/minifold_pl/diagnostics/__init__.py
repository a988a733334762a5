"""Measurements that say what is wrong with a model: of any checkpoint, without a training run."""
