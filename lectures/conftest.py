"""The option --long for `pytest lectures`, where tests/conftest.py is not read."""

import contextlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))  # the lectures import each other by their plain names


def pytest_addoption(parser):
    # a session that collects tests/ as well knows the option already
    with contextlib.suppress(ValueError):
        parser.addoption('--long', action='store_true', help='also run what takes minutes')


def pytest_collection_modifyitems(config, items):
    """Skip what takes minutes, unless --long asks for it."""
    if config.getoption('--long'):
        return
    for item in items:
        if item.path.parent == FOLDER and item.get_closest_marker('long'):
            item.add_marker(pytest.mark.skip(reason='takes minutes: run with --long'))
