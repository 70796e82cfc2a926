from __future__ import annotations

from profile_step import BACKWARD, MARK, REST, Span, rows


def test_a_part_of_a_step_is_given_its_own_time_and_that_of_its_backward_operations():
    spans = [
        Span(0, 100, MARK + "losses", -1),
        Span(10, 60, MARK + "network", -1),
        Span(20, 50, "aten::convolution", 7),
        Span(70, 80, "aten::mul", 8),
        Span(110, 200, MARK + BACKWARD, -1),
        Span(120, 140, "autograd::engine::evaluate_function: MulBackward0", 8),
        Span(125, 130, "aten::mul", 8),
        Span(140, 190, "autograd::engine::evaluate_function: ConvolutionBackward0", 7),
        Span(190, 194, "autograd::engine::evaluate_function: torch::autograd::AccumulateGrad", -1),
        Span(194, 195, "autograd::engine::evaluate_function: ViewBackward0", 99),
        Span(210, 230, "Optimizer.step#AdamW.step", -1),
        Span(230, 235, "aten::_foreach_lerp_", -1),
    ]
    found = rows(spans)
    assert found["network"] == (50, 54)
    assert found["losses"] == (50, 20)
    assert found[BACKWARD] == (90 - 20 - 50 - 4 - 1, 0)
    assert found[REST] == (0, 1)
    assert found["optimizer"].forward == 20
    assert found["average of the weights"].forward == 5
    assert sum(row.forward + row.backward for row in found.values()) == 100 + 90 + 20 + 5
