"""What is said of threads that end while a worker leaves."""

import asyncio
import threading

import pytest
from structlog.testing import capture_logs

from streams import app


@pytest.mark.parametrize(("error", "said"), [(asyncio.CancelledError(), False), (ValueError("a mistake"), True)])
def test_a_consumer_that_cannot_be_closed_is_a_line_and_a_mistake_a_traceback(error, said, capsys):
    with capture_logs() as lines:
        app._tell_briefly(threading.ExceptHookArgs((type(error), error, None, None)))
    assert ("a mistake" in capsys.readouterr().err) == said
    assert [line["event"] for line in lines] == ([] if said else ["the consumer was not closed in order"])
