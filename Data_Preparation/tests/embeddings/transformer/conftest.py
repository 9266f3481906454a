import pytest
import torch


@pytest.fixture
def one_thread():
    """More are slower with models as small as these; a test may change the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
