"""Networks: what stands behind a guest's network card.

A network (`link.Network`) takes a guest's frames and has frames for it: `user` is a NAT that needs
no root, `tap` an interface of the host's, `wire` a cable to other machines.
"""
