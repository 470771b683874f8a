import pytest

pytest.register_assert_rewrite("tests.combinations.whole", "tests.laws")
