import io
import json
import logging
import sys

import pytest
import structlog
from aiokafka.protocol.admin import SaslAuthenticateRequest_v1, SaslAuthenticateResponse_v1, SaslHandShakeRequest_v1

from streams.runtime.logs import _Repeated, configure_logs


@pytest.fixture(autouse=True)
def put_back():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    for name in ("aiokafka", "faust", "mode", "aiohttp"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def raised():
    """An error with a traceback."""
    try:
        int("of two\nlines")
    except ValueError as error:
        return error


def said(capsys):
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_off_a_terminal_a_line_is_json(capsys):
    configure_logs()
    structlog.get_logger("streams.here").info("worker ready", partitions="0-3")
    (line,) = said(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "worker ready", "partitions": "0-3", "logger": "streams.here", "level": "info"}


def test_a_failure_is_one_line_without_a_traceback(capsys):
    configure_logs()
    error = raised()
    structlog.get_logger("streams.here").critical("why\nnot", exc_info=error)
    logging.getLogger("faust").error("Crashed reason=%r", error, exc_info=error)
    ours, fausts = said(capsys)
    assert ours["event"] == "why not"
    assert fausts["event"].startswith("Crashed reason=ValueError(")
    assert not {"exc_info", "exception", "stack_info"} & {*ours, *fausts}


def test_with_debug_the_traceback_is_there(capsys):
    configure_logs(debug=True)
    structlog.get_logger("streams.here").critical("why", exc_info=raised())
    assert "Traceback" in capsys.readouterr().err


def test_libraries_are_heard_when_it_matters(capsys):
    configure_logs()
    logging.getLogger("aiokafka.consumer").info("joined")
    logging.getLogger("aiokafka.consumer").warning("rebalancing")
    logging.getLogger("faust.app").warning("hm")
    logging.getLogger("mode.worker").error("no")
    assert [line["event"] for line in said(capsys)] == ["rebalancing", "no"]


def test_what_a_library_says_over_and_over_is_let_through_once(capsys):
    configure_logs()
    for attempt in range(50):
        logging.getLogger("aiokafka").error("Unable connect to %s: %s", "kafka:9092", attempt)
    logging.getLogger("aiokafka").error("Another thing")
    assert [line["event"] for line in said(capsys)] == ["Unable connect to kafka:9092: 0", "Another thing"]


def test_what_we_say_ourselves_is_never_held_back(capsys):
    configure_logs()
    for _ in range(3):
        structlog.get_logger("streams.here").info("partitions assigned")
    assert len(said(capsys)) == 3


def test_an_error_that_a_library_gets_over_by_itself_is_a_warning():
    record = logging.LogRecord("aiokafka.consumer", logging.ERROR, "", 0, "Group Coordinator Request failed", (), None)
    assert _Repeated().filter(record)
    assert (record.levelno, record.levelname) == (logging.WARNING, "WARNING")
    ours = logging.LogRecord("streams.app", logging.ERROR, "", 0, "failed", (), None)
    assert _Repeated().filter(ours)
    assert ours.levelno == logging.ERROR


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_what_logs_us_in_is_logged_without_its_content(capsys):
    configure_logs(debug=True)
    log = logging.getLogger("aiokafka.conn")
    log.debug("Request to %s:%d %d: %s", "kafka", 9092, 2, SaslHandShakeRequest_v1("PLAIN"))
    log.debug("Request to %s:%d %d: %s", "kafka", 9092, 3, SaslAuthenticateRequest_v1(b"\x00we\x00a-password"))
    log.debug("Response from %s:%d %d: %s", "kafka", 9092, 3, SaslAuthenticateResponse_v1(0, "", b"a-proof", 0))
    handshake, request, response = (line["event"] for line in said(capsys))
    assert handshake == "Request to kafka:9092 2: SaslHandShakeRequest_v1(mechanism='PLAIN')"
    assert request == "Request to kafka:9092 3: SaslAuthenticateRequest_v1(…)"
    assert response == "Response from kafka:9092 3: SaslAuthenticateResponse_v1(…)"


def test_a_traceback_on_a_terminal_shows_no_values(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    configure_logs(debug=True)
    try:
        password = "a-password"
        int(f"no number, and not {len(password)} characters")
    except ValueError as error:
        structlog.get_logger("streams.here").critical("why", exc_info=error)
    assert "no number, and not 10 characters" in terminal.getvalue()
    assert "a-password" not in terminal.getvalue()
