"""What is compiled in the tree under test."""

import os

from gateway.protocol.build import CODEC, DATA_PATH


def test_the_data_path_under_test_is_the_one_that_was_asked_for() -> None:
    wanted = "compiled" if "KAKITOME_TEST_TREE" in os.environ else "interpreted"
    assert wanted == DATA_PATH
    assert CODEC == "compiled" or DATA_PATH == "interpreted"
