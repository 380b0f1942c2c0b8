"""Network block devices: an image over a socket, as client and as server.

Source: the NBD protocol, doc/proto.md of the NetworkBlockDevice project: fixed newstyle
negotiation, structured replies, the context base:allocation. Not here: TLS, extended headers,
which are refused as the protocol wants it, so that peers do without.
"""
