"""The trim forecast under each glibc of the archive, one seed; ./dev forecast runs them all."""

from __future__ import annotations

import pytest

from glibcs import fetch, forecast, programs

SEED, SCALE = 3, 0.3


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    directory = tmp_path_factory.mktemp("fixtures")
    return {name: programs.fixture_program(name, directory) for name in ("scattered", "dense")}


@pytest.mark.parametrize("name", ["scattered", "dense"])
@pytest.mark.parametrize("suite", fetch.SUITES)
def test_the_forecast_is_right_to_the_page(name, suite, built):
    tree = fetch.tree(suite)
    if isinstance(tree, fetch.NotFetched):
        pytest.skip(f"the archive does not answer for {suite}: {tree.reason}")
    found = forecast.compare(name, tree, built[name], SEED, SCALE)
    assert found.good, found
    assert (found.fell_bytes > forecast.PAGE) == (name == "scattered")
