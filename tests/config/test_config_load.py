"""The road from the file, the environment and the command line to the sections."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from elemta.config.auth import AuthSection
from elemta.config.document import Rank
from elemta.config.listeners import effective_listeners
from elemta.config.load import Loaded, load_config
from elemta.config.problems import ConfigError
from elemta.config.search import MOST_FILE_OCTETS, places
from elemta.config.secrets import MOST_SECRET_OCTETS
from elemta.config.sections import Config
from elemta.config.tls import TlsSection

Configure = Callable[..., Loaded]

EXAMPLES = Path(__file__).parents[2] / "conf"
EXAMPLE = EXAMPLES / "original-example.json"


# ---- the original's example ----------------------------------------------------------------------


def test_the_example_of_the_original_is_read_to_the_letter() -> None:
    loaded = load_config(str(EXAMPLE), {}, cwd=EXAMPLE.parent)
    assert loaded.config == Config(
        hostname="mail.example.com",
        listen_addr=":2525",
        queue_dir="./queue",
        max_size=26_214_400,
        dev_mode=True,
        allowed_relays=("127.0.0.1", "::1", "192.168.65.1"),
        max_workers=5,
        max_retries=3,
        max_queue_time=3600,
        retry_schedule=(60, 300, 900),
        auth=AuthSection(enabled=True, required=False, datasource_type="sqlite", datasource_path="./auth.db"),
        tls=TlsSection(enabled=True, listen_addr=":465", cert_file="/path/to/cert.pem", key_file="/path/to/key.pem"),
    )
    assert [(warning.key, warning.says) for warning in loaded.warnings] == [
        (
            "tls.listen_addr",
            'dev mode listens at 127.0.0.1:2465 instead of ":465", a privileged port open to all.',
        ),
        (
            "tls.cert_file",
            'found "/path/to/cert.pem", expected the name of a file that exists. '
            "Dev mode makes a self-signed one at its start.",
        ),
        (
            "tls.key_file",
            'found "/path/to/key.pem", expected the name of a file that exists. '
            "Dev mode makes a self-signed one at its start.",
        ),
    ]
    assert [listener.address for listener in effective_listeners(loaded.config)] == [":2525", "127.0.0.1:2465"]


def test_the_example_does_not_start_in_earnest_without_its_certificate() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(str(EXAMPLE), {"ELEMTA_DEV_MODE": "false"}, cwd=EXAMPLE.parent)
    assert [problem.key for problem in caught.value.problems] == ["tls.cert_file", "tls.key_file"]


# ---- the search for the file ---------------------------------------------------------------------


def test_the_places_are_those_of_the_original_in_its_order() -> None:
    assert [str(path) for _, path in places({"HOME": "/home/u"}, Path("/srv/x"))] == [
        "/srv/x/elemta.conf",
        "/srv/x/config/elemta.conf",
        "/srv/x/../config/elemta.conf",
        "/home/u/.elemta.conf",
        "/etc/elemta/elemta.conf",
    ]
    assert len(list(places({}, Path("/")))) == 4


def test_the_first_place_that_has_a_file_wins(tmp_path: Path) -> None:
    cwd = tmp_path / "cwd"
    home = tmp_path / "home"
    candidates = {
        "named.conf": cwd / "named.conf",
        "variable.conf": cwd / "variable.conf",
        "path.conf": cwd / "path.conf",
        "./elemta.conf": cwd / "elemta.conf",
        "./config/elemta.conf": cwd / "config" / "elemta.conf",
        "../config/elemta.conf": tmp_path / "config" / "elemta.conf",
        str(home / ".elemta.conf"): home / ".elemta.conf",
    }
    for path in candidates.values():
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"hostname": "mail.example.com"}')
    named: str | None = "named.conf"
    environ = {"HOME": str(home), "ELEMTA_CONFIG": "variable.conf", "ELEMTA_CONFIG_PATH": "path.conf"}
    for name, path in candidates.items():
        assert load_config(named, environ, cwd=cwd).source == name
        path.unlink()
        if named is not None:
            named = None
        elif len(environ) > 1:
            del environ[next(variable for variable in ("ELEMTA_CONFIG", "ELEMTA_CONFIG_PATH") if variable in environ)]


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    if Path("/etc/elemta/elemta.conf").exists():  # a machine that runs a server of ours
        (tmp_path / "elemta.conf").write_text("{}")
    loaded = load_config(None, {"ELEMTA_HOSTNAME": "mail.example.com"}, cwd=tmp_path)
    assert loaded.config == Config(hostname="mail.example.com")
    assert loaded.config.listen_addr == ":2525"
    assert loaded.config.max_workers == 100
    assert loaded.config.allowed_relays == ()
    assert loaded.warnings == ()


def test_the_second_of_two_variables_is_not_read(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text('{"hostname": "mail.example.com"}')
    loaded = configure({}, {"ELEMTA_CONFIG": "a.conf", "ELEMTA_CONFIG_PATH": "b.conf"})
    assert loaded.source == "a.conf"
    assert [str(said) for said in loaded.warnings] == [
        "ELEMTA_CONFIG_PATH: not read: ELEMTA_CONFIG names another file."
    ]


@pytest.mark.parametrize(
    ("named", "environ", "paragraph"),
    [
        ("x.conf", {}, "x.conf: this file cannot be read (-c names it): No such file or directory."),
        (
            None,
            {"ELEMTA_CONFIG": "x.conf"},
            "x.conf: this file cannot be read (ELEMTA_CONFIG names it): No such file or directory.",
        ),
        (
            None,
            {"ELEMTA_CONFIG_PATH": "."},
            ".: this file cannot be read (ELEMTA_CONFIG_PATH names it): Is a directory.",
        ),
        ("", {}, ": this file cannot be read (-c names it): Is a directory."),
    ],
)
def test_a_named_file_must_be_there(tmp_path: Path, named: str | None, environ: dict[str, str], paragraph: str) -> None:
    (tmp_path / "elemta.conf").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        load_config(named, environ, cwd=tmp_path)
    assert str(caught.value) == paragraph.removeprefix(": ")


def test_a_file_that_is_found_must_be_readable(tmp_path: Path) -> None:
    (tmp_path / "elemta.conf").mkdir()
    with pytest.raises(ConfigError) as caught:
        load_config(None, {}, cwd=tmp_path)
    assert str(caught.value) == "./elemta.conf: this file cannot be read: Is a directory."


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "elemta.conf"
    file.write_bytes(b'{\n"hostname": "m\xfcller"}')
    with pytest.raises(ConfigError) as caught:
        load_config(None, {}, cwd=tmp_path)
    assert str(caught.value) == "./elemta.conf: line 2 of this file is not UTF-8, which JSON is written in."
    file.write_bytes(b" " * (MOST_FILE_OCTETS + 1))
    with pytest.raises(ConfigError, match="more than 1048576 octets"):
        load_config(None, {}, cwd=tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "elemta.conf").write_bytes(b'\xef\xbb\xbf{"hostname": "mail.example.com"}')
    assert load_config(None, {}, cwd=tmp_path).config.hostname == "mail.example.com"


# ---- who wins ------------------------------------------------------------------------------------


def test_the_command_line_wins_over_the_environment_over_the_file(configure: Configure) -> None:
    written = {"max_size": 100_001, "max_retries": 1, "max_workers": 1}
    environ = {"ELEMTA_MAX_RETRIES": "2", "ELEMTA_MAX_WORKERS": "2"}
    loaded = configure(written, environ, {"max_workers": 3})
    config = loaded.config
    assert (config.max_size, config.max_retries, config.max_workers) == (100_001, 2, 3)
    origins = loaded.origins
    assert origins["max_size"].rank is Rank.FILE
    assert origins["max_size"].where == "./elemta.conf:1:34"
    assert origins["max_retries"].where == "ELEMTA_MAX_RETRIES"
    assert origins["max_workers"].where == "command line"
    assert origins["queue_dir"].where == "default"


def test_a_bad_value_of_the_command_line_is_a_problem_and_a_bad_key_our_fault(configure: Configure) -> None:
    with pytest.raises(ConfigError, match="command line: listen_addr: found"):
        configure({}, {}, {"listen_addr": "2525"})
    with pytest.raises(KeyError):
        configure({}, {}, {"listen_adr": ":2525"})


def test_the_command_line_may_replace_all_listeners(configure: Configure) -> None:
    loaded = configure({"listeners": [{"address": ":25"}]}, {}, {"listeners": [], "listen_addr": "127.0.0.1:0"})
    assert [listener.address for listener in effective_listeners(loaded.config)] == ["127.0.0.1:0"]
    assert loaded.warnings == ()


# ---- dev mode ------------------------------------------------------------------------------------


def test_dev_mode_listens_on_this_machine_alone_unless_told(configure: Configure) -> None:
    def addresses(loaded: Loaded) -> list[str]:
        return [listener.address for listener in effective_listeners(loaded.config)]

    assert addresses(configure({})) == [":2525"]
    assert addresses(configure({}, {}, {"dev_mode": True})) == ["127.0.0.1:2525"]
    assert addresses(configure({"dev_mode": True, "listen_addr": ":25"})) == [":25"]
    assert addresses(configure({"dev_mode": True, "listeners": [{"address": ":26"}]})) == [":26"]


# ---- secrets in files ----------------------------------------------------------------------------


def secret(tmp_path: Path, content: bytes = b"hunter2\n", mode: int = 0o600) -> str:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return "secret"


def test_a_secret_comes_from_a_file(configure: Configure, tmp_path: Path) -> None:
    name = secret(tmp_path)
    loaded = configure({"auth": {"datasource_pass_file": name}})
    assert loaded.config.auth.datasource_pass == "hunter2"
    assert loaded.warnings == ()
    assert loaded.origins["auth.datasource_pass"].where.startswith("./elemta.conf:1:")
    loaded = configure({}, {"ELEMTA_AUTH_DATASOURCE_PASS_FILE": str(tmp_path / name)})
    assert loaded.config.auth.datasource_pass == "hunter2"
    assert loaded.origins["auth.datasource_pass"].where == "ELEMTA_AUTH_DATASOURCE_PASS_FILE"
    assert "hunter2" not in repr(loaded)


def test_the_higher_origin_of_a_secret_wins(configure: Configure, tmp_path: Path) -> None:
    written = {"auth": {"datasource_pass_file": secret(tmp_path)}}
    assert configure(written, {"ELEMTA_AUTH_DATASOURCE_PASS": "env"}).config.auth.datasource_pass == "env"
    written = {"auth": {"datasource_pass": "written"}}
    environ = {"ELEMTA_AUTH_DATASOURCE_PASS_FILE": "secret"}
    assert configure(written, environ).config.auth.datasource_pass == "hunter2"


def test_a_secret_written_twice_is_a_problem(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        configure('{"auth": {"datasource_pass": "a", "datasource_pass_file": "b"}}')
    assert str(caught.value) == (
        "./elemta.conf:1:35: auth.datasource_pass_file: the same secret is written as auth.datasource_pass; "
        "remove one of them."
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "found a secret, expected a text that is not empty."),
        (b"two\nlines\n", "found a secret, expected a text that is not empty and holds no control characters."),
        (b"\xff", 'the file "secret" holds no text in UTF-8.'),
        (b"x" * (MOST_SECRET_OCTETS + 1), 'the file "secret" has more than 65536 octets.'),
    ],
)
def test_a_secret_is_one_line_of_text(configure: Configure, tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure({"auth": {"datasource_pass_file": secret(tmp_path, content)}})
    assert [problem.says for problem in caught.value.problems] == [says]


def test_a_secret_file_that_is_not_there_is_named(configure: Configure) -> None:
    with pytest.raises(ConfigError) as caught:
        configure('{"auth": {"datasource_pass_file": "nowhere"}}')
    assert str(caught.value) == (
        './elemta.conf:1:11: auth.datasource_pass_file: the file "nowhere" cannot be read: No such file or directory.'
    )
    for name, found in ((5, "the number 5"), ("", 'the text ""'), ("a\0", r'the text "a\\u0000"')):
        with pytest.raises(ConfigError, match=f"found {found}, expected the name of a file"):
            configure({"auth": {"datasource_pass_file": name}})


def test_a_secret_that_everyone_can_read_is_a_warning(configure: Configure, tmp_path: Path) -> None:
    (warning,) = configure({"auth": {"datasource_pass_file": secret(tmp_path, mode=0o644)}}).warnings
    assert warning.says == "everyone on this machine can read secret; run: chmod o-r secret"
    assert configure({"auth": {"datasource_pass_file": secret(tmp_path, mode=0o640)}}).warnings == ()
    written = {"auth": {"datasource_pass": "hunter2"}}
    configure(written)
    (tmp_path / "elemta.conf").chmod(0o644)
    (warning,) = configure(written).warnings
    assert warning.says == "everyone on this machine can read this secret; run: chmod o-r ./elemta.conf"
    (tmp_path / "elemta.conf").chmod(0o640)
    assert configure(written).warnings == ()


def test_an_unreadable_folder_is_an_error_and_not_the_defaults(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "elemta.conf").write_text(json.dumps({"hostname": "mail.example.com"}))
    folder.chmod(0)
    try:
        if os.access(folder, os.X_OK):  # the superuser may enter every folder: what it finds there must be read
            assert load_config(None, {}, cwd=tmp_path).source == "./config/elemta.conf"
            return
        with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
            load_config(None, {}, cwd=tmp_path)
    finally:
        folder.chmod(0o700)
