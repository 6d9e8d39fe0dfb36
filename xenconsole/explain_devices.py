"""More rows of the table of `xenconsole.explain`, in its form: what domains share, devices, networks and disks."""

from __future__ import annotations

ROWS = """\
# the matrix of domains
link:cell = a pair of domains
    Channels, those with a waiting event (!), grants in use of those given, events a second. The row's domain is the one asked.
    > EVTCHNSTAT_interdomain, public/event_channel.h; grant_entry_v1, public/grant_table.h
link:ports = event channels
    Interdomain ports of the row's domain that end at the column's.
    > struct evtchn_bind_interdomain, public/event_channel.h
link:awaiting = channels that wait to be bound
    The row's domain allocated them for the column's, which has bound none yet.
    > struct evtchn_alloc_unbound, public/event_channel.h
link:pending = pending
    Channels with an event that the row's domain has not taken yet.
    > shared_info.evtchn_pending, public/xen.h
link:grants = grants in use of those given
    Frames of the row's domain that the column's uses at this moment, and the entries by which it may.
    > GTF_reading, GTF_writing; grant_entry_v1.domid, public/grant_table.h
link:rate = events a second
    Sent through these channels, both ways.
    > EVTCHNOP_send, public/event_channel.h
"""
