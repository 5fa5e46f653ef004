"""What a lecture measures over minutes runs with --long only; the option itself stands in tests/conftest.py."""
import pytest


def pytest_configure(config):
    config.addinivalue_line('markers', 'long: takes minutes, runs with --long only')


def pytest_collection_modifyitems(config, items):
    if not config.getoption('--long'):
        for item in items:
            if item.get_closest_marker('long'):
                item.add_marker(pytest.mark.skip(reason='takes minutes: run with --long'))
