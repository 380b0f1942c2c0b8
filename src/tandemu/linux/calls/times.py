"""System calls on time and timers."""

from __future__ import annotations

from tandemu.linux.table import Calls

calls = Calls()

for _name, _arguments in (
    ("clock_gettime", "int ptr"),
    ("clock_getres", "int ptr"),
    ("gettimeofday", "ptr ptr"),
    ("times", "ptr"),
    ("getrusage", "int ptr"),
    ("getitimer", "int ptr"),
    ("setitimer", "int ptr ptr"),
    ("timer_gettime", "int ptr"),
    ("timer_settime", "int hex ptr ptr"),
    ("timer_getoverrun", "int"),
    ("timer_delete", "int"),
    ("clock_settime", "int ptr"),
    ("settimeofday", "ptr ptr"),
    ("clock_adjtime", "int ptr"),
    ("adjtimex", "ptr"),
):
    calls.direct(_name, _arguments)


calls.direct("nanosleep", "ptr ptr", restarts=False)
calls.direct("clock_nanosleep", "int int ptr ptr", restarts=False)
calls.direct("timer_create", "int ptr ptr")
