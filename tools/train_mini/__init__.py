"""How the weights of `hadpo/mini/weights` were trained: `python -m tools.train_mini`."""
