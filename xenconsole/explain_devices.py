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
# networks
net:network = network
    A learning bridge of our own that guests' interfaces hang on, named by bridge= in their cfg.
    > docs/misc/vif-script, tools/hotplug/Linux/vif-bridge
net:port = port of the bridge
    What hangs on it: an interface of a guest (vifDOMID.DEVID) or the uplink.
    > vifname, xl-network-configuration(5)
net:vif = interface
    Domain, and the device's number in it: eth0 is 0. A ● records its frames, a ! has something wrong with it.
    > /local/domain/<domid>/device/vif/<devid>, public/io/netif.h
net:mac = address
    The one address that an interface may send from: frames from another are dropped and counted.
    > mac=, xl-network-configuration(5)
net:state = state of the two ends
    xenbus states of back and front; one word when they agree. connected means that frames can flow.
    > enum xenbus_state, public/io/xenbus.h
net:sends = what the guest sends
    Bytes a second from the guest into the network, with their history.
    > tx ring, struct netif_tx_request, public/io/netif.h
net:gets = what the guest gets
    Bytes a second from the network into the guest, with their history.
    > rx ring, struct netif_rx_response, public/io/netif.h
net:wait = wait
    How long a frame is on its way from the bridge to the guest's ring: the guest must come to a CPU first.
    > xenconsole's own measure
net:drops = dropped
    Frames that went nowhere, by reason.
    > rx_gso_checksum_fixup … of xen-netback count alike; the reasons are xenconsole's own
net:queues = queues
    Pairs of rings in use; 0 while the front end is not connected.
    > multi-queue-num-queues, public/io/netif.h
net:limit = rate limit
    Bytes a second that the guest may send, and how often it had to wait for credit.
    > rate=, xl-network-configuration(5); credit_bytes of xen-netback
net:multicast = multicast
    The addresses that the front end asked for; without that wish it gets all.
    > feature-multicast-control, public/io/netif.h
net:capture = capture
    The interface's frames go to a pcapng file that wireshark and tcpdump read.
    > draft-ietf-opsawg-pcapng; network-capture here
net:alarm = something is wrong
    Closed and why, stalled for want of receive buffers, or held back by its rate limit.
    > xenconsole's own words
net:uplink = uplink
    A host of our own on the network: gives addresses, answers names and pings, lets named services of the host's loopback through.
    > none in Xen; as QEMU's user-mode network
net:lease = lease
    An address that the uplink gave by DHCP, to whom.
    > RFC 2131
net:forward = service
    What the uplink lets through between guests and the host's loopback; everything else is refused.
    > none in Xen; as QEMU's hostfwd and guestfwd
net:flow = flow
    A connection, or an exchange of datagrams, that is open through the uplink.
    > none in Xen
net:fixed = its own address
    The interface's own, by its configuration: never learned, never forgotten.
    > static entry of a bridge's forwarding table
net:learned = learned
    Seen as a frame's source on that port; forgotten when it is silent for long.
    > forwarding table of IEEE 802.1D
net:fate = where it went
    The port or ports that a frame was handed to, or why it went nowhere.
    > xenconsole's own words
"""
