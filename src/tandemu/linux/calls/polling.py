"""System calls that wait for descriptors: poll, select, epoll, and what feeds them."""

from __future__ import annotations

from tandemu.linux.table import Calls

calls = Calls()

for _name, _arguments in (
    ("ppoll", "ptr int ptr ptr size"),
    ("pselect6", "int ptr ptr ptr ptr ptr"),
    ("epoll_pwait", "fd events events-count int ptr size"),
    ("epoll_pwait2", "fd events events-count ptr ptr size"),
):
    calls.direct(_name, _arguments, restarts=False)
calls.direct("epoll_create1", "hex")


calls.direct("epoll_ctl", "fd int fd event")


calls.direct("eventfd2", "int hex")
calls.direct("timerfd_create", "int hex")
calls.direct("timerfd_settime", "fd hex ptr ptr")
calls.direct("timerfd_gettime", "fd ptr")
calls.direct("inotify_init1", "hex")
calls.direct("inotify_rm_watch", "fd int")
calls.direct("signalfd4", "fd ptr size hex")
