from quicksilver.evaluation.provenance import environment


def test_the_environment_names_the_machine():
    found = environment()
    assert found["cpu"]
    assert found["torch"]
    assert found["threads"] == 1
