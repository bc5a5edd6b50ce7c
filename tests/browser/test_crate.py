"""The RO-Crate passes the public validator (roc-validator) as a Workflow Run Crate, without a network.

The validator resolves the crate's JSON-LD contexts by their addresses. Here its HTTP cache holds, for these addresses,
the terms of the contexts that the crate uses; a term that is not among them fails the validation.
"""

import io
import shutil
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from rocrate_validator import models, services
from rocrate_validator.utils.http import HttpRequester
from urllib3 import HTTPResponse

CONTEXTS = {
    "https://w3id.org/ro/crate/1.1/context": "ro_crate_context.json",
    "https://w3id.org/ro/terms/workflow-run/context": "workflow_run_context.json",
}
# Extends Process Run Crate 0.5, Workflow RO-Crate 1.0 and RO-Crate 1.1, all of which are checked with it.
PROFILE = "workflow-run-crate"


class ContextAdapter(HTTPAdapter):
    """Answers from the files instead of the network."""

    def send(self, request, *arguments, **options) -> requests.Response:
        body = Path(__file__).with_name(CONTEXTS[request.url]).read_bytes()
        answer = HTTPResponse(
            io.BytesIO(body),
            {"Content-Type": "application/ld+json"},
            200,
            preload_content=False,
            request_url=request.url,
        )
        return self.build_response(request, answer)


def validate(folder: Path, cache: Path) -> models.ValidationResult:
    settings = services.ValidationSettings(
        rocrate_uri=str(folder),
        profile_identifier=PROFILE,
        requirement_severity=models.Severity.REQUIRED,
        offline=True,
        cache_path=str(cache),
    )
    HttpRequester.reset()
    HttpRequester.initialize_cache(cache_path=str(cache), offline=False)
    session = HttpRequester().session
    for address in CONTEXTS:
        session.mount(address, ContextAdapter())
        session.get(address, headers={"Accept": "application/ld+json, application/json"})
    return services.validate(settings)


def test_the_public_validator_accepts_the_crate(report, tmp_path):
    result = validate(report.parent, tmp_path / "cache")
    assert [issue.message for issue in result.get_issues()] == []


def test_the_validator_misses_a_workflow_that_is_not_there(report, tmp_path):
    copy = tmp_path / "crate"
    shutil.copytree(report.parent, copy)
    (copy / "workflow" / "Snakefile").unlink()
    result = validate(copy, tmp_path / "cache")
    assert any("Snakefile" in issue.message for issue in result.get_issues())
