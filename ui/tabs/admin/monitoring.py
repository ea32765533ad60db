"""Monitoring: graphs of the machine, the engine and the books, advice, and the rules for alerts.

One piece of HTML that a small script asks for anew while it is seen; rules and memory go over
the REST API.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import gradio as gr

from chat_app import jobs
from chat_app.accounts.permissions import Permission, may
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.clock import MICROS_PER_SECOND, from_micros
from chat_app.flows import advice, monitoring, running, shelf
from chat_app.jobs import JobState
from chat_app.llm import catalogue
from chat_app.monitor import faults, rules
from chat_app.monitor.requests import CLASSES, quantile
from chat_app.monitor.rules import Rule
from chat_app.monitor.series import Slot
from chat_app.monitor.tables import MachineAlert
from ui import parts, plots
from ui.guard import guard
from ui.parts import Card
from ui.plots import Series
from ui.shell import Shell

GIB = 2**30
RUN_DAYS = 30
NAMES = {"1h": "Hour", "24h": "Day", "7d": "Week", "30d": "Month"}
# How a time stands below a graph.
TIMES = {"1h": "%H:%M", "24h": "%H:%M", "7d": "%a %H:%M", "30d": "%d %b"}
_ROOMS = {"page": "Page", "chat": "Chat", "openai": "OpenAI API", "billing": "Billing",
          "account": "Account", "admin": "Admin", "ops": "Health checks"}  # fmt: skip
_LIVE = """
let range = '1h', seen = Date.now();
const ask = () => { seen = Date.now(); trigger('click', { range }); };
element.addEventListener('click', async (event) => {
  const wide = event.target.closest('[data-range]'), free = event.target.closest('[data-free]');
  if (wide) { range = wide.dataset.range; ask(); }
  if (!free) return;
  const said = element.querySelector('[data-said]');
  free.disabled = true; said.textContent = 'Freeing memory…';
  try {
    const how = { method: 'POST', credentials: 'same-origin' };
    const answer = await fetch('/api/performance/optimize/memory', how);
    const done = await answer.json();
    if (!answer.ok) throw new Error(done.error.message);
    const steps = done.steps.map((one) => one.sentence).join(' ');
    said.textContent = `${(done.freed_bytes / 1048576).toFixed(1)} MiB given back. ${steps}`;
  } catch (error) { said.textContent = error.message; }
  free.disabled = false;
});
setInterval(() => {
  const due = range === '1h' ? 15000 : 60000;
  const busy = element.querySelector('[data-free]:disabled, rect.hover:hover');
  if (element.offsetParent && !document.hidden && !busy && Date.now() - seen > due) ask();
}, 5000);
"""
_RULES = """
element.addEventListener('click', async (event) => {
  const button = event.target.closest('[data-act]');
  if (!button) return;
  const row = button.closest('[data-rule]'), said = row.querySelector('[data-said]');
  const get = (name) => row.querySelector(`[name=${name}]`);
  const scale = Number(row.dataset.scale);
  const body = {
    enabled: get('enabled').checked, for_seconds: Number(get('seconds').value),
    threshold: Number(get('threshold').value) * scale,
    channels: [...row.querySelectorAll('[data-channel]:checked')].map((one) => one.dataset.channel),
  };
  const usual = button.dataset.act === 'usual';
  try {
    const answer = await fetch('/api/monitoring/rules/' + row.dataset.rule, {
      method: usual ? 'DELETE' : 'PUT', credentials: 'same-origin',
      headers: usual ? {} : { 'Content-Type': 'application/json' },
      body: usual ? undefined : JSON.stringify(body),
    });
    const rule = await answer.json();
    if (!answer.ok) throw new Error(rule.error.message);
    get('enabled').checked = rule.enabled; get('seconds').value = rule.for_seconds;
    get('threshold').value = rule.threshold / scale;
    for (const one of row.querySelectorAll('[data-channel]'))
      one.checked = rule.channels.includes(one.dataset.channel);
    said.textContent = usual ? 'As usual again' : 'Saved'; said.classList.remove('bad');
  } catch (error) { said.textContent = error.message; said.classList.add('bad'); }
});
"""


@dataclass
class Monitoring:
    """The components."""

    tab: gr.Tab
    page: gr.HTML
    rules: gr.HTML
    running: gr.HTML


def build() -> Monitoring:
    """The layout, without any data."""
    with gr.Tab("Monitoring", id="admin-monitoring") as tab:
        page = gr.HTML(parts.loading(6), elem_id="admin-monitoring-page", js_on_load=_LIVE)
        price = gr.HTML(elem_id="admin-monitoring-running")
        with gr.Column(elem_classes="sheet"):
            gr.HTML(
                '<div class="sheet-head"><h2>Alerts</h2><span class="hint">Told once when a fault '
                "begins, and once when it is over, to all administrators</span></div>"
            )
            listed = gr.HTML(parts.loading(4), elem_id="admin-monitoring-rules", js_on_load=_RULES)
    return Monitoring(tab, page, listed, price)


def needs(c: Monitoring) -> dict[Any, Permission]:
    """What is hidden from staff without the permission."""
    return {c.tab: "machine.read"}


def bind(c: Monitoring, app: App, _shell: Shell, _tab: gr.Tab) -> None:
    """Wire the section: it loads when it is opened, and anew while it is seen."""

    @guard(app, "machine.read")
    async def monitoring_show(user: User) -> dict[Any, Any]:
        """All of the section, for the last hour."""
        page = await asyncio.to_thread(_page, app, "1h", user)
        return {
            c.page: page,
            c.rules: await asyncio.to_thread(_rules, app, user),
            c.running: await asyncio.to_thread(_running, app),
        }

    @guard(app, "machine.read")
    async def monitoring_look(user: User, event: gr.EventData) -> dict[Any, Any]:
        """The graphs again, for the range that was asked for."""
        asked = str((getattr(event, "_data", None) or {}).get("range", ""))
        span = asked if asked in advice.RANGES else "1h"
        return {c.page: await asyncio.to_thread(_page, app, span, user)}

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    c.tab.select(monitoring_show, None, [c.page, c.rules, c.running], **quiet)
    c.page.click(monitoring_look, None, [c.page], trigger_mode="always_last", **quiet)


def _page(app: App, span: str, user: User) -> str:
    seconds, width = advice.RANGES[span]
    bins = advice.look_back(app, seconds=seconds, width=width)
    with app.db.read() as session:
        rows = faults.open_ones(session)
        known, recent = faults.rules_of(session), faults.newest(session, limit=8)
        states = list(jobs.states(session))
        proof = faults.known(session, monitoring.PROOF)
        models = shelf.models(app, session=session)
    latest, now = app.telemetry.latest, app.clock.micros()
    return "".join(
        (
            _top(app, span, now),
            _faults(rows, known),
            _cards(latest, proof, now),
            _graphs(bins, span, width),
            _advice(app, user),
            '<div class="board">',
            _sheet("Models", "", _models(app, models)),
            _sheet("Jobs", "in the background", _jobs(states), wide=False),
            _sheet("Faults", "the newest", _past(recent), wide=True),
            "</div>",
        )
    )


def _top(app: App, span: str, now: int) -> str:
    buttons = "".join(
        f'<button type="button" data-range="{key}" aria-pressed="{str(key == span).lower()}">'
        f"{name}</button>"
        for key, name in NAMES.items()
    )
    seen = app.telemetry.seen_at
    late = not seen or now - seen > 120 * MICROS_PER_SECOND
    looked = "Nothing was measured yet" if not seen else f"Measured {parts.when(seen)}"
    mark = parts.badge("not measuring", "warn") if late else parts.badge("live", "good")
    return (
        f'<div class="ranges"><div role="group" aria-label="Range">{buttons}</div>'
        f'<span class="hint">{mark} {looked} · {parts.esc(app.telemetry.source)} · '
        "graphs in UTC</span></div>"
    )


def _faults(rows: Sequence[MachineAlert], known: dict[str, Rule]) -> str:
    if not rows:
        return '<div class="verdict good" role="status"><b>No fault.</b></div>'
    items = "".join(
        f"<li>{parts.badge('now' if rule.level == 'bad' else 'soon', rule.level)} "
        f"{parts.esc(rule.sentence(row.value))} {parts.esc(rule.advice)} "
        f'<span class="hint">Since {parts.when(row.raised_at)}'
        f"{' · ' + parts.esc(row.place) if row.place else ''}</span></li>"
        for row in rows
        if (rule := known.get(row.rule)) is not None
    )
    worst = (
        "bad"
        if any(known[row.rule].level == "bad" for row in rows if row.rule in known)
        else ("warn")
    )
    return (
        f'<div class="verdict {worst}" role="status"><b>This needs you.</b><ul>{items}</ul></div>'
    )


def _cards(latest: dict[str, float], proof: tuple[Any, int] | None, now: int) -> str:
    def said(name: str, words: Callable[[float], str]) -> str:
        return words(latest[name]) if name in latest else "–"

    proven = "not yet" if proof is None else _ago(now - proof[1])
    problems = 0 if proof is None else int(proof[0]["problems"])
    return parts.cards(
        [
            Card("Processor", said("cpu.percent", _percent), said("cpu.load_1m", _load)),
            Card("Memory", said("memory.percent", _percent),
                 f"this program {said('memory.process_bytes', _bytes)}"),
            Card("Disk free", said("disk.free_bytes", _bytes),
                 f"books {said('db.bytes', _bytes)}, log {said('db.wal_bytes', _bytes)}"),
            Card("Event loop", said("loop.lag_ms", _ms), "late at worst, since the last look"),
            Card("Writing the books", said("db.wait_ms_p95", _ms), "95 of 100 are faster"),
            Card("Answers", said("engine.running", plots.number),
                 f"{said('engine.waiting', plots.number)} waiting"),
            Card("Failed requests", said("http.failed_percent", _percent), "of five minutes"),
            Card("Open holds", said("ledger.holds_open", plots.number),
                 f"oldest {said('ledger.hold_oldest_seconds', _seconds)}"),
            Card("Books proven", proven,
                 "every balance is right" if not problems else f"{problems} discrepancies"),
            Card("Newest backup",
                 said("backup.age_hours", lambda hours: _ago(int(hours * 3600 * 1e6))),
                 "" if "backup.age_hours" in latest else "none in the folder backups"),
        ]
    )  # fmt: skip


def _graphs(bins: list[Slot], span: str, width: int) -> str:
    labels = [f"{from_micros(slot.at * MICROS_PER_SECOND):{TIMES[span]}}" for slot in bins]
    per_minute = width / 60

    def mean(name: str, by: float = 1) -> list[float | None]:
        return [None if (one := slot.tallies.get(name)) is None else one.mean / by for slot in bins]

    def most(name: str, by: float = 1) -> list[float | None]:
        return [None if (one := slot.tallies.get(name)) is None else one.most / by for slot in bins]

    def rate(name: str) -> list[float | None]:
        return [None if not slot.tallies else _sum(slot, name) / per_minute for slot in bins]

    def slow(room: str) -> list[float | None]:
        found = (quantile(advice.buckets_of(slot.tallies, room), 0.95) for slot in bins)
        return [None if value is None else value * 1000 for value in found]

    seen = {name for slot in bins for name in slot.tallies}
    rooms = [room for room in CLASSES if f"http.{room}.requests" in seen and room != "ops"]
    gpus = sorted({name.split(".")[1] for name in seen if name.startswith("gpu.0")
                   or (name.startswith("gpu.") and name.endswith(".memory_percent"))})  # fmt: skip
    drawn = [
        ("Processor and memory", "%", [Series("Processor", mean("cpu.percent")),
                                       Series("This program", mean("cpu.process_percent")),
                                       Series("Memory", mean("memory.percent"))]),
        ("Answers", "at once", [Series("Running", most("engine.running")),
                                Series("Waiting", most("engine.waiting"))]),
        ("Speed", "tokens/s", [Series("Written", mean("engine.tokens_per_second"))]),
        ("Waiting, p95", "ms", [Series("In line", most("engine.queue_ms_p95")),
                                Series("First word", most("engine.ttft_ms_p95"))]),
        ("Requests", "per minute",
         [Series(_ROOMS[room], rate(f"http.{room}.requests")) for room in rooms]),
        ("Request time, p95", "ms", [Series(_ROOMS[room], slow(room)) for room in rooms]),
        ("Event loop and books", "ms", [Series("Loop late, worst", most("loop.lag_ms")),
                                        Series("Write, p95", mean("db.wait_ms_p95")),
                                        Series("Read", mean("db.read_ms"))]),
        ("Memory", "GiB", [Series("This program", mean("memory.process_bytes", GIB)),
                           Series("Models", mean("memory.workers_bytes", GIB)),
                           Series("Swap", mean("swap.used_bytes", GIB))]),
    ]  # fmt: skip
    for gpu in gpus:
        drawn.append(
            (f"GPU {gpu}", "%", [Series("Load", mean(f"gpu.{gpu}.percent")),
                                 Series("Memory", mean(f"gpu.{gpu}.memory_percent"))])
        )  # fmt: skip
    inner = "".join(
        f'<section class="sheet">{_graph(labels, rows, title, unit)}</section>'
        for title, unit, rows in drawn
    )
    return f'<div class="board live">{inner}</div>'


def _graph(labels: list[str], rows: list[Series], title: str, unit: str) -> str:
    known = [row for row in rows if any(value is not None for value in row.values)]
    if not known:
        head = f'<div class="sheet-head"><h2>{parts.esc(title)}</h2></div>'
        return head + parts.empty("Nothing yet", "It appears with the first that is measured.")
    return plots.lines(labels, known, title=title, unit=unit)


def _sum(slot: Slot, name: str) -> float:
    return slot.tallies[name].total if name in slot.tallies else 0.0


def _advice(app: App, user: User) -> str:
    found = advice.analyse(app)
    tips = "".join(
        f"<li>{parts.badge(one.area, 'bad' if one.level == 'bad' else '')}"
        f"<span><span>{parts.esc(one.sentence)}</span> {parts.esc(one.action)}</span></li>"
        for one in found.findings
    )
    inner = f'<ul class="tips">{tips}</ul>' if tips else (
        '<p class="hint">Nothing of the last hour asks for a change.</p>'
    )  # fmt: skip
    button = (
        '<div class="actions"><button type="button" data-free>Free memory</button>'
        '<span class="hint" data-said role="status">Unloads idle models, empties caches</span>'
        "</div>"
        if may(user.role, "machine.write")
        else ""
    )
    return _sheet("Advice", "by the figures of the last hour", inner + button, wide=True)


def _sheet(title: str, hint: str, inner: str, *, wide: bool = False) -> str:
    return (
        f'<section class="sheet{" wide" if wide else ""}"><div class="sheet-head">'
        f'<h2>{parts.esc(title)}</h2><span class="hint">{parts.esc(hint)}</span></div>'
        f"{inner}</section>"
    )


def _models(app: App, views: list[shelf.ModelView]) -> str:
    kinds = {"ready": "good", "available": "good", "loading": "warn", "broken": "bad"}
    loaded = app.engine.stats()["models"]
    rows = [
        [
            f"<b>{parts.esc(view.name)}</b>",
            parts.badge(view.state.replace("_", " "), kinds.get(view.state, "")),
            _bytes(loaded[view.id].get("memory_bytes", 0)) if view.id in loaded else "–",
        ]
        for view in views
    ]
    return parts.table(["Model", "State", "Memory>"], rows, caption="States of the models")


def _jobs(states: list[JobState]) -> str:
    if not states:
        return parts.empty("No job ran yet", "Jobs begin with the server.")
    failing = [row for row in states if row.error]
    failures = sum(row.failures for row in states)
    summary = (
        f"<p>{parts.badge('all well', 'good')} {len(states)} jobs, "
        f"{sum(row.runs for row in states):,} runs, {failures:,} failed ever.</p>"
        if not failing
        else f"<p>{parts.badge(f'{len(failing)} failing', 'bad')} of {len(states)} jobs.</p>"
    )
    shown = sorted(states, key=lambda row: (not row.error, -(row.started_at or 0)))[:8]
    rows = [
        [
            f"{parts.esc(row.name)}"
            + (f"<br><small>{parts.esc(row.error[:160])}</small>" if row.error else ""),
            parts.when(row.started_at) if row.started_at else "–",
            f"{row.runs:,}",
            f"{row.failures:,}",
        ]
        for row in shown
    ]
    table = parts.table(["Job", "Last run", "Runs>", "Failed>"], rows, caption="Jobs")
    return summary + table


def _past(rows: Sequence[MachineAlert]) -> str:
    if not rows:
        return parts.empty("No fault ever", "What was at fault stays listed here.")
    cells = [
        [
            parts.esc(rule.title if (rule := rules.USUAL.get(row.rule)) else row.rule),
            parts.esc(rules.shown(row.value, rule.unit) if rule else row.value),
            parts.when(row.raised_at),
            parts.badge("open", "bad") if row.cleared_at is None else parts.when(row.cleared_at),
            parts.esc(row.place or "everywhere"),
        ]
        for row in rows
    ]
    return parts.table(["Fault", "Seen>", "From", "Until", "Where"], cells, caption="Faults")


def _rules(app: App, user: User) -> str:
    with app.db.read() as session:
        known = faults.rules_of(session)
    own = may(user.role, "machine.write")
    rows = "".join(_rule(rule, own=own) for rule in known.values())
    return f'<div class="rules" data-own="{str(own).lower()}">{rows}</div>'


def _rule(rule: Rule, *, own: bool) -> str:
    scale = rules.GB if rule.unit == "GB" else 1
    off = "" if own else " disabled"
    name = parts.esc(rule.title)
    boxes = "".join(
        f'<label><input type="checkbox" data-channel="{channel}"{off}'
        f"{' checked' if channel in rule.channels else ''}> {channel}</label>"
        for channel in rules.CHANNELS
    )
    buttons = (
        '<button type="button" data-act="save">Save</button>'
        '<button type="button" data-act="usual">Usual</button>'
        if own
        else ""
    )
    way = "above" if rule.above else "below"
    return (
        f'<div class="rule" data-rule="{rule.name}" data-scale="{scale:g}">'
        f'<label class="on"><input type="checkbox" name="enabled"{off}'
        f"{' checked' if rule.enabled else ''}> <b>{name}</b></label>"
        f'<label>{way} <input type="number" min="0" step="any" name="threshold"{off} '
        f'value="{rule.threshold / scale:g}" aria-label="{name}: {way}"> '
        f"{parts.esc(rule.unit)}</label>"
        f'<label>for <input type="number" min="0" max="86400" name="seconds"{off} '
        f'value="{rule.for_seconds}" aria-label="{name}: for seconds"> s</label>'
        f'<span class="by">{boxes}</span><span class="acts">{buttons}</span>'
        '<small data-said role="status"></small></div>'
    )


def _percent(value: float) -> str:
    return f"{value:.0f}%" if value >= 10 or value == 0 else f"{value:.1f}%"


def _load(value: float) -> str:
    return f"load {value:.1f}"


def _bytes(value: float) -> str:
    return f"{value / GIB:.1f} GiB" if value >= GIB / 10 else f"{value / 2**20:.1f} MiB"


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.1f} s"


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min"


def _ago(micros: int) -> str:
    seconds = max(0, micros) // MICROS_PER_SECOND
    for size, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {name} ago"
    return "just now"


def _running(app: App) -> str:
    """The price of running: what each model took and cost in the last days."""
    today = app.clock.now().date()
    found = running.runs(app, since=today - timedelta(days=RUN_DAYS - 1), until=today)
    if not found:
        return ""
    costs, drawn = app.settings.costs, found[0].power
    table = parts.table(
        ["Model", "Answers>", "Tokens>", "Busy>", "Tokens/s>", "Wh>", "Cost>", "Per 1,000 tokens>"],
        [
            (
                parts.esc(_named(one.model)),
                f"{one.answers:,}",
                f"{one.tokens:,}",
                _span(one.engine_ms / 1000),
                f"{one.tokens_per_second:,.1f}",
                _least(one.watt_hours, 1),
                _least(float(one.cost) / 100, 2),
                "–" if one.per_thousand is None else f"{float(one.per_thousand) / 100:,.5f}",
            )
            for one in found
        ],
        caption="Price of running by model",
    )
    watts = (
        f"{drawn.watts:,.0f} W as the GPUs said while a model wrote"
        if drawn.measured
        else f"{drawn.watts:,.0f} W by the setting costs.watts, as no GPU says what it draws"
    )
    hint = f"The last {RUN_DAYS} days, in {costs.currency}; {watts}"
    if not (costs.cents_per_kwh or costs.cents_per_hour):
        hint += "; set [costs] for prices"
    return _sheet("Price of running", hint, table)


def _named(model: str) -> str:
    """What the model is called; its id, if it is in the catalogue no longer."""
    return next((entry.name for entry in catalogue.offered() if entry.id == model), model)


def _least(value: float, digits: int) -> str:
    """A figure, and of one that would be rounded to nothing that there is something."""
    least = 10.0**-digits
    return f"&lt; {least:.{digits}f}" if 0 < value < least else f"{value:,.{digits}f}"


def _span(seconds: float) -> str:
    """A time of work, such as `3 h 20 min` or `12 s`."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60:,} h {minutes % 60} min"
    if seconds >= 120:
        return f"{minutes} min"
    return "&lt; 1 s" if 0 < seconds < 1 else f"{seconds:,.0f} s"
