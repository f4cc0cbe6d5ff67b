import ipaddress
import socket
import ssl

import pytest
from endpoint import HttpEndpoint, announcement

from streams.errors import SettingsError
from streams.push.guard import Guard, Policy, RefusedAddressError, RefusedUrlError, shown_url, unwrapped
from streams.push.sender import Endpoint
from streams.push.subscriptions import Subscription
from streams.settings import Settings

# Addresses, and every way to write one, that a push must not reach: of this machine, its network and its cloud.
REFUSED_ADDRESSES = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",  # Alibaba's metadata
    "169.254.169.254",  # metadata of most clouds
    "169.254.170.2",  # of containers at Amazon
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",  # Oracle's metadata
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "168.63.129.16",  # Azure's
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:93.184.215.14",  # public, but in disguise
    "::127.0.0.1",
    "::10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "2001::7f00:1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "5f00::1",
    "100::1",
    "fc00::1",
    "fd00:ec2::254",  # Amazon's metadata
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
OTHER_WAYS_TO_WRITE_THEM = [
    "2130706433",  # 127.0.0.1
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "127.1",
    "127.0.1",
    "127.0.0.1.",
    "0",
    "10.1",
    "3232235521",  # 192.168.0.1
    "2852039166",  # 169.254.169.254
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "[::1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:0001]",
    "[fe80::1%25lo]",
    "[::]",
]
PUBLIC = ["93.184.215.14", "8.8.8.8", "1.1.1.1", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "2a00:1450:4001:82a::200e"]
URLS_OF_THE_WRONG_KIND = [
    "http://example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "unix:///run/docker.sock",
    "javascript:alert(1)",
    "//example.com/",
    "example.com",
    "https://",
    "https:///path",
    "https://user@example.com/",
    "https://user:password@example.com/",
    "https://example.com@127.0.0.1/",
    "https://example.com/#fragment",
    "https://example.com:22/",
    "https://example.com:0/",
    "https://example.com:99999/",
    "https://exam ple.com/",
    "https://example.com\\@127.0.0.1/",
    "https://example.com/\r\nX-Injected: 1",
    "https://ex\u00e4mple.com/",
    "https://example.com/" + "a" * 2000,
]


def written(address):
    return f"[{address}]" if ":" in address else address


@pytest.mark.parametrize("host", [*map(written, REFUSED_ADDRESSES), *OTHER_WAYS_TO_WRITE_THEM])
def test_an_address_that_is_not_public_is_refused_however_it_is_written(host):
    with pytest.raises(RefusedAddressError, match=r"TRIPS_PUSH_(ALLOWED_NETWORKS|NAT64_PREFIXES)"):
        Guard(f"https://{host}/", Policy())


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_not(address):
    Guard(f"https://{written(address)}/push", Policy()).check(address)


@pytest.mark.parametrize("url", URLS_OF_THE_WRONG_KIND)
def test_urls_of_the_wrong_kind_are_refused(url):
    with pytest.raises((RefusedUrlError, RefusedAddressError)):
        Guard(url, Policy())


def test_the_reason_never_holds_the_url():
    with pytest.raises(RefusedUrlError) as error:
        Guard("https://user:secret@example.com/", Policy())
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("rest", ["/push?token=secret", "/services/T0/secret", "?secret", "#secret"])
def test_of_a_url_no_more_is_shown_than_the_host(rest):
    assert shown_url(f"https://example.com:8443{rest}") == "https://example.com:8443/…"
    assert shown_url("https://example.com") == shown_url("https://example.com/") == "https://example.com/"


def test_what_the_operator_allows_may_be_reached_without_tls_and_on_any_port():
    policy = Policy.of(Settings.given(push_allowed_networks="10.1.0.0/16, fd00::/8,inside.example"))
    Guard("http://10.1.2.3:8000/", policy)
    Guard("http://[fd00::1]:81/", policy)
    Guard("http://inside.example:8000/", policy).check("192.168.0.1")
    Guard("http://INSIDE.example.:8000/", policy).check("192.168.0.1")
    for url in ("http://10.2.0.1/", "https://[::ffff:10.1.2.3]/", "http://8.8.8.8/", "https://8.8.8.8:8000/"):
        with pytest.raises((RefusedAddressError, RefusedUrlError)):
            Guard(url, policy)
    # Whether a name may be spoken to without TLS is known when it is resolved.
    guard = Guard("http://elsewhere.example/", policy)
    guard.check("10.1.2.3")
    with pytest.raises(RefusedUrlError, match="only https"):
        guard.check("8.8.8.8")


# RFC 6052, section 2.4: 192.0.2.33 in prefixes of each length. And the metadata service in the same way.
NAT64 = {
    "2001:db8::/32": ("2001:db8:c000:221::", "2001:db8:a9fe:a9fe::", "2001:db8:5db8:d70e::"),
    "2001:db8:100::/40": ("2001:db8:1c0:2:21::", "2001:db8:1a9:fea9:fe::", "2001:db8:15d:b8d7:e::"),
    "2001:db8:122::/48": ("2001:db8:122:c000:2:2100::", "2001:db8:122:a9fe:a9:fe00::", "2001:db8:122:5db8:d7:e00::"),
    "2001:db8:122:300::/56": (
        "2001:db8:122:3c0:0:221::",
        "2001:db8:122:3a9:fe:a9fe::",
        "2001:db8:122:35d:b8:d70e::",
    ),
    "2001:db8:122:344::/64": (
        "2001:db8:122:344:c0:2:2100::",
        "2001:db8:122:344:a9:fea9:fe00::",
        "2001:db8:122:344:5d:b8d7:e00::",
    ),
    "2001:db8:122:344::/96": (
        "2001:db8:122:344::192.0.2.33",
        "2001:db8:122:344::169.254.169.254",
        "2001:db8:122:344::93.184.215.14",
    ),
}


@pytest.mark.parametrize("prefix", NAT64)
def test_through_nat64_what_counts_is_the_address_inside(prefix):
    example, metadata, public = NAT64[prefix]
    policy = Policy.of(Settings.given(push_nat64_prefixes=prefix, push_allowed_networks=prefix))
    assert str(unwrapped(ipaddress.ip_address(example), policy.nat64)) == "192.0.2.33"
    with pytest.raises(RefusedAddressError, match=r"169.254.169.254 is link-local"):
        Guard(f"https://[{metadata}]/", policy)
    Guard(f"https://[{public}]/", policy)
    with pytest.raises(RefusedUrlError, match="only https"):
        Guard(f"http://[{public}]/", policy)
    both = Policy.of(Settings.given(push_nat64_prefixes=prefix, push_allowed_networks=f"{prefix},169.254.169.254"))
    Guard(f"http://[{metadata}]/", both)


def test_a_prefix_of_nat64_that_looks_public_is_refused_unless_it_is_allowed():
    address = "2a00:1450:4001:82a::a9fe:a9fe"
    Guard(f"https://[{address}]/", Policy())
    for networks, why in (
        ("", "an IPv4 address in IPv6"),
        ("2a00:1450:4001:82a::/96", "169.254.169.254 is link-local"),
    ):
        policy = Policy.of(
            Settings.given(push_nat64_prefixes="2a00:1450:4001:82a::/96", push_allowed_networks=networks)
        )
        with pytest.raises(RefusedAddressError, match=why):
            Guard(f"https://[{address}]/", policy)


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("64:ff9b::/96", "64:ff9b::a9fe:a9fe"),
        ("::ffff:0:0/96", "::ffff:169.254.169.254"),
        ("::/96", "::169.254.169.254"),
        ("2002::/16", "2002:a9fe:a9fe::1"),
        ("2001::/32", "2001:0:4136:e378:8000:63bf:5601:5601"),
    ],
)
def test_a_network_that_wraps_ipv4_opens_no_way_to_what_is_refused_there(network, address):
    with pytest.raises(RefusedAddressError, match=r"169.254.169.254 is link-local"):
        Guard(f"https://[{address}]/", Policy.of(Settings.given(push_allowed_networks=network)))


def test_a_local_nat64_needs_its_prefix():
    address, networks = "64:ff9b:1::169.254.169.254", "64:ff9b:1::/48"
    with pytest.raises(RefusedAddressError, match="TRIPS_PUSH_NAT64_PREFIXES"):
        Guard(f"https://[{address}]/", Policy.of(Settings.given(push_allowed_networks=networks)))
    named = Settings.given(push_allowed_networks=networks, push_nat64_prefixes="64:ff9b:1::/96")
    with pytest.raises(RefusedAddressError, match=r"169.254.169.254 is link-local"):
        Guard(f"https://[{address}]/", Policy.of(named))


def test_this_machine_may_be_allowed_in_ipv6_too():
    Guard("http://[::1]:8000/", Policy.of(Settings.given(push_allowed_networks="::1")))


@pytest.mark.parametrize("wrong", ["10.0.0.0/8", "64:ff9b::/95", "64:ff9b::1/96", "inside.example"])
def test_a_wrong_nat64_prefix_is_a_wrong_setting(wrong):
    with pytest.raises(SettingsError, match="TRIPS_PUSH_NAT64_PREFIXES"):
        Settings.given(push_nat64_prefixes=wrong)


@pytest.mark.parametrize("wrong", ["10.0.0.0/33", "10.0.0.1/8", "not a host", "1.2.3", "https://example.com"])
def test_a_wrong_network_is_a_wrong_setting(wrong):
    with pytest.raises(SettingsError, match="TRIPS_PUSH_ALLOWED_NETWORKS"):
        Settings.given(push_allowed_networks=wrong)


# -- names: with a resolver of the test's own, and a server that must not be reached ---------------------------------


def info(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    rest = (port, 0, 0) if ":" in address else (port,)
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, *rest))


class Names:
    """A name server: what a name means may be another thing each time."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, _host, port):
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return [info(address, port) for address in answer]


async def attempt(url, names, tmp_path, policy):
    subscription = Subscription(id="one", url=url, profile="drivequant", limits={"timeout": 5})
    endpoint = Endpoint(
        subscription, policy, tmp_path, ssl.create_default_context(), lambda: 1_772_352_000_000, lookup=names
    )
    _, deleted, _ = announcement(1, event="TripDeleted")
    try:
        return await endpoint.attempt(deleted, "id-one")
    finally:
        await endpoint.close()


@pytest.mark.parametrize("address", REFUSED_ADDRESSES)
async def test_a_name_that_means_such_an_address_is_refused(address, tmp_path):
    names = Names([address])
    outcome = await attempt("https://example.com/", names, tmp_path, Policy())
    assert names.asked == 1
    assert outcome.error.startswith("refused: ")


async def test_a_name_with_one_bad_address_is_refused_whole(tmp_path):
    outcome = await attempt("https://example.com/", Names(["93.184.215.14", "127.0.0.1"]), tmp_path, Policy())
    assert outcome.error.startswith("refused: 127.0.0.1 is loopback")


async def test_a_name_that_changes_its_meaning_is_connected_to_where_it_was_checked(tmp_path, monkeypatch):
    connected = []

    def no_network(_guard, address_info):
        connected.append(address_info[4][0])
        raise OSError("no network in tests")

    async with HttpEndpoint() as endpoint:
        policy = Policy(ports=frozenset({endpoint.port}))
        names = Names(["93.184.215.14"], ["127.0.0.1"])
        with monkeypatch.context() as patch:
            patch.setattr(Guard, "socket", no_network)
            await attempt(f"https://example.com:{endpoint.port}/", names, tmp_path, policy)
        assert connected == ["93.184.215.14"]
        assert names.asked == 1  # the answer that was checked is the one that is used
        second = await attempt(f"https://example.com:{endpoint.port}/", names, tmp_path, policy)
        assert second.error.startswith("refused: 127.0.0.1 is loopback")
        assert endpoint.connections == 0


async def test_the_last_gate_is_at_the_socket(tmp_path, monkeypatch):
    """Even if a resolver let an address through, no socket is made for it."""
    async with HttpEndpoint() as endpoint:
        policy = Policy(ports=frozenset({endpoint.port}))
        calls = []
        real = Guard.check

        def once_blind(guard, text):
            calls.append(text)
            if len(calls) > 1:
                real(guard, text)

        monkeypatch.setattr(Guard, "check", once_blind)
        outcome = await attempt(f"https://example.com:{endpoint.port}/", Names(["127.0.0.1"]), tmp_path, policy)
        assert calls == ["127.0.0.1", "127.0.0.1"]
        assert outcome.error.startswith("refused: 127.0.0.1 is loopback")
        assert endpoint.connections == 0


async def test_localhost_is_refused_as_this_machine_knows_it(tmp_path):
    async with HttpEndpoint() as endpoint:
        policy = Policy(ports=frozenset({endpoint.port}))
        outcome = await attempt(f"https://localhost:{endpoint.port}/", None, tmp_path, policy)
        assert outcome.error.startswith("refused: ")
        for name in ("localhost.", "LOCALHOST", "localhost.localdomain"):  # not every machine knows them
            assert (await attempt(f"https://{name}:{endpoint.port}/", None, tmp_path, policy)).error is not None
        assert endpoint.connections == 0


async def test_proxies_of_the_environment_are_not_used(tmp_path, monkeypatch):
    async with HttpEndpoint() as proxy, HttpEndpoint() as endpoint:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        policy = Policy(hosts=frozenset({"inside.example"}))
        outcome = await attempt(f"http://inside.example:{endpoint.port}/", Names(["127.0.0.1"]), tmp_path, policy)
        assert outcome.error is None
        assert (proxy.connections, endpoint.connections) == (0, 1)
