from __future__ import annotations

import numpy as np
import torch

from silva.experts.routes import Routes

TABLE = np.array([[0, 1], [1, 2], [0, -1]])


def test_replicas_take_turns_and_ranks_begin_elsewhere() -> None:
    tokens = torch.tensor([[0, 1], [0, 2], [0, 1]])
    assert Routes(TABLE, 3, rank=0).places(tokens).tolist() == [[0, 1], [4, 3], [0, 1]]
    assert Routes(TABLE, 3, rank=1).places(tokens).tolist() == [[4, 2], [0, 3], [4, 2]]


def test_dead_ranks_are_left_out() -> None:
    routes = Routes(TABLE, 3, rank=0, dead={1})
    assert routes.lost == (2,)
    assert routes.places(torch.tensor([[0, 1, 2]] * 2)).tolist() == [[0, 1, -1], [4, 1, -1]]


def test_no_tokens_go_nowhere() -> None:
    assert Routes(TABLE, 3, rank=2).places(torch.empty(0, 2, dtype=torch.int64)).shape == (0, 2)
