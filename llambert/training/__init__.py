"""Step (iv) of the method: supervised fine-tuning of an encoder on silver (or gold) labels. No Ray.

``records`` decides what is learned from, ``batches`` in which order, ``losses`` what is minimised, ``loop``
does it in one process or in a torch.distributed group, ``model`` loads and saves Hugging Face folders and
``card`` describes the result.
"""
