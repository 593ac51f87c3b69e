"""The pipelines in deploy/ci by the schemas and grammars of those who run them; test_onboard.py runs their script."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tree_sitter
import tree_sitter_groovy
import yaml

CI = Path(__file__).resolve().parents[2] / "deploy/ci"
GITLAB, GITHUB, JENKINS = CI / "gitlab-ci.yml", CI / "github-nightly.yml", CI / "Jenkinsfile"


def lint(schema: str, file: Path) -> subprocess.CompletedProcess[str]:
    """Validate a file by a schema that check-jsonschema brings along; nothing is fetched."""
    command: list[str | Path] = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, file]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def groovy(text: str) -> tree_sitter.Node:
    """The root of a Groovy program's syntax tree."""
    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_groovy.language())).parse(text.encode()).root_node


@pytest.mark.parametrize(("schema", "file"), [("vendor.gitlab-ci", GITLAB), ("vendor.github-workflows", GITHUB)])
def test_pipelines_are_valid_by_their_schemas(schema: str, file: Path, tmp_path: Path) -> None:
    """GitLab's and GitHub's schemas take their pipelines, and would not take a misspelt key."""
    assert lint(schema, file).returncode == 0, lint(schema, file).stdout
    broken = tmp_path / file.name
    broken.write_text(file.read_text().replace("timeout", "timeuot"))
    assert lint(schema, broken).returncode == 1


def test_jenkinsfile_parses_and_has_the_sections_of_a_pipeline() -> None:
    """The Groovy grammar takes the Jenkinsfile, and would not without a brace; its sections are Jenkins' own."""
    text = JENKINS.read_text()
    assert not groovy(text).has_error
    assert groovy(text.replace("    stages {", "    stages", 1)).has_error
    sections = re.findall(r"^    (\w+) \{", text, re.MULTILINE)
    assert sections == ["agent", "triggers", "options", "environment", "stages", "post"]


def test_every_pipeline_runs_the_script_under_a_name_of_its_own_and_publishes_its_report() -> None:
    """Each gives the script the name of this one job, and publishes the report below that name, on red nights too."""
    gitlab = yaml.safe_load(GITLAB.read_text())["gpugate-nightly"]
    assert gitlab["script"][-1].endswith('deploy/ci/nightly "gitlab-$CI_JOB_ID"')
    assert gitlab["artifacts"]["reports"]["junit"] == "reports/ci/gitlab-$CI_JOB_ID/runs/*/junit.xml"
    assert gitlab["artifacts"]["when"] == "always"
    github = yaml.safe_load(GITHUB.read_text())["jobs"]["nightly"]
    assert github["env"]["JOB"] == "github-${{ github.run_id }}-${{ github.run_attempt }}"
    _, _, check, keep, show = github["steps"]
    assert check["run"].endswith('deploy/ci/nightly "$JOB"')
    assert keep["with"]["path"] == "reports/ci/${{ env.JOB }}/runs/"
    assert show["with"]["report_paths"] == "reports/ci/${{ env.JOB }}/runs/*/junit.xml"
    assert (keep["if"], show["if"]) == ("always()", "always()")
    jenkins = JENKINS.read_text()
    assert 'JOB = "jenkins-${env.BUILD_NUMBER}"' in jenkins
    assert 'deploy/ci/nightly "$JOB"' in jenkins
    assert 'junit "reports/ci/${env.JOB}/runs/*/junit.xml"' in jenkins.partition("always {")[2]
