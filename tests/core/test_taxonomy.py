from halspan.core.taxonomy import HALLUCINATION_TYPES


def test_alignbench_has_eight_types_and_other():
    assert len(set(HALLUCINATION_TYPES)) == 9
    assert HALLUCINATION_TYPES[-1] == "Other"
