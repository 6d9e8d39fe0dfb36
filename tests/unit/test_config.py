"""xl.cfg files: what they mean, and that a wrong one is told by file, line and cause."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.dom0.cfgfile import parse_settings
from emulator.dom0.config import DomainConfig, load_config, parse_config
from emulator.errors import UserError
from tests.growth import times_dearer

MINIMAL = 'name = "guest"\nkernel = "/boot/k"\n'


def parse(text: str) -> DomainConfig:
    return parse_config(MINIMAL + text, file="g.cfg")


def value(text: str) -> object:
    return parse_settings(f"a = {text}\n", "g.cfg")["a"].value


def test_a_minimal_file_has_xls_defaults() -> None:
    config = parse("")
    assert (config.name, config.kernel, config.type, config.file) == ("guest", Path("/boot/k"), "pv", "g.cfg")
    assert (config.memory_mib, config.maxmem_mib, config.vcpus, config.maxvcpus) == (32, 32, 1, 1)
    assert (config.on_poweroff, config.on_reboot, config.on_crash) == ("destroy", "restart", "destroy")
    assert (config.ramdisk, config.cmdline, config.cpus, config.cpu_weight, config.cap) == (None, "", "", None, None)
    assert (config.disk, config.vif, config.warnings) == ((), (), ())


def test_every_key_is_read() -> None:
    config = parse(
        """
        type = 'pv'; ramdisk = "/boot/i"
        memory = 0x100   # hexadecimal
        maxmem = 0400
        vcpus = "2"
        maxvcpus = 4
        cpus = "0-3,^1"
        cpu_weight = 512
        cap = 50
        root = "/dev/xvda1 ro"
        extra = "console=hvc0"
        disk = [ 'phy:/dev/x,xvda,w',
                 "file:/y,xvdb,r",  # the second
        ]
        vif = [ '' ]
        on_poweroff = 'preserve'; on_reboot = "destroy"; on_crash = "restart"
        uuid = "06ED00FE-1162-4FC4-B5D8-11993EE4A8B9"
        """.replace("\n        ", "\n")
    )
    assert (config.memory_mib, config.maxmem_mib, config.vcpus, config.maxvcpus) == (256, 256, 2, 4)
    assert (config.cpus, config.cpu_weight, config.cap) == ("0-3,^1", 512, 50)
    assert (config.ramdisk, config.cmdline) == (Path("/boot/i"), "root=/dev/xvda1 ro console=hvc0")
    assert (config.disk, config.vif) == (("phy:/dev/x,xvda,w", "file:/y,xvdb,r"), ("",))
    assert (config.on_poweroff, config.on_reboot, config.on_crash) == ("preserve", "destroy", "restart")
    assert config.uuid == "06ed00fe-1162-4fc4-b5d8-11993ee4a8b9"
    assert config.values["memory"] == "0x100"
    assert not config.warnings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'it''s'"[:4], "it"),
        (r"'it\'s'", "it's"),
        (r'"a\"b\\c\n\t\x41\101"', 'a"b\\c\n\tAA'),
        ("'#; not a comment'", "#; not a comment"),
        ("12", "12"),
        ("[]", ()),
        ("[ 1, ]", ("1",)),
        ("[\n'a' # first\n,\n\n[ 'b', ['c'] ],\n]", ("a", ("b", ("c",)))),
    ],
)
def test_values(text: str, expected: object) -> None:
    assert value(text) == expected


def test_the_last_setting_wins_and_plus_equals_adds() -> None:
    config = parse("memory=1\nmemory=64\nextra='a'\nextra+=' b'\ndisk=['x,,xvda']\ndisk+=['y,,xvdb','z,,xvdc']\nvif += ['bridge=v']")
    assert (config.memory_mib, config.cmdline, config.disk, config.vif) == (64, "a b", ("x,,xvda", "y,,xvdb", "z,,xvdc"), ("bridge=v",))


def test_disks_are_parsed_where_they_stand() -> None:
    config = parse("memory=1\n\ndisk = [ 'format=raw,vdev=xvda,access=ro,target=root.img' ]")
    assert [(disk.vdev, disk.target.name, disk.readonly) for disk in config.disks] == [("xvda", "root.img", True)]
    with pytest.raises(UserError, match=r"g\.cfg:\d: disk 'root\.img,qcow2,xvda': character 10: unknown value for format"):
        parse("memory=1\ndisk=['root.img,qcow2,xvda']")


def test_line_ends_of_other_systems_and_a_last_line_without_one_are_let_pass() -> None:
    assert parse("memory = 64\r\n# the end").memory_mib == 64


def test_cmdline_wins_over_root_and_extra_with_a_warning() -> None:
    config = parse("cmdline='a'\nroot='b'\n")
    assert config.cmdline == "a"
    assert config.warnings == ("g.cfg:3: warning: ignoring root= and extra= in favour of cmdline=",)


def test_unknown_keys_warn_and_known_ones_without_effect_say_so() -> None:
    config = parse("memroy=5\nvnc=1\n")
    assert config.warnings == ("g.cfg:3: warning: unknown key 'memroy'", "g.cfg:4: warning: 'vnc' has no effect here")
    assert len(parse("".join(f"x{i}=1\n" for i in range(100))).warnings) == 21


def test_memory_follows_maxmem_when_it_is_alone() -> None:
    assert parse("maxmem=96").memory_mib == 96


def test_the_same_file_gives_the_same_uuid_and_another_name_another() -> None:
    assert parse("").uuid == parse("").uuid != parse("name='other'").uuid


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("memory", "g.cfg:3: expected '=' after 'memory', not the end of the file"),
        ("memory = ", "g.cfg:3: expected a string, a number or a list, not the end of the file"),
        ("memory =\n64", "g.cfg:3: expected a string, a number or a list, not the end of the line"),
        ("memory = 64 65", "g.cfg:3: expected the end of the line after 'memory', not '65'"),
        ("\n\nx = ['a' 'b']", "g.cfg:5: expected ',' or ']' in a list, not 'b'"),
        ("x = ['a',\n'b'", "g.cfg:4: expected ',' or ']' in a list, not the end of the file"),
        ("x = [,]", "g.cfg:3: expected a string, a number or a list, not ','"),
        ("x = " + "[" * 40, "g.cfg:3: lists nested more than 32 deep"),
        ("x = 'abc", "g.cfg:3: a string without its closing quote: 'abc"),
        ("x = 'a\nb'", "g.cfg:3: a string without its closing quote: 'a"),
        (r"x = 'a\q'", r"g.cfg:3: a string has an unknown escape '\q'"),
        (r"x = 'a\0'", "g.cfg:3: a string has a NUL character in it"),
        ("import os", "g.cfg:3: expected '=' after 'import', not 'os'"),
        ("x = (1, 2)", "g.cfg:3: cannot read '(1, 2)' (a cfg file is data, not Python)"),
        ("Memory = 4", "g.cfg:3: cannot read 'Memory = 4' (names are lower case, text needs quotes)"),
        ("\x1b[2J", r"g.cfg:3: cannot read '\x1b[2J'"),
        ("= 4", "g.cfg:3: expected a name, not '='"),
        ("x='a'\nx+=['b']", 'g.cfg:4: x: can\'t add [list] to "string" or vice versa'),
        ("memory = 'lots'", "g.cfg:3: memory: 'lots' is not a valid number"),
        ("memory = 09", "g.cfg:3: memory: '09' is not a valid number"),
        ("memory = 0", "g.cfg:3: memory: 0 is not between 1 and 1048576"),
        ("memory = '-5'", "g.cfg:3: memory: -5 is not between"),
        ("memory = [64]", "g.cfg:3: memory: is a list but should be a single value"),
        ("memory = 1\nmemory += 2", "g.cfg:4: memory: can't use += with numbers"),
        ("memory = 64\nmaxmem = 32", "g.cfg:4: maxmem: 32 is less than memory (64)"),
        ("vcpus = 1000", "g.cfg:3: vcpus: 1000 is not between 1 and 128"),
        ("disk = 'phy:x'", "g.cfg:3: disk: is a single value but should be a list"),
        ("disk = [['x']]", "g.cfg:3: disk: has a list in it where a string belongs"),
        ("type = 'hvm'", "g.cfg:3: type: 'hvm' guests do not run here"),
        ("type = 'arm'", "g.cfg:3: type: 'arm' is no type of guest"),
        ("builder = 'hvm'", "g.cfg:3: builder: 'hvm' guests do not run here"),
        ("on_crash = 'explode'", "g.cfg:3: on_crash: unknown action 'explode'"),
        ("uuid = 'x'", "g.cfg:3: uuid: 'x' is not a UUID"),
        ("cpus = 'many'", "g.cfg:3: cpus: 'many' is no list of CPUs"),
        ("name = ''", "g.cfg:3: name: '' will not do"),
        (r"name = 'a\x1b[31m'", r"g.cfg:3: name: 'a\x1b[31m' will not do"),
        (r"kernel = 'a\nb'", "g.cfg:3: kernel: not a path"),
        ("kernel = ''", "g.cfg:3: kernel: not a path"),
        (f"cmdline = '{'x' * 1024}'", "g.cfg:3: cmdline: the kernel's command line is too long, 1024 bytes"),
    ],
)
def test_a_mistake_is_told_by_file_line_and_cause(text: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert str(caught.value).startswith(told)
    assert str(caught.value).isprintable()


def test_what_is_missing_is_told() -> None:
    with pytest.raises(UserError, match=r"g\.cfg: name: must be specified"):
        parse_config("", file="g.cfg")
    with pytest.raises(UserError, match=r"g\.cfg: kernel: must be specified: bootloader= is not supported"):
        parse_config("name='a'\nbootloader='pygrub'", file="g.cfg")


def test_relative_paths_start_beside_the_file_then_here(tmp_path: Path) -> None:
    (tmp_path / "near").touch()
    (tmp_path / "g.cfg").write_text("name='a'\nkernel='near'\nramdisk='far'\n")
    config = load_config(tmp_path / "g.cfg")
    assert (config.kernel, config.ramdisk) == (tmp_path / "near", Path("far"))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"name = 'a'\nkernel = '\xff'", ":2: not UTF-8 text: byte 0xff"),
        (b"#" * ((1 << 20) + 1), ": cfg: too large"),
        (b"\0" * 100, ":1: cannot read"),
    ],
    ids=["not text", "too large", "NULs"],
)
def test_files_that_are_no_cfg_are_told(tmp_path: Path, data: bytes, told: str) -> None:
    path = tmp_path / "bad.cfg"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}{told}")


def read_hostile(text: str) -> None:
    try:
        parse_settings(text, "g.cfg")
    except UserError as error:
        assert len(str(error)) < 200


@pytest.mark.parametrize(("text", "most"), [
    ("a+=[1]\n", 140_000),
    ("a+='x'\n", 140_000),
    ("[", 1_000_000),
    ("a='" + "\\x41" * 1000 + "'\n", 250),
    ("'" + "\\'" * 1000, 500),
], ids=["lists", "strings", "brackets", "escapes", "quotes"])  # fmt: skip
def test_a_hostile_file_takes_time_by_its_length_and_no_more(text: str, most: int) -> None:
    """Up to the largest that is read. One that took time by the square of its length would be 64 times dearer."""
    assert times_dearer(lambda: read_hostile(text * (most // 8)), lambda: read_hostile(text * most), rounds=1) < 25


KEYS = "name kernel ramdisk cmdline root extra memory maxmem vcpus maxvcpus cpus cpu_weight cap disk vif type on_crash uuid z"
CFG_TEXT = st.text(st.sampled_from([*"ab01x=+[],;'\"\\#\n\r \t()-", "é", "\x00", "\ud800"]), max_size=60)
LINE = st.tuples(
    st.sampled_from(KEYS.split()),
    st.sampled_from([" = ", "+=", "="]),
    st.one_of(CFG_TEXT, CFG_TEXT.map(repr), st.integers(-5, 1 << 70).map(str), st.lists(CFG_TEXT, max_size=3).map(str)),
).map("".join)


@settings(max_examples=300, deadline=None)
@given(st.one_of(CFG_TEXT, st.lists(LINE, max_size=6).map(lambda lines: MINIMAL + "\n".join(lines))))
def test_no_cfg_text_gets_past_a_user_error(text: str) -> None:
    try:
        config = parse_config(text, file="g.cfg")
    except UserError as error:
        assert str(error).startswith("g.cfg")
        assert "\n" not in str(error)
        return
    assert config.name
    assert config.memory_mib <= config.maxmem_mib


def test_every_end_has_its_action() -> None:
    """handle_domain_death of xl: the keys, their defaults, and what xl does about a reason that it does not know."""
    config = parse_config('name = "a"\nkernel = "k"\non_watchdog = "restart"\non_crash = "preserve"\n', file="a.cfg")
    assert not config.warnings
    found = {reason: config.action_on(reason) for reason in ("poweroff", "reboot", "crash", "watchdog", "soft_reset", "suspend", "reason 77")}
    assert found == {"poweroff": "destroy", "reboot": "restart", "crash": "preserve", "watchdog": "restart", "soft_reset": "soft-reset",
                     "suspend": "preserve", "reason 77": "destroy"}  # fmt: skip
