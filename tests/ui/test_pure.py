"""The console's pure parts: rates, units, commands, the prompt's language, columns, settings, keys, themes."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from rich.cells import cell_len
from textual.color import Color

from emulator.control.views import CpuView, DomainView, HostView, Overview, VcpuSummary
from emulator.errors import UserError
from xenconsole.command import Confirm
from xenconsole.command_line import Surroundings, complete, parse, usage_at
from xenconsole.commands import COMMANDS, GROUPS, find_command, xl_line
from xenconsole.journal import Entry, Journal
from xenconsole.keymap import checked_keymap
from xenconsole.news import News
from xenconsole.rates import HISTORY, Rates
from xenconsole.settings import SETTINGS, Settings, load_settings, read_settings
from xenconsole.themes import ThemeError, load_themes, parse_theme, stamp, theme_folders
from xenconsole.units import amount, braille, byte_rate, clock, fit, from_home, gauge, offset_of, printable, size, span
from xenconsole.widgets.columns import BY_KEY, COLUMNS, Row, arrange, cells
from xenconsole.widgets.domain_table import DomainTable

SECOND = 1_000_000_000
AROUND = Surroundings({0: "Domain-0", 1: "hello", 12: "web one"}, 1, {"column": ("cpu", "mem"), "theme": ("dark",), "snapshot": ("a", "b")})


def overview(at_s: float, cpu_s: float = 0.0, hypercalls: int = 0, *, started: float = 1.0, domid: int = 1) -> Overview:
    view = DomainView(
        domid=domid,
        name="d",
        cpu_ns=int(cpu_s * 1e9),
        hypercalls=hypercalls,
        vcpus=(VcpuSummary(vcpu=0, cpu_ns=int(cpu_s * 1e9)),),
    )
    cpus = (CpuView(cpu=0, busy_ns=int(cpu_s * 1e9)),)
    host = HostView(started_unix=started, uptime_ns=int(at_s * 1e9), cpus=cpus, engine_cpu_ns=int(cpu_s * 1e9))
    return Overview(host=host, domains=(view,))


def test_rates_are_per_second_of_the_engines_clock() -> None:
    rates = Rates(smooth_s=0)
    rates.feed(overview(10, 5.0, 100))
    rates.feed(overview(12, 6.0, 300))
    assert rates.of(1).cpu == pytest.approx(50)
    assert rates.of(1).vcpus == pytest.approx((50,))
    assert rates.of(1).hypercalls == pytest.approx(100)
    assert rates.cpus == pytest.approx((50,))
    assert rates.engine_cpu == pytest.approx(50)


def test_a_first_sight_and_a_repeated_overview_give_no_rate() -> None:
    rates = Rates(smooth_s=0)
    rates.feed(overview(10, 5.0, 100))
    assert rates.of(1).cpu == 0
    rates.feed(overview(11, 5.5, 200))
    before = rates.of(1)
    rates.feed(overview(11, 5.5, 200))
    assert rates.of(1) == before
    assert rates.of(99).cpu == 0


def test_a_counter_that_goes_back_gives_zero_never_a_negative_rate() -> None:
    rates = Rates(smooth_s=0)
    rates.feed(overview(10, 5.0, 100))
    rates.feed(overview(11, 1.0, 20))
    assert rates.of(1).cpu == 0
    assert rates.of(1).hypercalls == 0


def test_another_engine_starts_afresh() -> None:
    rates = Rates(smooth_s=0)
    rates.feed(overview(100, 5.0, 100))
    rates.feed(overview(101, 6.0, 100))
    rates.feed(overview(2, 0.5, 10, started=99.0))
    assert rates.of(1).cpu == 0
    assert rates.history(1) == ()


def test_history_is_bounded_and_one_point_an_interval() -> None:
    rates = Rates(smooth_s=0, interval_s=1.0)
    for tick in range(1, 4 * (HISTORY + 20)):
        rates.feed(overview(tick / 4, tick / 8))
    assert len(rates.history(1)) == HISTORY
    assert rates.history(1)[-1] == pytest.approx(50)


def test_a_domain_that_is_gone_is_forgotten() -> None:
    rates = Rates()
    rates.feed(overview(1, domid=1))
    rates.feed(overview(2, domid=2))
    assert set(rates.all()) == {2}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.4, "0.4"), (9.96, "10"), (999, "999"), (5234, "5.2k"), (48_000, "48k"), (1.3e6, "1.3M"), (1e30, "lots")],
)
def test_amounts_take_four_cells_at_most(value: float, text: str) -> None:
    assert amount(value) == text


def test_sizes_rates_and_times_carry_units() -> None:
    assert (size(8192), size(262144, long=True), size(1.5 * 1024 * 1024)) == ("8M", "256 MiB", "1.5G")
    assert (byte_rate(0), byte_rate(87), byte_rate(1229, long=True)) == ("0", "87", "1.2 KiB/s")
    assert (span(42), span(200), span(7500), span(273_600)) == ("42 s", "3 min", "2 h 05 min", "3 d 4 h")
    assert (clock(7.36), clock(11561)) == ("0:07.3", "3h12:41")


def test_gauge_and_history_keep_their_width_and_show_the_least() -> None:
    for share in (0.0, 0.001, 0.01, 0.5, 1.0, 7.0):
        assert len("".join(gauge(share, 10))) == 10
    assert gauge(0.01, 10)[0] == "━"
    assert len(braille([1, 50, 100], 6, 100)) == 6
    assert braille([0, 0], 1, 100) == " "
    assert braille([100, 100], 1, 100) == "⣿"


def test_text_of_a_guest_cannot_steer_the_terminal_and_fits_in_cells() -> None:
    assert printable("a\x1b[31m\x07b") == "a·[31m·b"
    for text in ("", "abc", "名前名前名前", "a名b名c名d"):
        assert cell_len(fit(text, 5)) == 5
    assert fit("abcdef", 4) == "abc…"


def test_the_command_table_is_sound() -> None:
    names = [name for command in COMMANDS for name in (command.name, *command.aliases)]
    keys = [key for command in COMMANDS for key in command.keys.split(",") if key]
    assert len(names) == len(set(names))
    assert len(keys) == len(set(keys))
    assert {command.group for command in COMMANDS} == set(GROUPS)
    assert all(command.xl for command in COMMANDS if command.engine)
    assert all(command.loses for command in COMMANDS if command.confirm is not Confirm.NONE)


def test_the_xl_line_quotes_what_a_shell_would_split() -> None:
    create, rename = find_command("create"), find_command("rename")
    assert create is not None and rename is not None
    assert xl_line(create, {"file": "my guest.cfg", "paused": True}) == "xl create -p 'my guest.cfg'"
    assert xl_line(create, {"file": "a.cfg"}) == "xl create a.cfg"
    sched = find_command("sched")
    assert sched is not None
    assert xl_line(sched, {"domid": "web", "weight": 512, "cap": 0}) == "xl sched-credit2 -d web -w 512 -c 0"
    assert xl_line(sched, {"domid": "web", "weight": 512}) == "xl sched-credit2 -d web -w 512"
    assert xl_line(sched, {"whole": True, "ratelimit_us": 500}) == "xl sched-credit2 -s -r 500"
    assert xl_line(rename, {"domid": "web one", "new": "x;y"}) == "xl rename 'web one' 'x;y'"


@pytest.mark.parametrize(
    ("line", "name", "values"),
    [
        ("pause", "pause", {"domid": 1}),
        ("pause hello", "pause", {"domid": 1}),
        ("pause 12", "pause", {"domid": 12}),
        ("destroy 'web one'", "destroy", {"domid": 12}),
        ("create -p a.cfg", "create", {"file": "a.cfg", "paused": True}),
        ("mem-set 512", "mem-set", {"domid": 1, "kib": 512 << 10}),
        ("mem-set hello 1g", "mem-set", {"domid": 1, "kib": 1 << 20}),
        ("rename new", "rename", {"domid": 1, "new": "new"}),
        ("rename 12 new", "rename", {"domid": 12, "new": "new"}),
        ("restore a", "restore", {"domid": 1, "name": "a"}),
        ("restore hello a", "restore", {"domid": 1, "name": "a"}),
        ("snapshot", "snapshot", {"domid": 1}),
        ("snapshot hello before update", "snapshot", {"domid": 1, "name": "before update"}),
        ("snapshot before", "snapshot", {"domid": 1, "name": "before"}),
        ("inspect hello rings", "inspect", {"domid": 1, "tab": "rings"}),
        ("sort mem", "sort", {"column": "mem"}),
        ("q", "quit", {}),
        ("unp", "unpause", {"domid": 1}),
        ("sched", "sched-credit2", {}),
        ("sched 512", "sched-credit2", {"domid": 1, "weight": 512}),
        ("sched-credit2 -d 12 -w 512 -c 50", "sched-credit2", {"domid": 12, "weight": 512, "cap": 50}),
        ("sched-credit -s -t 5 -r 1000", "sched-credit", {"whole": True, "tslice_ms": 5, "ratelimit_us": 1000}),
        ("sched-rtds -d hello -p 10000 -b 4000 -e 0", "sched-rtds", {"domid": 1, "period": 10000, "budget": 4000, "extratime": 0}),
        ("sched-rtds -d hello -v all -b 3000", "sched-rtds", {"domid": 1, "vcpu": "all", "budget": 3000}),
        ("vcpu-pin hello all 0-1 1", "vcpu-pin", {"domid": 1, "vcpu": "all", "cpus": "0-1", "soft": "1"}),
        ("cpupool-create name=p sched=rtds cpus=1", "cpupool-create", {"settings": "name=p sched=rtds cpus=1"}),
        ("cpupool-migrate p", "cpupool-migrate", {"domid": 1, "pool": "p"}),
    ],
)
def test_a_typed_line_is_understood(line: str, name: str, values: dict[str, object]) -> None:
    parsed = parse(line, AROUND)
    assert (parsed.command.name, parsed.values) == (name, values)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "nothing typed"),
        ("frobnicate", "no command 'frobnicate'"),
        ("pause nobody", "no domain is named 'nobody'"),
        ("pause 77", "no domain has the ID 77"),
        ("create", "create needs xl.cfg file"),
        ("sort colour", "no column 'colour'"),
        ("delay soon", "'soon' is not a number"),
        ("pause 'hello", "cannot read"),
        ("sched -d hello -w", "-w needs 1 to 65535"),
        ("freeze now", "freeze does not take 'now'"),
    ],
)
def test_a_wrong_line_says_what_is_wrong(line: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(line, AROUND)
    assert told in caught.value.line()


def test_completion_offers_commands_domains_and_words() -> None:
    assert complete("re", AROUND) == ["read-only", "reboot", "rename", "restart-engine", "restore"]
    assert complete("pause ", AROUND) == ["hello", "'web one'"]
    assert complete("inspect Dom", AROUND) == ["Domain-0"]
    assert complete("restore hello ", AROUND) == ["a", "b"]
    assert complete("sort c", AROUND) == ["cpu"]
    assert complete("nonsense ", AROUND) == []
    assert usage_at("restore x").startswith("restore [DOMAIN] SNAPSHOT")


def row(**changes: object) -> Row:
    view = DomainView(domid=3, name="n" * 40, state="r-----", mem_kib=8192, vcpus=(VcpuSummary(vcpu=0),), **changes)  # type: ignore[arg-type]
    return Row(view, Rates().of(3), (0.0, 100.0), 100.0)


@pytest.mark.parametrize("width", [20, 40, 60, 79, 99, 119, 150, 239, 400])
def test_columns_fit_every_width_and_keep_the_important_ones(width: int) -> None:
    layout = arrange(width)
    keys = [placed.column.key for placed in layout.columns]
    assert keys[:2] == ["id", "name"]
    if width >= 40:
        assert {"state", "cpu"} <= set(keys)
    if width >= 79:
        assert {"history", "vcpus", "mem", "max", "hypercalls", "events", "traffic"} <= set(keys)
    if width >= 40:
        assert layout.columns[-1].x + layout.columns[-1].width <= width
    for placed, (_, text) in zip(layout.columns, cells(row(), layout), strict=True):
        assert cell_len(text) == placed.width


def test_every_style_of_a_column_is_one_of_the_tables() -> None:
    states = ("r-----", "-b----", "--p---", "---s--", "----c-", "-----d", "")
    for state in states:
        made = cells(
            row(crash="x" if "c" in state else "") if not state else Row(DomainView(domid=1, state=state), Rates().of(1), ()),
            arrange(240),
        )
        assert {f"table--{style}" for style, _ in made} <= DomainTable.COMPONENT_CLASSES
    assert set(BY_KEY) == {column.key for column in COLUMNS}


def test_settings_are_read_and_broken_ones_named_and_skipped() -> None:
    settings, problems = read_settings(
        'theme = "light"\ndelay = 0\nconfirm = "sometimes"\nread-only = true\ncolour = 1\n[keys]\ndestroy = "ctrl+d"\nhelp = 3\n',
        "c.toml",
    )
    assert (settings.theme, settings.delay, settings.read_only) == ("light", 0.25, True)
    assert dict(settings.keys) == {"destroy": "ctrl+d"}
    assert len(problems) == 4
    assert all(line.startswith("c.toml: skipped") for line in problems)
    assert "takes always, destructive or never" in " ".join(problems)


def test_a_settings_file_that_is_no_toml_gives_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    assert load_settings(path) == (Settings(), ())
    path.write_bytes(b"theme = \n")
    assert load_settings(path)[1][0].startswith(f"{path}: not read")
    path.write_bytes(b"\xff\xfe")
    assert "no UTF-8" in load_settings(path)[1][0]
    path.write_bytes(b"#" * (1 << 19))
    assert "larger than" in load_settings(path)[1][0]
    assert {setting.name for setting in SETTINGS} | {"keys"} == {field.name for field in fields(Settings)}


def test_key_clashes_and_unknown_names_are_told_and_dropped() -> None:
    good, problems = checked_keymap(
        {
            "table.open": "ctrl+o",
            "table.mark": "j",
            "nothing": "x",
            "table.first": "hyper+foo",
            "table.last": "$",
            "console.escape": "ctrl+e",
        },
        (DomainTable,),
    )
    assert good == {"table.open": "ctrl+o", "table.last": "dollar_sign"}
    assert len(problems) == 3
    assert any("table.mark = 'j': already means table.down" in line for line in problems)


def test_two_keys_can_be_swapped() -> None:
    good, problems = checked_keymap({"table.open": "space", "table.mark": "enter"}, (DomainTable,))
    assert not problems
    assert good == {"table.open": "space", "table.mark": "enter"}


def test_the_shipped_themes_are_good_and_readable() -> None:
    themes, problems = load_themes(theme_folders()[:1])
    assert not problems
    assert {"dark", "light", "ansi", "high-contrast", "colour-blind"} <= set(themes)
    for name, theme_file in themes.items():
        theme = theme_file.theme
        if theme.ansi:
            continue
        behind = Color.parse(theme.background or "")
        least = 7.0 if name == "high-contrast" else 4.5
        for variable in (
            "state-running",
            "state-blocked",
            "state-paused",
            "state-crashed",
            "dim",
            "mark",
            "notice",
            "trouble",
            "ok",
        ):
            ratio = _contrast(behind, Color.parse(theme.variables[variable]))
            assert ratio >= least, f"{name}: {variable} has contrast {ratio:.1f}"


def _contrast(a: Color, b: Color) -> float:
    def luminance(color: Color) -> float:
        parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in color.normalized]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


GOOD = 'name = "mine"\n[colors]\nprimary="#fff"\nforeground="#fff"\nbackground="#000"\nsurface="#000"\npanel="#111"\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name = ", ""),
        ('name = "Bad Name"', "name must be"),
        (GOOD.replace('primary="#fff"\n', ""), "colors.primary is missing"),
        (GOOD + 'glow="#fff"', "colors.glow: no such colour"),
        (GOOD.replace("#111", "mauvish"), "'mauvish' is no colour"),
        (GOOD + "[variables]\nrule=3", "variables.rule must be a colour"),
        ('dark="yes"\n' + GOOD, "dark and ansi take"),
        ("shadow=1\n" + GOOD, "shadow: no such entry"),
    ],
)
def test_a_broken_theme_says_what_is_wrong(text: str, told: str) -> None:
    with pytest.raises(ThemeError) as caught:
        parse_theme(text)
    assert told in str(caught.value)


def test_a_broken_theme_file_is_named_and_the_users_replaces_ours(tmp_path: Path) -> None:
    ours, users = tmp_path / "a", tmp_path / "b"
    ours.mkdir()
    users.mkdir()
    (ours / "mine.toml").write_text(GOOD)
    before = stamp((ours, users))
    (users / "mine.toml").write_text(GOOD.replace("#111", "#222"))
    (users / "broken.toml").write_text("name")
    themes, problems = load_themes((ours, users))
    assert themes["mine"].theme.panel == "#222"
    assert len(problems) == 1
    assert "broken.toml" in problems[0]
    assert stamp((ours, users)) != before


def test_news_are_told_until_the_console_is_looked_at() -> None:
    news = News()
    quiet = DomainView(domid=1, console_end=10, console_bell=1)
    loud = DomainView(domid=1, console_end=20, console_bell=1)
    ringing = DomainView(domid=1, console_end=20, console_bell=2)
    news.feed([quiet], [])
    assert news.of == {1: ""}
    news.feed([loud], [])
    assert news.of == {1: "activity"}
    news.feed([ringing], [])
    assert news.of == {1: "bell"}
    news.feed([ringing], [1])
    news.feed([ringing], [])
    assert news.of == {1: ""}


def test_a_journal_is_bounded_and_counts_all() -> None:
    journal = Journal(limit=3)
    journal.extend(Entry(float(n), "s", str(n)) for n in range(10))
    assert journal.added == 10
    assert [entry.text for entry in journal.entries] == ["7", "8", "9"]


def test_offsets_are_read_as_people_write_them() -> None:
    assert [offset_of(text) for text in ("0", "7168", "7k", "0x1c00", "10M", " 1G ")] == [0, 7168, 7168, 7168, 10 << 20, 1 << 30]
    assert {offset_of(text) for text in ("", "-1", "0x", "7q", "1.5k", "k", "٣")} == {-1}


def test_a_path_in_the_users_own_folder_starts_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    assert [from_home(path) for path in ("/home/anna/disks", "/home/anna", "/home/annabel", "/srv")] == ["~/disks", "~", "/home/annabel", "/srv"]
