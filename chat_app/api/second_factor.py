"""REST: two-factor sign-in by one-time codes (TOTP)."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import Field

from chat_app.accounts import totp
from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import Body, Text, errors_in
from chat_app.api.views import Shown
from chat_app.clock import rfc3339
from chat_app.flows import second_factor

router = APIRouter(prefix="/auth/totp", tags=["auth"])
admin = APIRouter(prefix="/admin", tags=["admin"])

Granting = Annotated[SignedIn, Depends(deps.allowed("users.role"))]

Password = Annotated[str, Field(max_length=4096)]
Code = Annotated[
    Text,
    Field(max_length=totp.MAX_CODE, description="Six digits, or one of the backup codes."),
]


class PasswordAgain(Body):
    password: Password


class OneCode(Body):
    code: Code


class PasswordAndCode(Body):
    password: Password
    code: Code


class TotpOut(Shown):
    """How it stands with two-factor sign-in; `verified_until` is how long the last code counts."""

    enabled: bool
    backup_codes_left: int
    verified_until: str | None


class EnrollmentOut(Shown):
    """What an authenticator needs, as text, as a link and as a picture; shown this once."""

    secret: str
    otpauth_uri: str
    qr_svg: str


class BackupCodesOut(Shown):
    """Codes that stand in for the authenticator, each once; shown this once."""

    backup_codes: list[str]


class VerifiedOut(Shown):
    """Until when the code counts in this session."""

    verified_until: str


@router.get("", responses=errors_in(401))
async def standing(app: deps.App, who: deps.CurrentUser) -> TotpOut:
    """Whether two-factor sign-in is on, and how long the last code still counts."""
    found = await second_factor.standing(app, who)
    until = found.verified_until
    return TotpOut(
        enabled=found.enabled,
        backup_codes_left=found.backup_codes_left,
        verified_until=rfc3339(until) if until is not None else None,
    )


@router.post("/enroll", responses=errors_in(401, 403, 409, 422, 429, 503))
async def enroll(
    app: deps.App, who: deps.CurrentUser, ip: deps.ClientIp, body: PasswordAgain, answer: Response
) -> EnrollmentOut:
    """Make a secret for an authenticator. It counts once a first code has confirmed it."""
    answer.headers["Cache-Control"] = "no-store"
    made = await second_factor.enroll(app, who, password=body.password, ip=ip)
    return EnrollmentOut(secret=made.secret, otpauth_uri=made.otpauth_uri, qr_svg=made.qr_svg)


@router.post("/confirm", responses=errors_in(401, 403, 409, 422, 429, 503))
async def confirm(
    app: deps.App, who: deps.CurrentUser, ip: deps.ClientIp, body: OneCode, answer: Response
) -> BackupCodesOut:
    """Turn two-factor sign-in on with a first code. All other sign-ins of the account end."""
    answer.headers["Cache-Control"] = "no-store"
    return BackupCodesOut(backup_codes=await second_factor.confirm(app, who, code=body.code, ip=ip))


@router.post("/verify", responses=errors_in(401, 403, 409, 422, 429, 503))
async def verify(
    app: deps.App, who: deps.CurrentUser, ip: deps.ClientIp, body: OneCode
) -> VerifiedOut:
    """Show a code again in this session, before something that moves money."""
    until = await second_factor.verify(app, who, code=body.code, ip=ip)
    return VerifiedOut(verified_until=rfc3339(until))


@router.post("/backup-codes", responses=errors_in(401, 403, 409, 422, 429, 503))
async def renew_backup_codes(
    app: deps.App, who: deps.CurrentUser, ip: deps.ClientIp, body: PasswordAndCode, answer: Response
) -> BackupCodesOut:
    """Ten new backup codes; the earlier ones are worth nothing from then on."""
    answer.headers["Cache-Control"] = "no-store"
    made = await second_factor.renew_backup_codes(
        app, who, password=body.password, code=body.code, ip=ip
    )
    return BackupCodesOut(backup_codes=made)


@router.post("/disable", status_code=204, responses=errors_in(401, 403, 409, 422, 429, 503))
async def disable(
    app: deps.App, who: deps.CurrentUser, ip: deps.ClientIp, body: PasswordAndCode
) -> None:
    """Turn two-factor sign-in off, with the password and a code or backup code."""
    await second_factor.disable(app, who, password=body.password, code=body.code, ip=ip)


@admin.delete("/users/{id}/totp", status_code=204, responses=errors_in(401, 403, 404))
async def reset(app: deps.App, who: Granting, id: deps.UserId) -> None:
    """Turn two-factor sign-in off for somebody who lost it. All their sign-ins end."""
    await second_factor.reset(app, admin_id=deps.user_id(who), user_id=id)
