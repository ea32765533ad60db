"""Rules that hold without any model: what each found, how grave, and in words with the number.

A permanent layer beside the model, and all there is while there is none. Pure functions of the
figures of an event. Knows no state and no time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import expm1

from chat_app.ml.fraud.features import NUMBER, PLACE

HOLD, REVIEW = 80.0, 50.0  # points from which an event is held or looked at
SURE, LIKELY, WATCHED, ODD = 90.0, 60.0, 30.0, 10.0


@dataclass(frozen=True)
class Rules:
    """From where on each rule speaks; 0 switches a rule off."""

    failed_topups: int = 3  # in 10 minutes, of a user, device or card
    small_topups: int = 4  # different small amounts in an hour
    moved_share: float = 0.8  # of a top-up of the last 24 hours
    accounts_per_device: int = 5  # new there within 24 hours
    accounts_per_address: int = 8
    redeems_per_device: int = 3  # of a device or card in 30 days
    redeems_per_code: int = 10  # in an hour
    refunds: int = 2  # in 30 days, and more than half of the top-ups
    refund_share: float = 0.5
    burn: float = 8.0  # times the own 95th percentile of ten minutes
    takeover_z: float = 3.0
    foreign: float = 0.5  # from how strange a place on it may be somebody else: 1 is never seen
    seized_hours: float = 24.0  # after a password that was changed from such a place
    new_hours: float = 1.0  # an account as young as this with an amount of the top percent
    odd_share: float = 0.005  # of the own events at this hour, after 50 events


@dataclass(frozen=True)
class Finding:
    """A rule that spoke: its name, its points and the sentence for people."""

    rule: str
    points: float
    text: str


_SENDING = NUMBER["transfer_out"]
_TOPPING = (NUMBER["topup"], NUMBER["topup_failed"])
_FREE = (NUMBER["signup_bonus"], NUMBER["voucher"], NUMBER["transfer_out"], NUMBER["transfer_in"])
_VOUCHER, _REFUND, _MESSAGE = NUMBER["voucher"], NUMBER["refund"], NUMBER["message"]
_LOGIN, _PASSWORD = NUMBER["login"], NUMBER["password_change"]
_MOVING = (*_TOPPING, _SENDING, NUMBER["voucher"], NUMBER["refund"], NUMBER["message"])
_STRANGE = "from a device and a network that are new to the account"
P = PLACE
_FOREIGN, _SEIZED, _PAYEE = P["foreign"], P["since_seized"], P["new_payee"]
(_TYPE, _FAILED, _SMALL, _MOVED, _DEVICE, _ADDRESS, _REDEEMS, _CODE, _REFUNDS, _RATIO, _BURN,
 _SPEND, _NEW_IP, _NEW_DEVICE, _Z, _AGE, _TOP, _HOUR, _EVENTS) = (
    P["type"], P["failed_10m"], P["small_1h"], P["moved_on"], P["accounts_device"],
    P["accounts_ip"], P["redeems_place"], P["code_1h"], P["refunds_30d"], P["refund_ratio"],
    P["burn"], P["spend_10m"], P["new_ip"], P["new_device"], P["amount_z"], P["account_hours"],
    P["over_p99"], P["hour_share"], P["events"],
)  # fmt: skip


def judge(f: Sequence[float], rules: Rules) -> list[Finding]:
    """What the rules find in an event's figures, the gravest first; mostly nothing."""
    found: list[Finding] = []
    kind = f[_TYPE]
    say = found.append
    if kind in _TOPPING:
        if rules.failed_topups and f[_FAILED] >= rules.failed_topups:
            say(Finding("card_testing", SURE, f"{f[_FAILED]:.0f} failed top-ups in 10 minutes"))
        elif rules.small_topups and f[_SMALL] >= rules.small_topups:
            text = f"{f[_SMALL]:.0f} top-ups of different small amounts in an hour"
            say(Finding("card_testing", SURE, text))
    elif kind in _FREE:
        _free(f, kind, rules, say)
    elif kind == _REFUND:
        often = rules.refunds and f[_REFUNDS] >= rules.refunds
        if often and f[_RATIO] > rules.refund_share:
            text = f"{f[_REFUNDS]:.0f} refunds in 30 days, {f[_RATIO]:.0%} of the top-ups"
            say(Finding("refund_abuse", LIKELY, text))
    elif kind == _MESSAGE and rules.burn and f[_BURN] > rules.burn:
        text = f"{f[_SPEND]:.0f} credits in 10 minutes, {f[_BURN]:.0f} times the usual peak"
        say(Finding("token_burn", LIKELY, text))
    if rules.foreign and f[_FOREIGN] >= rules.foreign:
        _stranger(f, kind, rules, say)
    if kind in _MOVING:
        _anywhere(f, rules, say)
    return found


def _stranger(
    f: Sequence[float], kind: float, rules: Rules, say: Callable[[Finding], None]
) -> None:
    """Somebody acts in an account of others' from a place that it never saw before these days."""
    if kind == _LOGIN:
        say(Finding("stranger", WATCHED, f"a sign-in {_STRANGE}"))
    elif kind == _PASSWORD:
        say(Finding("takeover", LIKELY, f"the password is changed {_STRANGE}"))
    elif kind in (_SENDING, _REFUND):
        hours = expm1(f[_SEIZED])
        if hours < rules.seized_hours:
            text = f"sent {_STRANGE}, {hours:.1f} hours after the password was changed there"
            say(Finding("takeover", SURE, text))
        elif f[_PAYEE]:
            say(Finding("takeover", LIKELY, f"sent to somebody new {_STRANGE}"))
    elif rules.takeover_z and f[_Z] > rules.takeover_z:
        text = f"{_STRANGE}, and {f[_Z]:.1f} standard deviations from the usual"
        say(Finding("takeover", LIKELY, text))


def _free(f: Sequence[float], kind: float, rules: Rules, say: Callable[[Finding], None]) -> None:
    if kind == _SENDING and rules.moved_share and f[_MOVED] >= rules.moved_share:
        text = f"{f[_MOVED]:.0%} of a top-up of the last 24 hours is sent on"
        say(Finding("topup_then_transfer", SURE, text))
    if rules.accounts_per_device and f[_DEVICE] >= rules.accounts_per_device:
        text = f"{f[_DEVICE]:.0f} accounts new on this device within 24 hours"
        say(Finding("many_accounts", SURE, text))
    elif rules.accounts_per_address and f[_ADDRESS] >= rules.accounts_per_address:
        text = f"{f[_ADDRESS]:.0f} accounts new at this address within 24 hours"
        say(Finding("many_accounts", SURE, text))
    if kind == _VOUCHER:
        if rules.redeems_per_device and f[_REDEEMS] >= rules.redeems_per_device:
            text = f"{f[_REDEEMS]:.0f} codes redeemed on this device in 30 days"
            say(Finding("voucher_abuse", SURE, text))
        elif rules.redeems_per_code and f[_CODE] >= rules.redeems_per_code:
            text = f"this code was redeemed {f[_CODE]:.0f} times in an hour"
            say(Finding("voucher_abuse", SURE, text))


def _anywhere(f: Sequence[float], rules: Rules, say: Callable[[Finding], None]) -> None:
    far = rules.takeover_z and f[_Z] > rules.takeover_z
    if far and f[_NEW_IP] and f[_NEW_DEVICE] and not f[_FOREIGN]:
        text = f"a new address, a new device, and {f[_Z]:.1f} standard deviations from the usual"
        say(Finding("takeover", LIKELY, text))
    if f[_TOP] and f[_AGE] < rules.new_hours:
        text = f"the account is {f[_AGE] * 60:.0f} minutes old and the amount in the top percent"
        say(Finding("new_account", LIKELY, text))


def odd_hour(f: Sequence[float], rules: Rules) -> Finding | None:
    """An hour at which this user never comes; it only adds to another signal."""
    if rules.odd_share and f[_HOUR] < rules.odd_share and expm1(f[_EVENTS]) >= 50:
        share = f"{f[_HOUR]:.1%}"
        return Finding("odd_hour", ODD, f"{share} of the user's events are at this hour")
    return None
