"""The method: groups, splits, virtual operators, the objective of equivariant splitting and averaging at evaluation."""
