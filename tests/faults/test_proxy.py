"""The proxy's faults are what they say: otherwise the tests that use it would show nothing."""

import random
import socket
import threading
import time

import pytest
from faults.proxy import Proxy

from streams.local.broker import free_ports


@pytest.fixture
def echo():
    """The port of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer_all, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def answer_all(listener):
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=answer, args=(client,), daemon=True).start()


def answer(client):
    with client:
        try:
            while data := client.recv(65536):
                client.sendall(data)
        except OSError:
            pass


@pytest.fixture
def proxy(echo):
    (port,) = free_ports(1)
    with Proxy(port, echo, seed=1) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy):
    made = []

    def connect():
        made.append(socket.create_connection(("127.0.0.1", proxy.port), timeout=5.0))
        return made[-1]

    yield connect
    for one in made:
        one.close()


def receive(client, count):
    data = b""
    while len(data) < count:
        some = client.recv(count - len(data))
        assert some, f"the end after {len(data)} of {count} bytes"
        data += some
    return data


def comes_back(client, data):
    client.sendall(data)
    return receive(client, len(data)) == data


def hears_nothing(client, seconds):
    client.settimeout(seconds)
    try:
        with pytest.raises(TimeoutError):
            client.recv(1)
    finally:
        client.settimeout(5.0)
    return True


def test_what_goes_in_comes_out_in_order_whatever_the_latency_and_the_stalls(connect, proxy):
    data = random.Random(2).randbytes(3_000_000)
    client = connect()
    sender = threading.Thread(target=client.sendall, args=(data,))
    proxy.latency = 0.05
    proxy.lossy(resets=0.0, stalls=3.0, stall=0.2)
    sender.start()
    assert receive(client, len(data) // 2) == data[: len(data) // 2]
    proxy.latency = 0.0  # what comes later must not overtake
    assert receive(client, len(data) - len(data) // 2) == data[len(data) // 2 :]
    sender.join()
    assert proxy.carried == {"up": len(data), "down": len(data)}


def test_latency_is_that_of_each_way(connect, proxy):
    client = connect()
    proxy.latency = 0.2
    began = time.monotonic()
    assert comes_back(client, b"there and back")
    assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_direction_that_is_cut_holds_back_what_the_other_one_lets_through(connect, proxy, direction):
    client, other = connect(), "down" if direction == "up" else "up"
    assert comes_back(client, b"before")
    carried = dict(proxy.carried)
    proxy.cut(direction)
    client.sendall(b"during")
    assert hears_nothing(client, 0.3)
    assert proxy.carried[direction] == carried[direction]
    assert proxy.carried[other] == carried[other] + (6 if direction == "down" else 0)
    proxy.heal()
    assert receive(client, 6) == b"during"


def test_new_connections_of_a_cut_network_get_no_answer_either(connect, proxy):
    proxy.cut()
    client = connect()
    client.sendall(b"anybody there?")
    assert hears_nothing(client, 0.3)
    proxy.heal()
    assert receive(client, 14) == b"anybody there?"


def test_the_end_of_a_connection_is_held_back_as_well(connect, proxy):
    client = connect()
    assert comes_back(client, b"before")
    proxy.cut("up")
    client.shutdown(socket.SHUT_WR)
    assert hears_nothing(client, 0.3)
    proxy.heal()
    assert client.recv(1) == b""


def test_a_reset_is_a_reset_and_no_end(connect, proxy):
    clients = [connect() for _ in range(3)]
    assert all(comes_back(client, b"before") for client in clients)
    assert proxy.reset() == 3
    for client in clients:
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert comes_back(connect(), b"after")


def test_some_are_reset_and_others_live_on(connect, proxy):
    clients = [connect() for _ in range(40)]
    assert all(comes_back(client, b"before") for client in clients)
    count = proxy.reset(0.5)
    assert 5 < count < 35
    lived = 0
    for client in clients:
        try:
            lived += comes_back(client, b"after")
        except (ConnectionResetError, BrokenPipeError, AssertionError):
            continue
    assert lived == 40 - count


def test_a_connection_that_is_forgotten_stays_silent_and_new_ones_work(connect, proxy):
    client = connect()
    assert comes_back(client, b"before")
    assert proxy.forget() == 1
    proxy.heal()
    client.sendall(b"anybody there?")
    assert hears_nothing(client, 0.3)
    assert comes_back(connect(), b"after")


def test_new_connections_are_refused_until_it_heals(connect, proxy):
    old = connect()
    assert comes_back(old, b"before")
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect()
    assert comes_back(old, b"old ones go on")
    proxy.heal()
    assert comes_back(connect(), b"after")


def test_a_server_that_is_gone_is_a_reset(connect):
    (port,) = free_ports(1)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen; nobody else can, either
        _is_reset(port, nobody.getsockname()[1])


def _is_reset(port, nobody):
    with (
        Proxy(port, nobody, seed=1),
        pytest.raises(ConnectionResetError),  # while it is being connected, or after that
        socket.create_connection(("127.0.0.1", port), timeout=5.0) as client,
    ):
        client.recv(1)


def test_a_lossy_network_resets_and_stalls_about_as_often_as_asked_for(connect, proxy):
    clients = [connect() for _ in range(20)]
    assert all(comes_back(client, b"before") for client in clients)
    proxy.lossy(resets=0.2, stalls=1.0, stall=0.1)
    time.sleep(3.0)
    proxy.heal()
    # 20 connections, 3 s: 9 and 45 expected (connections that are reset do not come back).
    assert 2 <= proxy.resets <= 18
    assert 20 <= proxy.stalls <= 70
    assert len(proxy.connections) == 20 - proxy.resets
