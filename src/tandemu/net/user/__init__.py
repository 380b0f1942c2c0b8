"""The user network: a NAT that needs no root. Its guest's connections are sockets of the host's."""

from tandemu.net.user.network import UserNetwork
from tandemu.net.user.plan import Forward, Plan

__all__ = ["Forward", "Plan", "UserNetwork"]
