"""What `pip install .` installs: all that the package reads, and it works from another folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import analysis

ROOT = Path(__file__).parents[1]
ELSEWHERE = """
from pathlib import Path

import analysis
from analysis import paths
from analysis.bench import measure
from analysis.models import available_testbeds
from analysis.tasks.task import read_words

assert not paths.IN_CLONE and Path(analysis.__file__).is_relative_to({installed!r})
assert available_testbeds() == {testbeds!r}
assert len(analysis.load_task("ioi", analysis.load_model("testbed"), n=2)) == 2
assert measure.read(measure.METHODS) and measure.read(measure.MEDIATION) and read_words("corpus")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel's contents, unpacked as pip does."""
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_what_the_package_holds(installed):
    """Every tracked file of the package, and the data that it reads."""
    command = ["git", "ls-files", "analysis", "data"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.split():
        data = Path("data", *Path(name).parts[name.startswith("data/") :])
        place = Path(name) if name.startswith("analysis/") else "analysis" / data
        assert (installed / place).is_file(), f"{name} is not in the wheel"


def test_it_is_of_this_version(installed):
    assert (installed / f"analysis-{analysis.__version__}.dist-info").is_dir()


def test_it_works_from_another_folder(installed, tmp_path):
    testbeds = sorted(path.parent.name for path in (ROOT / "data/models").glob("*/config.json"))
    code = ELSEWHERE.format(installed=str(installed), testbeds=testbeds)
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr


WITHOUT_THE_PAGES_LIBRARIES = """
import sys
from importlib import import_module
from pkgutil import walk_packages

for name in ("griffe", "nbclient", "nbformat", "pypandoc", "vl_convert", "ipykernel"):
    sys.modules[name] = None  # importing it is an error

import analysis
for module in walk_packages(analysis.__path__, "analysis."):
    if module.name != "analysis.__main__":
        import_module(module.name)
"""


def test_the_library_does_without_what_only_pages_need():
    command = [sys.executable, "-c", WITHOUT_THE_PAGES_LIBRARIES]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
