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
    Frames of the row's domain that the column's uses at this moment, and the entries by which it may; "in 4": it gives none, and uses 4.
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
# disks
disk:name = disk
    A disk of the storage pool. One that was cloned stands under its base, which is never written to again.
    > target= of xl-disk-configuration(5)
disk:foreign = a disk from elsewhere
    A file that a guest's cfg names, outside of the pool's folder.
    > target= of xl-disk-configuration(5)
disk:format = kind
    raw: the bytes as they are. overlay: a map and the clusters that differ from a base.
    > format= of xl-disk-configuration(5)
disk:size = size
    What a guest sees of it.
    > sectors in the backend's directory, public/io/blkif.h
disk:held = holds
    What it takes of the host's disk: of an overlay its own clusters, of a raw image what is not a hole.
    > st_blocks of stat(2)
disk:uses = used by
    The domains that have it, as which device. One may write to it, or several read it.
    > /local/domain/0/backend/vbd, public/io/blkif.h
disk:chain = lies over
    The bases that it reads what it has not written itself from, nearest first.
    > as QEMU's backing chain; xenconsole's own format
disk:trouble = of no use
    Why it cannot be opened: its base has changed or is gone, or the file is damaged.
    > xenconsole's own check
disk:bytes = bytes
    As they are on the disk, or in the file, at this moment. Those of a disk in use may change.
    > none in Xen
block:zero = never written
    Reads as zeros and takes no room.
    > a hole of the file, or an empty entry of the overlay's map
block:base = the base's
    Read from what the disk lies over, until the guest writes here.
    > xenconsole's overlay map
block:own = its own
    Bytes of the disk itself; ▓ where less than half of the piece is.
    > xenconsole's overlay map; SEEK_DATA of a raw file
file:file = file
    A regular file. Enter shows its bytes.
    > i_mode S_IFREG
file:directory = directory
    Enter goes into it.
    > i_mode S_IFDIR
file:partition = partition
    One entry of the disk's partition table, with its type and label.
    > MBR and GPT (UEFI specification, 5)
file:link = symbolic link
    Names another path, which is not followed here.
    > i_mode S_IFLNK
file:device = device
    A device's node: numbers, no bytes.
    > i_mode S_IFBLK, S_IFCHR
file:fifo = named pipe
    No bytes of its own.
    > i_mode S_IFIFO
file:socket = socket
    No bytes of its own.
    > i_mode S_IFSOCK
file:unknown = not to be read
    The entry is damaged, or of a kind that is not known here; it says what is wrong.
    > xenconsole's own check
file:size = size
    Bytes in it.
    > i_size
file:mode = rights and owner
    As ls -l shows them; owner and group by number, since names are the guest's own.
    > i_mode, i_uid, i_gid
file:changed = changed
    When its contents were changed last, by the guest's clock.
    > i_mtime
# xenbus
xenbus:frontend = front end
    The guest's driver, and its state in the guest's own directory.
    > /local/domain/<domid>/device, xen/include/public/io/xenbus.h
xenbus:backend = back end
    Domain-0's driver, and its state in Domain-0's directory.
    > /local/domain/0/backend, public/io/xenbus.h
xenbus:waits = who waits for whom
    From the two states: whose move is next, and since when.
    > xenconsole's own reading of public/io/xenbus.h
xenbus:nodes = what was written
    What that end wrote below its directory since its last step: features, ring references, event channels.
    > public/io/blkif.h, public/io/netif.h
xenbus:trouble = why it was closed
    What the back end could not accept of the front end.
    > the backend's error node
xenbus:vbd = virtual block device
    A disk: blkfront in the guest, blkback in Domain-0.
    > public/io/blkif.h
xenbus:vif = virtual interface
    A network card: netfront in the guest, netback in Domain-0.
    > public/io/netif.h
xenbus:console = console
    The guest's hvc driver and Domain-0's console daemon.
    > public/io/console.h
xenbus:unknown = unknown
    No state is written there.
    > XenbusStateUnknown, public/io/xenbus.h
xenbus:initialising = initialising
    The end has begun; it has not said yet what it can do.
    > XenbusStateInitialising, public/io/xenbus.h
xenbus:init_wait = init-wait
    The back end has said what it can do and waits for the front end's ring.
    > XenbusStateInitWait, public/io/xenbus.h
xenbus:initialised = initialised
    The front end has granted its ring and event channel and waits for the back end to connect.
    > XenbusStateInitialised, public/io/xenbus.h
xenbus:connected = connected
    Ready for requests.
    > XenbusStateConnected, public/io/xenbus.h
xenbus:closing = closing
    This end wants to end; the other one is to follow.
    > XenbusStateClosing, public/io/xenbus.h
xenbus:closed = closed
    This end has let everything go.
    > XenbusStateClosed, public/io/xenbus.h
# what a device moves
ring:age = oldest in flight
    For how long the oldest request is in the back end's hands, or frames wait for buffers or credit.
    > xenconsole's own measure
flow:inward = to the guest
    Bytes a second read from the disk, or received from the network, with their history.
    > BLKIF_OP_READ, public/io/blkif.h; struct netif_rx_response, public/io/netif.h
flow:outward = from the guest
    Bytes a second written to the disk, or sent into the network, with their history.
    > BLKIF_OP_WRITE, public/io/blkif.h; struct netif_tx_request, public/io/netif.h
flow:done = requests, frames
    How many a second, both ways.
    > req_prod, public/io/ring.h
flow:latency = latency
    Of a disk from a request's taking to its answer, of a card from the bridge to the guest's ring: the mean since the last look.
    > xenconsole's own measure
# pools of CPUs
sched:pool = pool of CPUs
    Physical CPUs with a scheduler of their own; a domain runs in one pool alone.
    > xen_sysctl_cpupool_op, public/sysctl.h
"""
