"""Other programs read the report: Jenkins' schema, and a parser from PyPI."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import junitparser
import pytest
from lxml import etree  # type: ignore[import-untyped]
from runs import every_outcome, run_of, written

CACHE = Path(__file__).parents[2] / ".gpugate" / "test-cache"


@pytest.fixture(scope="module")
def schema() -> etree.XMLSchema:
    """Jenkins' JUnit schema, which pytest's source distribution carries; fetched once, never committed."""
    version = importlib.metadata.version("pytest")
    kept = CACHE / f"junit-10-of-pytest-{version}.xsd"
    if not kept.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
                       "--dest", folder, f"pytest=={version}"]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            archives = list(Path(folder).glob("*.tar.gz"))
            if done.returncode or not archives:
                pytest.fail(f"Jenkins' schema cannot be fetched with {' '.join(command)}: {done.stderr.strip()[-500:]}")
            with tarfile.open(archives[0]) as archive:
                [member] = [name for name in archive.getnames() if name.endswith("/example_scripts/junit-10.xsd")]
                file = archive.extractfile(member)
                assert file is not None
                fresh = Path(folder) / "fresh.xsd"
                fresh.write_bytes(file.read())
            fresh.replace(kept)
    return etree.XMLSchema(etree.parse(kept))


def test_valid_against_jenkins_schema(schema: etree.XMLSchema) -> None:
    """A report with every outcome and hostile texts is valid for Jenkins."""
    schema.assertValid(etree.fromstring(written(every_outcome())))


def test_empty_run_is_valid_too(schema: etree.XMLSchema) -> None:
    """The report of a run that judged nothing is valid for Jenkins."""
    schema.assertValid(etree.fromstring(written(run_of(scope="partial", partial_because="no host matched"))))


def test_schema_can_say_no(schema: etree.XMLSchema) -> None:
    """The schema that the reports are held against refuses an attribute that junit-xml alone would write."""
    document = written(every_outcome()).replace(b"<testsuite ", b'<testsuite disabled="0" ', 1)
    assert not schema.validate(etree.fromstring(document))


def test_junitparser_reads_it() -> None:
    """A JUnit library that is not ours finds the hosts, the properties and the five outcomes."""
    suites = junitparser.JUnitXml.fromstring(written(every_outcome()))
    found = {}
    for suite in suites:
        assert "machine_id" in [each.name for each in suite.properties()]  # type: ignore[no-untyped-call]
        for case in suite:
            found[case.name] = [type(result).__name__ for result in case.result]
    assert (suites.tests, suites.failures, suites.errors) == (6, 1, 2)
    assert found == {"headroom[gpu0]": [], "margin[gpu0]": [], "xid[gpu0]": ["Error"], "siblings[gpu1]": ["Failure"],
                     "headroom[gpu1]": ["Skipped"], "ecc[gpu1]": ["Error"]}  # fmt: skip
