"""What training a tiny model in a test needs."""

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """So small a model gains nothing from a second thread and waits for it when the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
