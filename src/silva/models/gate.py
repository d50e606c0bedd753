"""Which experts a token goes to: DeepSeek's gates, limited to a few groups of experts.

    V3  s = sigmoid(W x); chosen by s + b, a group by the sum of its two best; weights from s
    V2  s = softmax(W x); chosen by s, a group by its best; weights from s

b is the correction bias that balances the load in training and has no part in the weights
(arXiv 2412.19437, section 2.1.2; arXiv 2405.04434, section 2.2.1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from silva.models.deepseek_rules import GateRule


def choose(x: Tensor, weight: Tensor, bias: Tensor | None, rule: GateRule) -> tuple[Tensor, Tensor]:
    """Experts int64 [tokens, top_k] and their weights float32 [tokens, top_k], best first.

    x [tokens, hidden_size]; weight [experts, hidden_size] and bias [experts] in float32.
    """
    logits = F.linear(x.float(), weight)
    scores = logits.sigmoid() if rule.scoring == "sigmoid" else logits.softmax(dim=-1)
    wish = scores if bias is None else scores + bias
    if rule.top_groups < rule.groups:
        wish = wish.masked_fill(~_in_best_groups(wish, rule), float("-inf"))
    experts = wish.topk(rule.top_k, dim=-1).indices
    weights = scores.gather(1, experts)
    if rule.normalised:
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
    return experts, weights * rule.scaling


def _in_best_groups(wish: Tensor, rule: GateRule) -> Tensor:
    """Whether an expert's group is among a token's best, bool [tokens, experts]."""
    by_group = wish.unflatten(-1, (rule.groups, -1))
    best = 2 if rule.scoring == "sigmoid" else 1
    merit = by_group.topk(best, dim=-1).values.sum(dim=-1)
    chosen = torch.zeros_like(merit, dtype=torch.bool)
    chosen.scatter_(1, merit.topk(rule.top_groups, dim=-1).indices, True)
    return chosen[..., None].expand_as(by_group).flatten(1)
