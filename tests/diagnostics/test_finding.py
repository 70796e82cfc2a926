"""The verdict over several sections."""

from es_cli.diagnostics.finding import worst


def test_worst_verdict_decides_and_none_is_good():
    assert worst(["good", "no", "doubtful"]) == "no"
    assert worst(["doubtful", "good"]) == "doubtful"
    assert worst([]) == "good"
