"""More rows of the table of `xenconsole.explain`, in its form: grants, refusals, frames' references and scheduling."""

from __future__ import annotations

ROWS = """\
# grants
grant:out = granted
    Entries of this domain's grant table by which others may use its frames. Consent by frame, taken back at will.
    > struct grant_entry_v1, public/grant_table.h
grant:in = mapped
    Frames of others that this domain has mapped by a grant.
    > GNTTABOP_map_grant_ref, public/grant_table.h
grant:version = grant table
    Its version, and how many frames it has of those it may grow to.
    > GNTTABOP_set_version, GNTTABOP_query_size, public/grant_table.h
grant:ref = reference
    The number by which the other domain names the grant; the two agree on it through xenstore or a ring.
    > grant_ref_t, public/grant_table.h
grant:pfn = frame
    The granted frame, as the domain counts its own.
    > grant_entry_v1.frame, public/grant_table.h (a machine frame for a PV guest)
grant:users = users
    Who maps or copies it at this moment. While somebody does, the grant cannot be taken back.
    > GTF_reading, GTF_writing, public/grant_table.h
grant:access = access
    The other domain may map the frame and copy to and from it.
    > GTF_permit_access, public/grant_table.h
grant:read_only = read-only
    The other domain may read the frame and no more.
    > GTF_readonly, public/grant_table.h
grant:part_of_a_page = part of a page
    Only a range of bytes may be copied; a map is refused.
    > GTF_sub_page, struct grant_entry_v2, public/grant_table.h
grant:transfer = transfer
    The other domain may give a frame of its own for good.
    > GTF_accept_transfer, public/grant_table.h
grant:transitive = transitive
    Passes on a grant that a third domain gave.
    > GTF_transitive, public/grant_table.h
grant:handle = handle
    Names the mapping when it is undone.
    > grant_handle_t, public/grant_table.h
grant:mfn = machine frame
    Where the mapper's page tables see the other domain's frame.
    > gnttab_map_grant_ref.dev_bus_addr, public/grant_table.h
grant:mapping = kind of mapping
    host: in page tables; device: for a device to reach; read-only when asked so.
    > GNTMAP_host_map, GNTMAP_device_map, GNTMAP_readonly, public/grant_table.h
# refusals
refusal:what = what was refused
    The call, or the emulated write, that the hypervisor said no to. Nothing of it was done.
    > xenconsole's own record; Xen logs some with gdprintk
refusal:reason = reason
    The check that failed and the value that failed it.
    > xenconsole's own words for Xen's check
errno:EPERM = EPERM — not permitted
    1: not this domain's to ask, or a frame it has no right to.
    > XEN_EPERM, public/errno.h
errno:ENOENT = ENOENT — no such thing
    2: nothing is there under that name or address.
    > XEN_ENOENT, public/errno.h
errno:ESRCH = ESRCH — no such domain
    3: the domain named does not exist.
    > XEN_ESRCH, public/errno.h
errno:ENXIO = ENXIO — no such slot
    6: the index lies outside of what there is.
    > XEN_ENXIO, public/errno.h
errno:E2BIG = E2BIG — too much
    7: more was asked than one call takes.
    > XEN_E2BIG, public/errno.h
errno:ENOMEM = ENOMEM — no memory
    12: the quota or the host's pool is used up.
    > XEN_ENOMEM, public/errno.h
errno:EACCES = EACCES — no access
    13: the guest's rights to the page do not allow it.
    > XEN_EACCES, public/errno.h
errno:EFAULT = EFAULT — bad address
    14: an argument's address is not mapped, or not the guest's.
    > XEN_EFAULT, public/errno.h
errno:EBUSY = EBUSY — in use
    16: somebody uses it in a way that excludes this one.
    > XEN_EBUSY, public/errno.h
errno:EEXIST = EEXIST — already there
    17: it was made before.
    > XEN_EEXIST, public/errno.h
errno:EINVAL = EINVAL — invalid
    22: a value out of its range, or a frame that cannot be what it is asked to be.
    > XEN_EINVAL, public/errno.h
errno:ENOSPC = ENOSPC — no room
    28: every slot is taken.
    > XEN_ENOSPC, public/errno.h
errno:ENOSYS = ENOSYS — no such call
    38: the hypervisor has no such hypercall or operation.
    > XEN_ENOSYS, public/errno.h
errno:EOPNOTSUPP = EOPNOTSUPP — not supported
    95: known, and not for this kind of guest.
    > XEN_EOPNOTSUPP, public/errno.h
# references of a frame
ref:owner = owner
    Whose frame it is. A domain maps its own frames, what Xen shares with it, and what others grant.
    > page_get_owner, xen/arch/x86/include/asm/mm.h
ref:type = type
    What the frame is used as. Types exclude each other while their count is above zero: no page table is ever writable.
    > PGT_type_mask in page_info.u.inuse.type_info, xen/arch/x86/include/asm/mm.h
ref:count = type count
    Uses of the frame as its type: for a table the entries, pins and CR3s that name it, else its writable mappings.
    > PGT_count_mask, xen/arch/x86/include/asm/mm.h
ref:general = references
    All uses: those as the type, read-only mappings, grants in use, and one for the allocation.
    > PGC_count_mask in page_info.count_info, xen/arch/x86/include/asm/mm.h
ref:pinned = pinned
    Held as a table of its type by MMUEXT_PIN_Ln_TABLE, whether or not anything names it.
    > PGT_pinned; MMUEXT_PIN_L1_TABLE, public/xen.h
ref:leaving = leaving
    Given back while in use: it goes with its last use.
    > PGC_allocated clear, xen/arch/x86/include/asm/mm.h
ref:va = address
    Where the guest sees the frame by this entry. One way down from an L4, where several lead to the entry.
    > page-table walk, Intel SDM vol. 3, 4.5
ref:entry = entry
    The table (machine frame) and the slot in it that name the frame.
    > l1_pgentry_t, xen/arch/x86/include/asm/page.h
ref:flags = flags
    w writable, u user, x executable, a accessed, d dirty, g global.
    > _PAGE_RW … in public headers' terms; Intel SDM vol. 3, 4.5
# scheduling
sched:scheduler = scheduler
    Who decides which domain runs next on which physical CPU.
    > sched= of Xen's command line; docs/misc/xen-command-line
sched:credit = credit
    What a domain may still use before those behind it are served. It drains while the domain runs, in proportion to its weight.
    > csched2_unit.credit in Xen's xen/common/sched/credit2.c; atomic_t credit in credit.c
sched:priority = priority
    In the scheduler's words: BOOST just woke, UNDER has credit, OVER has none, parked is over its cap.
    > CSCHED_PRI_TS_BOOST … in Xen's xen/common/sched/credit.c
sched:weight = weight
    Share of CPU time against the others' weights.
    > xen_domctl_sched_credit2.weight, public/domctl.h
sched:cap = cap
    Percent of one physical CPU that the domain never exceeds; 0 for none.
    > xen_domctl_sched_credit2.cap, public/domctl.h
sched:wants = what it asks for
    The last hypercall of the vCPU that waits.
    > __HYPERVISOR_*, public/xen.h
sched:steal = steal
    It could run and had no CPU: percent of the last second, and the sum. The guest is told, as top's st.
    > RUNSTATE_runnable, public/vcpu.h
sched:strip = who ran where
    A row a physical CPU, the last second from left to right; the domain that held it longest in a cell gives its sign.
    > xenconsole's own record, as xentrace's TRC_SCHED_SWITCH
host:pool = memory pool
    Frames owned by domains and by the hypervisor, of all the host has.
    > xen_sysctl_physinfo.total_pages, free_pages, public/sysctl.h
"""
