"""These tests compile much and compute little."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def _compile_fast(quick_compilation):
    pass
