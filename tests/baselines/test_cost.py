from halspan.core.cost import Cost


def test_costs_add_up():
    assert sum([Cost(1, 20, 3), Cost(0, 5, 1)], Cost()) == Cost(image_encodings=1, tokens=25, sentences=4)


def test_a_record_names_what_was_counted():
    assert Cost(1, 20, 3).to_record() == {"image_encodings": 1, "tokens": 20, "sentences": 3}
