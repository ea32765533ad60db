"""The program against its own OpenAPI description: generated requests, checked answers (bar 43).

`SCHEMA_EXAMPLES=200` looks for longer, by hand. The seed is fixed either way.
"""

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks as _checks  # noqa: F401 - registers its checks

from tests.api.conftest import Server
from tests.api.matrix import MATRIX

pytestmark = pytest.mark.usefixtures("drills_here")
EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "2"))
WANTED = [
    CHECKS.get_one(name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    )
]


def breaks(server: Server, operation: Any) -> list[str]:
    """How one operation breaks the description, asked as an administrator of its own."""
    person = server.person(admin=True)
    found: list[str] = []

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy())
    def look(case: Any) -> None:
        answer = case.call(headers=dict(person.client.headers), timeout=30)
        try:
            case.validate_response(answer, checks=WANTED)
        except FailureGroup as group:
            asked = f"{answer.request.method} {answer.request.url} {answer.request.body!r}"
            problems = " ".join(str(problem) for problem in group.exceptions)
            found.append(f"{operation.label}: {asked[:300]} -> {answer.status_code} {problems}")

    look()
    return found[:2]


def test_every_operation_is_as_described(server: Server) -> None:
    """No 5xx, no status, header, type or shape that the description does not know."""
    schema = schemathesis.openapi.from_url(f"{server.url}/api/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {operation.label for operation in operations} <= set(MATRIX)
    assert len(operations) > 90
    problems = [problem for operation in operations for problem in breaks(server, operation)]
    assert problems == [], "\n\n".join(problems)
