"""The text that names a database: what it says, and what is said about it when it is wrong."""

import stat
from pathlib import Path

import pytest

from elemta.datasource.dsn import parse_dsn
from elemta.datasource.options import DatabaseOptions, Dialect, Encryption

POSTGRESQL, MYSQL = Dialect.POSTGRESQL, Dialect.MYSQL


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (
            "postgresql://me:pw@db.example:6432/mail",
            DatabaseOptions(
                POSTGRESQL, "db.example", 6432, user="me", password="pw", database="mail",
                encryption=Encryption.VERIFY_FULL,
            ),
        ),
        ("postgres://me@localhost/mail", DatabaseOptions(POSTGRESQL, "localhost", user="me", database="mail")),
        ("POSTGRES://me@127.0.0.2/mail", DatabaseOptions(POSTGRESQL, "127.0.0.2", user="me", database="mail")),
        ("mariadb://me@[::1]:1/mail", DatabaseOptions(MYSQL, "::1", 1, user="me", database="mail")),
        (
            "mysql://m%40e:%2F%3F%23%25@/ma%2Fil?sslmode=require",
            DatabaseOptions(MYSQL, user="m@e", password="/?#%", database="ma/il", encryption=Encryption.REQUIRE),
        ),
        (
            "postgresql://me@/mail?host=/run/postgresql",
            DatabaseOptions(POSTGRESQL, socket="/run/postgresql", user="me", database="mail"),
        ),
        ("mysql://me@/mail?unix_socket=/s", DatabaseOptions(MYSQL, socket="/s", user="me", database="mail")),
        ("mysql://me@far/mail?socket=/s", DatabaseOptions(MYSQL, "far", socket="/s", user="me", database="mail")),
        (
            "mysql://me@[2001:db8::1]/mail?sslmode=disable&pool_size=2&connect_timeout=1.5&statement_timeout=60",
            DatabaseOptions(
                MYSQL, "2001:db8::1", user="me", database="mail",
                pool_size=2, connect_seconds=1.5, statement_seconds=60.0, unit_seconds=61.5,
            ),
        ),
        (
            "mysql://me@127.0.0.1/mail?statement_timeout=2",
            DatabaseOptions(MYSQL, user="me", database="mail", statement_seconds=2.0, lock_seconds=2.0),
        ),
    ],
)  # fmt: skip
def test_what_it_says(text: str, options: DatabaseOptions) -> None:
    assert parse_dsn(text, {}) == options


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("postgresq://me@h/d", "scheme: did you mean postgres"),
        ("mail.db", "scheme: a dsn begins with postgresql:// or mysql://"),
        ("sqlite:///mail.db", "scheme: "),
        ("postgresql://h/d", "user: "),
        ("postgresql://me@h:0/d", "port: "),
        ("postgresql://me@h:99999/d", "host and port: "),
        ("postgresql://me@[::1/d", "host and port: "),
        ("postgresql://me@h/d/e", "database: "),
        ("postgresql://me@h/d?ssl_mode=require", "option: did you mean sslmode?"),
        ("postgresql://me@h/d?pool_size=1&pool_size=2", "options: one of them stands there twice"),
        ("postgresql://me@h/d?pool_size", "options: write"),
        ("postgresql://me@h/d?sslmode=prefer", "sslmode: one of disable"),
        ("postgresql://me@h/d?sslmode=verify_full", "sslmode: did you mean verify-full?"),
        ("postgresql://me@/d?host=/run&sslmode=require", "sslmode: a unix socket"),
        ("postgresql://me@h/d?sslrootcert=/nowhere.pem", "sslrootcert: /nowhere.pem: No such file"),
        (f"mysql://me@h/d?sslrootcert={__file__}", f"sslrootcert: {__file__} holds no certificate"),
        ("mysql://me@h/d?socket=/a&host=/b", "socket: only one of"),
        ("mysql://me@h/d?host=db", "socket: a path"),
        ("mysql://me@h/d?connect_timeout=0", "connect_timeout: "),
        ("mysql://me@h/d?connect_timeout=soon", "connect_timeout: "),
        ("mysql://me@h/d?statement_timeout=nan", "statement_timeout: "),
        ("mysql://me@h/d?statement_timeout=601", "statement_timeout: "),
        ("mysql://me@h/d?pool_size=0", "pool_size: "),
        ("mysql://me@h/d?pool_size=²", "pool_size: "),
        ("mysql://me:pw@h/d?password_env=PW", "password: only one of"),
        ("mysql://me@h/d?password_env=PW", "password_env: no environment variable PW"),
        ("mysql://me@h/d?password_file=/nowhere", "password_file: /nowhere: No such file"),
    ],
)
def test_what_is_wrong_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_dsn(text, {})
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize("separator", list("/?#@:[]%&="))
def test_a_password_is_never_shown(separator: str) -> None:
    """Also not where it was not encoded, so that its pieces end up as host, port, option or database."""
    for password in (f"Sword{separator}fish", f"{separator}Swordfish", f"123{separator}Swordfish=1"):
        for text in (f"mysql://me:{password}@h/d", f"mysql://me:{password}@h:1/d?pool_size=1"):
            try:
                shown = repr(parse_dsn(text, {})) + parse_dsn(text, {}).name
            except ValueError as error:
                shown = str(error) + repr(error.__cause__)
            assert "Sword" not in shown
            assert "fish" not in shown


def test_a_password_from_the_environment() -> None:
    assert parse_dsn("mysql://me@h/d?password_env=PW", {"PW": "secret"}).password == "secret"


def test_a_password_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("se%cret\n", encoding="utf-8")
    file.chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP)
    text = f"mysql://me@h/d?password_file={file}"
    assert parse_dsn(text, {}).password == "se%cret"
    file.chmod(0o644)
    with pytest.raises(ValueError, match=f"everybody may read {file}: chmod o= {file}"):
        parse_dsn(text, {})
    file.chmod(0o600)
    file.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="no UTF-8"):
        parse_dsn(text, {})


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (DatabaseOptions(POSTGRESQL, "h", user="me", password="x", database="d"), "postgresql://me@h:5432/d"),
        (DatabaseOptions(MYSQL, "::1", 1, user="me", database="d"), "mysql://me@[::1]:1/d"),
        (DatabaseOptions(MYSQL, socket="/run/s", user="me", database="d"), "mysql://me@/run/s/d"),
    ],
)
def test_its_name_for_people(options: DatabaseOptions, name: str) -> None:
    assert options.name == name
