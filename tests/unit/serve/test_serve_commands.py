import re
import socket

import pytest
from serve_world import ReadSide

from streams import cli


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command on a database of its own: exit code, stdout, stderr."""
    monkeypatch.setenv("TRIPS_SERVE_DATABASE", f"sqlite:///{tmp_path}/a.db")

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(list(arguments))
        return ended.value.code, *capsys.readouterr()

    return run


def test_a_key_is_made_shown_once_listed_and_revoked(run, tmp_path):
    code, out, err = run("keys", "create", "fleet portal", "--scope", "read", "--scope", "delete")
    token = out.strip()
    assert code == 0
    assert re.fullmatch(r"trips_[a-z0-9]{10}_[A-Za-z0-9_-]{43}", token)
    assert token not in err
    key_id = token.split("_")[1]
    side = ReadSide(f"sqlite:///{tmp_path}/a.db")
    assert side.client(Authorization=f"Bearer {token}").get("/trips").status_code == 200
    code, listed, _ = run("keys", "list")
    (line,) = listed.splitlines()
    assert line.split()[0] == key_id
    assert "delete,read" in line
    assert line.endswith("valid                         fleet portal")
    assert token.split("_", 2)[2] not in listed
    assert run("keys", "revoke", key_id)[0] == 0
    assert "revoked 20" in run("keys", "list")[1]
    side.keys._known.clear()
    assert side.client(Authorization=f"Bearer {token}").get("/trips").status_code == 401
    side.close()
    code, _, err = run("keys", "revoke", "nosuchkey")
    assert (code, err) == (1, "trips: there is no key nosuchkey: `trips keys list` shows those that there are\n")


def test_a_key_may_expire(run):
    assert run("keys", "create", "x", "--scope", "read", "--expires-in", "1")[0] == 0
    assert "until 20" in run("keys", "list")[1]


def test_no_keys_are_told_so(run):
    assert run("keys", "list") == (0, "", "There are none: `trips keys create` makes one.\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "create", "x"),
        ("keys", "create", "x", "--scope", "write"),
        ("keys", "create", " ", "--scope", "read"),
        ("keys", "create", "x" * 201, "--scope", "read"),
        ("keys", "create", "x", "--scope", "read", "--expires-in", "0"),
        ("keys", "revoke"),
        ("serve", "--port", "1"),
    ],
)
def test_wrong_use_is_exit_code_2_and_one_line(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


def test_a_control_character_in_a_name_does_not_reach_the_terminal(run):
    run("keys", "create", "a\x1b[2J\nb", "--scope", "read")
    assert run("keys", "list")[1].splitlines()[0].endswith("a?[2J?b")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_on_an_address_for_others_nothing_is_served_without_a_key_that_counts(run, monkeypatch, host):
    monkeypatch.setenv("TRIPS_SERVE_HOST", host)
    monkeypatch.setenv("TRIPS_SERVE_PORT", str(free_port()))
    if host == "::" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    run("keys", "create", "old", "--scope", "admin")
    run("keys", "revoke", run("keys", "list")[1].split()[0])
    code, _, err = run("serve")
    assert code == 2
    assert f"TRIPS_SERVE_HOST={host}" in err
    assert "trips keys create" in err


def test_a_port_that_is_taken_is_a_wrong_setting(run, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("TRIPS_SERVE_PORT", str(port))
        code, _, err = run("serve")
    assert code == 2
    assert f"trips: TRIPS_SERVE_PORT={port}: cannot listen on 127.0.0.1:{port}" in err


def test_a_database_that_is_away_ends_it_with_a_line(run, monkeypatch):
    monkeypatch.setenv("TRIPS_SERVE_PORT", str(free_port()))
    monkeypatch.setenv("TRIPS_SERVE_DATABASE", "postgresql://trips:s3cret@127.0.0.1:1/trips")
    code, _, err = run("serve")
    assert code == 1
    assert "s3cret" not in err
    assert "TRIPS_SERVE_DATABASE" in err.splitlines()[-1]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]
