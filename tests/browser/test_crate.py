"""The RO-Crate passes the public validator (roc-validator), without a network.

The validator resolves the crate's JSON-LD context by its address. Here its HTTP cache holds, for that address, the
terms of the context that the crate uses (ro_crate_context.json); a term that is not among them fails the validation.
"""

import io
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from rocrate_validator import models, services
from rocrate_validator.utils.http import HttpRequester
from urllib3 import HTTPResponse

CONTEXT = "https://w3id.org/ro/crate/1.2/context"


class ContextAdapter(HTTPAdapter):
    """Answers from the file instead of the network."""

    def send(self, request, *arguments, **options) -> requests.Response:
        body = Path(__file__).with_name("ro_crate_context.json").read_bytes()
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
        profile_identifier="ro-crate-1.2",
        requirement_severity=models.Severity.REQUIRED,
        offline=True,
        cache_path=str(cache),
    )
    HttpRequester.reset()
    HttpRequester.initialize_cache(cache_path=str(cache), offline=False)
    session = HttpRequester().session
    session.mount(CONTEXT, ContextAdapter())
    session.get(CONTEXT, headers={"Accept": "application/ld+json, application/json"})
    return services.validate(settings)


def test_the_public_validator_accepts_the_crate(report, tmp_path):
    result = validate(report.parent, tmp_path / "cache")
    assert [issue.message for issue in result.get_issues()] == []
