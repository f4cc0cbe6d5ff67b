"""Where a push may go.

Whoever can add a subscription chooses an address that our worker connects to, from inside of our network. So nothing
is connected to but public addresses, unless the operator allows it: addresses are resolved here, all of them are
checked, and the connection is made to one that was checked, so that a name that answers differently the second time
gains nothing. The address of every socket is checked once more when it is made.

The lists are IANA's registries of special-purpose addresses (IPv4, IPv6), and the addresses of clouds' own services
that lie outside of them. IPv6 is the other way round: only global unicast space (2000::/3) is public, without its
special parts. So all forms that wrap an IPv4 address are refused: mapped, compatible, 6to4, Teredo, NAT64.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from streams.push.aside import Aside

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.settings import Settings

__all__ = ["Guard", "Policy", "RefusedAddressError", "RefusedUrlError", "shown_url"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_SPECIAL: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ipaddress.ip_network(network), what)
    for network, what in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "a carrier's own (CGNAT)"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local, where clouds keep their metadata"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved for protocols"),
        ("192.0.2.0/24", "for documentation"),
        ("192.52.193.0/24", "reserved for AMT"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "for benchmarks"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("168.63.129.16/32", "Azure's own service"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "an IPv4 address in IPv6 (mapped)"),
        ("::/96", "an IPv4 address in IPv6 (compatible)"),
        ("64:ff9b::/96", "an IPv4 address in IPv6 (NAT64)"),
        ("64:ff9b:1::/48", "an IPv4 address in IPv6 (NAT64)"),
        ("2001::/32", "an IPv4 address in IPv6 (Teredo)"),
        ("2001::/23", "reserved for protocols"),
        ("2001:db8::/32", "for documentation"),
        ("2002::/16", "an IPv4 address in IPv6 (6to4)"),
        ("2620:4f:8000::/48", "reserved for AS112"),
        ("3fff::/20", "for documentation"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
_GLOBAL_UNICAST: Final = ipaddress.ip_network("2000::/3")
_UNSPECIFIED: Final = ipaddress.IPv6Address("::")
_LOOPBACK: Final = ipaddress.IPv6Address("::1")
_WITH_IPV4_LAST: Final = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "::ffff:0:0/96", "::/96")))
# Every network may have its own prefix in here (RFC 8215), and each length wraps another address.
_LOCAL_NAT64: Final = ipaddress.IPv6Network("64:ff9b:1::/48")
_LONGEST_URL: Final = 2000


class RefusedUrlError(Exception):
    """A URL that is not pushed to; says why, without the URL."""


class RefusedAddressError(Exception):
    """An address that is not connected to; says which, and why."""


def why_not_public(address: Address) -> str | None:
    """What kind of address it is; None: a public one."""
    for network, what in _SPECIAL:
        if address.version == network.version and address in network:
            return what
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return "not global unicast"
    return None


def unwrapped(address: Address, nat64: tuple[ipaddress.IPv6Network, ...] = ()) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to, if it is of a form that wraps one.

    Args:
        address: any.
        nat64: prefixes besides the well-known one; how they wrap: RFC 6052, section 2.2.
    """
    if isinstance(address, ipaddress.IPv4Address) or address in (_UNSPECIFIED, _LOOPBACK):
        return None
    for prefix in (*nat64, *_WITH_IPV4_LAST):
        if address in prefix:
            first = prefix.prefixlen // 8
            # The ninth octet is always zero, and no part of it.
            octets = [octet for place, octet in enumerate(address.packed) if place >= first and place != 8]
            return ipaddress.IPv4Address(bytes(octets[:4]))
    return address.sixtofour or (address.teredo or (None, None))[1]


def shown_url(url: str) -> str:
    """A URL as it may be shown: what follows the host may be a secret, as with many chat services."""
    scheme, mark, rest = url.partition("://")
    host, *path = re.split("[/?#]", rest, maxsplit=1)
    return f"{scheme}{mark}{host.rpartition('@')[2]}/{'…' if any(path) else ''}"


@dataclass(frozen=True)
class Policy:
    """What the operator allows besides public addresses over TLS.

    Attributes:
        networks: addresses that are allowed although they are not public.
        hosts: names that are allowed whatever they resolve to, in lower case.
        ports: where public endpoints may listen.
        nat64: prefixes of the network's own translation to IPv4.
    """

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()
    ports: frozenset[int] = frozenset({443, 8443})
    nat64: tuple[ipaddress.IPv6Network, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        """As the settings say."""
        networks: list[Network] = []
        hosts: set[str] = set()
        for place in filter(None, settings.push_allowed_networks.split(",")):
            try:
                networks.append(ipaddress.ip_network(place))
            except ValueError:
                hosts.add(place.lower())
        return cls(
            tuple(networks),
            frozenset(hosts),
            frozenset(int(port) for port in filter(None, settings.push_allowed_ports.split(","))),
            tuple(ipaddress.IPv6Network(prefix) for prefix in filter(None, settings.push_nat64_prefixes.split(","))),
        )

    def allows(self, address: Address) -> bool:
        """Whether an address is one of those that are allowed by name of its network."""
        return any(address.version == network.version and address in network for network in self.networks)


class Guard:
    """Decides for one URL.

    Args:
        url: where the pushes of a subscription go.
        policy: what is allowed.

    Raises:
        RefusedUrlError: whatever it resolves to.
    """

    def __init__(self, url: str, policy: Policy) -> None:
        self.policy = policy
        self.url = _parse(url)
        self._host = (self.url.raw_host or "").lower().rstrip(".")
        self._trusted = self._host in policy.hosts
        literal = _address(self._host)
        if literal is not None:
            self.check(str(literal))
        # Whoever may be spoken to without TLS is only known once its name is resolved.
        if literal is None and not self._trusted and not policy.networks:
            self._check_openness()

    def check(self, text: str) -> None:
        """Check an address that is about to be connected to.

        Raises:
            RefusedAddressError: or RefusedUrlError, for a scheme or port that public endpoints must not have.
        """
        if self._trusted:
            return
        address = _address(text)
        if address is None:
            raise RefusedAddressError(f"{text!r} is no address")
        inner = unwrapped(address, self.policy.nat64)
        if inner is None and address.version == 6 and address in _LOCAL_NAT64:
            raise RefusedAddressError(f"{address} is of a NAT64 whose prefix TRIPS_PUSH_NAT64_PREFIXES does not have")
        if self.policy.allows(address):
            if inner is None or self.policy.allows(inner):
                return
            # The way is allowed; where it leads is an address like any other.
            address, inner = inner, None
        what = why_not_public(address) if inner is None else "an IPv4 address in IPv6"
        if what is not None:
            raise RefusedAddressError(f"{address} is {what}; TRIPS_PUSH_ALLOWED_NETWORKS could allow it")
        self._check_openness()

    def _check_openness(self) -> None:
        if self.url.scheme != "https":
            raise RefusedUrlError("only https goes to public addresses")
        if self.url.port not in self.policy.ports:
            raise RefusedUrlError(
                f"port {self.url.port} is not one of TRIPS_PUSH_ALLOWED_PORTS "
                f"({', '.join(map(str, sorted(self.policy.ports)))})"
            )

    def socket(self, info: Any) -> socket.socket:
        """A socket for an address, checked: aiohttp's ``socket_factory``."""
        family, kind, protocol, _, address = info
        self.check(address[0])
        return socket.socket(family, kind, protocol)


def _parse(text: str) -> URL:
    if len(text) > _LONGEST_URL:
        raise RefusedUrlError(f"it has more than {_LONGEST_URL} characters")
    if not text.isascii() or any(character <= " " or character in '\\"<>^`{|}\x7f' for character in text):
        raise RefusedUrlError("it holds characters that must be encoded in a URL")
    try:
        url = URL(text, encoded=True)
        port, host = url.port, url.raw_host
    except ValueError:
        raise RefusedUrlError("it is no URL") from None
    if url.scheme not in ("https", "http"):
        raise RefusedUrlError("it must begin with https://")
    if not host:
        raise RefusedUrlError("it has no host")
    if "@" in url.raw_authority:
        raise RefusedUrlError("it holds a user or password: credentials are given by reference")
    if "#" in text:
        raise RefusedUrlError("it holds a fragment (#…)")
    if not port:
        raise RefusedUrlError("it has no port that can be connected to")
    return url


def _address(text: str) -> Address | None:
    """An address, also in the forms that C libraries take for one (``127.1``, ``0x7f000001``); scopes do not count."""
    text = text.strip("[]").partition("%")[0]
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(text))
    except OSError:
        return None


class GuardedResolver(AbstractResolver):
    """Resolves the name of one endpoint, in a thread of its own: name servers that hang hold nobody else up.

    Args:
        guard: checks each address.
        resolve: ``getaddrinfo``, or what stands for it in tests.
    """

    def __init__(self, guard: Guard, resolve: Callable[[str, int], list[Any]] | None = None) -> None:
        self._guard = guard
        self._resolve = resolve or _getaddrinfo
        self._thread = Aside("resolver")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """All addresses of a name.

        Raises:
            RefusedAddressError: one of them is refused. A name that has good ones and bad ones is not to be trusted.
            OSError: there is none.
        """
        del family  # all families: what one of them hides, the other shows
        found = await self._thread.run(self._resolve, host, port)
        results: list[ResolveResult] = []
        for address_family, _, protocol, _, address in found:
            self._guard.check(str(address[0]))
            results.append(
                ResolveResult(
                    hostname=host,
                    host=str(address[0]),
                    port=port,
                    family=address_family,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )
        if not results:
            raise OSError("no addresses")
        return results

    async def close(self) -> None:
        """Let the thread end."""
        self._thread.close()


def _getaddrinfo(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
