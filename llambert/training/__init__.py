"""Step (iv) of the method: supervised fine-tuning of an encoder on silver (or gold) labels. No Ray.

``training_set`` selects the records, ``batches`` orders them, ``losses`` defines the objective, ``loop`` trains in one
process or in a torch.distributed group, ``encoder`` loads and saves Hugging Face folders, ``card`` writes model cards.
"""
