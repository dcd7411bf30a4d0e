"""What runs elsewhere, workflows and hooks, calls only what is here. Only reading is tested."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


def jobs(workflow: Path) -> dict[str, Any]:
    return yaml.safe_load(workflow.read_text())["jobs"]


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(workflow).values() for step in job["steps"]]


def test_there_is_one_for_tests_and_one_for_the_site():
    commands = {step["run"] for workflow in WORKFLOWS for step in steps(workflow) if "run" in step}
    assert commands >= {"make test", "make lint", "make paper", "make test-site"}


def test_quarto_is_of_the_version_that_the_project_pins():
    (pinned,) = re.findall(r"^quarto-cli==(.*)$", CONSTRAINTS, re.MULTILINE)
    used = {
        step["with"]["version"]
        for workflow in WORKFLOWS
        for step in steps(workflow)
        if "quarto" in step.get("uses", "")
    }
    assert used == {pinned}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_command_is_a_target_of_the_makefile(workflow):
    for step in steps(workflow):
        for command in step.get("run", "").splitlines():
            assert command.removeprefix("make ") in TARGETS


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_by_its_major_version(workflow):
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used and all(re.fullmatch(r"[\w-]+/[\w/-]+@v\d+", action) for action in used)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_job_may_only_read_unless_it_publishes(workflow):
    assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}
    for job in jobs(workflow).values():
        publishes = any("deploy-pages" in step.get("uses", "") for step in job["steps"])
        wanted = {"pages": "write", "id-token": "write"} if publishes else None
        assert job.get("permissions") == wanted


def test_tests_run_on_the_oldest_python_that_the_project_supports():
    tests = jobs(ROOT / ".github" / "workflows" / "tests.yml")["test"]
    versions = tests["strategy"]["matrix"]["python"]
    assert f'requires-python = ">={versions[0]}"' in (ROOT / "pyproject.toml").read_text()


def test_what_the_site_uploads_and_keeps_is_where_the_project_writes():
    workflow = ROOT / ".github" / "workflows" / "site.yml"
    kept = [step["with"]["path"] for step in steps(workflow) if "path" in step.get("with", {})]
    assert kept == ["data/results", "_site"]
    assert yaml.safe_load((ROOT / "_quarto.yml").read_text())["project"]["output-dir"] == "_site"
    makefile = (ROOT / "Makefile").read_text()
    assert "clean:\n\trm -rf _site _site-* .quarto\n" in makefile
    assert "forget:\n\trm -rf data/results\n" in makefile


def test_hooks_are_the_lints_tools_in_pinned_versions():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    makefile = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
    for hook in local["hooks"]:
        tool = hook["entry"].split(" --")[0]
        assert f"\t{tool}" in makefile
        assert re.search(rf"^{tool.split()[0].split('/')[-1]}==", CONSTRAINTS, re.MULTILINE)
    assert len(local["hooks"]) == 3 and "\npre-commit==" in CONSTRAINTS
