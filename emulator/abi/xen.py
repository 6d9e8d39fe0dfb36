"""Numbers and layouts of Xen's public headers that the hypervisor speaks: xen.h, sched.h, vcpu.h, event_channel.h, memory.h,
callback.h, version.h, features.h, physdev.h, arch-x86/xen.h, arch-x86/xen-x86_64.h, io/console.h. Layouts as byte offsets."""

from __future__ import annotations

# --- hypercall numbers (xen.h) -----------------------------------------------------------------------------------------------
HYPERCALLS: tuple[str, ...] = (
    "set_trap_table", "mmu_update", "set_gdt", "stack_switch", "set_callbacks", "fpu_taskswitch", "sched_op_compat", "platform_op",
    "set_debugreg", "get_debugreg", "update_descriptor", "", "memory_op", "multicall", "update_va_mapping", "set_timer_op",
    "event_channel_op_compat", "xen_version", "console_io", "physdev_op_compat", "grant_table_op", "vm_assist",
    "update_va_mapping_otherdomain", "iret", "vcpu_op", "set_segment_base", "mmuext_op", "xsm_op", "nmi_op", "sched_op", "callback_op",
    "xenoprof_op", "event_channel_op", "physdev_op", "hvm_op", "sysctl", "domctl", "kexec_op", "tmem_op", "argo_op", "xenpmu_op",
    "dm_op", "hypfs_op", "", "", "", "", "", "mca",
)  # fmt: skip
HYPERCALL_NUMBER: dict[str, int] = {name: number for number, name in enumerate(HYPERCALLS) if name}
MASK32 = 0xFFFFFFFF
"""What counts of an argument that its prototype calls `int` (hypercall-defs.c); the upper half is whatever was in the register."""

DOMID_SELF, DOMID_IO, DOMID_XEN, DOMID_FIRST_RESERVED = 0x7FF0, 0x7FF1, 0x7FF2, 0x7FF0

# --- address space (arch-x86/xen-x86_64.h, asm-x86/config.h) -----------------------------------------------------------------
HYPERVISOR_VIRT_START, HYPERVISOR_VIRT_END = 0xFFFF800000000000, 0xFFFF880000000000
M2P_VIRT_START = HYPERVISOR_VIRT_START
PERDOMAIN_VIRT_START = 0xFFFF820000000000
XEN_L4_FIRST, XEN_L4_LAST = 256, 271  # L4 slots of the hypervisor's range
M2P_L4_SLOT, PERDOMAIN_L4_SLOT = 256, 260
GDT_PAGES = 16
RESERVED_GDT_BYTE = 0xE000
RESERVED_GDT_PAGE = RESERVED_GDT_BYTE >> 12
RESERVED_GDT_ENTRY = RESERVED_GDT_BYTE >> 3
FLAT_RING3_CS32, FLAT_RING3_DS, FLAT_RING3_CS64 = 0xE023, 0xE02B, 0xE033
FLAT_KERNEL_CS, FLAT_KERNEL_SS = FLAT_RING3_CS64, FLAT_RING3_DS

# --- page table entries --------------------------------------------------------------------------------------------------
PRESENT, RW, USER, PWT, PCD, ACCESSED, DIRTY, PSE, GLOBAL = (1 << n for n in range(9))
NX = 1 << 63
GUEST_KERNEL = 1 << 52  # Xen's mark on a kernel page that carries USER (asm-x86/x86_64/page.h)
FRAME_MASK = 0x000FFFFFFFFFF000

# --- shared_info and vcpu_info (xen.h) ---------------------------------------------------------------------------------------
VCPU_INFO_SIZE, LEGACY_MAX_VCPUS = 64, 32
VI_UPCALL_PENDING, VI_UPCALL_MASK, VI_PENDING_SEL, VI_CR2, VI_TIME = 0, 1, 8, 16, 32
SI_PENDING, SI_MASK, SI_WC_VERSION, SI_WC_SEC, SI_WC_NSEC, SI_WC_SEC_HI, SI_ARCH = 2048, 2560, 3072, 3076, 3080, 3084, 3088
TIME_VERSION, TIME_TSC, TIME_SYSTEM, TIME_MUL, TIME_SHIFT, TIME_FLAGS = 0, 8, 16, 24, 28, 29
TSC_STABLE_BIT, GUEST_STOPPED = 1, 2

# --- events ------------------------------------------------------------------------------------------------------------------
EVENT_PORTS = 4096  # two-level: 64 words of 64 bits
VIRQ_TIMER, VIRQ_DEBUG, VIRQ_CONSOLE, VIRQ_DOM_EXC, VIRQ_TBUF, VIRQ_DEBUGGER, VIRQ_XENOPROF, VIRQ_CON_RING = range(8)
NR_VIRQS = 24
VIRQ_NAMES = ("TIMER", "DEBUG", "CONSOLE", "DOM_EXC", "TBUF", "DEBUGGER", "XENOPROF", "CON_RING", "PCPU_STATE", "MEM_EVENT",
              "ARGO", "ENOMEM", "XENPMU")  # fmt: skip
GLOBAL_VIRQS = frozenset({VIRQ_CONSOLE, VIRQ_DOM_EXC, VIRQ_TBUF, VIRQ_DEBUGGER, VIRQ_CON_RING, 8, 9, 10, 11})
(EVTCHNOP_bind_interdomain, EVTCHNOP_bind_virq, EVTCHNOP_bind_pirq, EVTCHNOP_close, EVTCHNOP_send, EVTCHNOP_status,
 EVTCHNOP_alloc_unbound, EVTCHNOP_bind_ipi, EVTCHNOP_bind_vcpu, EVTCHNOP_unmask, EVTCHNOP_reset, EVTCHNOP_init_control,
 EVTCHNOP_expand_array, EVTCHNOP_set_priority) = range(14)  # fmt: skip

# --- scheduling, vCPUs, callbacks ----------------------------------------------------------------------------------------
SCHEDOP_yield, SCHEDOP_block, SCHEDOP_shutdown, SCHEDOP_poll, SCHEDOP_remote_shutdown, SCHEDOP_shutdown_code, SCHEDOP_watchdog, \
    SCHEDOP_pin_override = range(8)  # fmt: skip
SHUTDOWN_REASONS = ("poweroff", "reboot", "suspend", "crash", "watchdog", "soft_reset")
(VCPUOP_initialise, VCPUOP_up, VCPUOP_down, VCPUOP_is_up, VCPUOP_get_runstate_info, VCPUOP_register_runstate_memory_area,
 VCPUOP_set_periodic_timer, VCPUOP_stop_periodic_timer, VCPUOP_set_singleshot_timer, VCPUOP_stop_singleshot_timer,
 VCPUOP_register_vcpu_info, VCPUOP_send_nmi, VCPUOP_get_physid, VCPUOP_register_vcpu_time_memory_area) = range(14)  # fmt: skip
VCPU_SSHOTTMR_future = 1
CALLBACKOP_register, CALLBACKOP_unregister = 0, 1
CALLBACK_event, CALLBACK_failsafe, CALLBACK_syscall, _CALLBACK_sysenter_old, CALLBACK_nmi, CALLBACK_sysenter, CALLBACK_syscall32 = range(7)
CALLBACKF_mask_events = 1
VGCF_i387_valid, VGCF_in_kernel, VGCF_failsafe_disables_events, VGCF_syscall_disables_events, VGCF_in_syscall = 1, 4, 8, 16, 256
SEGBASE_FS, SEGBASE_GS_USER, SEGBASE_GS_KERNEL, SEGBASE_GS_USER_SEL = range(4)
VMASST_TYPE_4gb_segments, _4gb_notify, VMASST_TYPE_writable_pagetables, VMASST_TYPE_pae_extended_cr3, \
    VMASST_TYPE_architectural_iopl, VMASST_TYPE_runstate_update_flag = range(6)  # fmt: skip
VMASST_TYPE_m2p_strict = 32

# --- memory ------------------------------------------------------------------------------------------------------------------
MMU_NORMAL_PT_UPDATE, MMU_MACHPHYS_UPDATE, MMU_PT_UPDATE_PRESERVE_AD, MMU_PT_UPDATE_NO_TRANSLATE = range(4)
(MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE, MMUEXT_PIN_L3_TABLE, MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE, MMUEXT_NEW_BASEPTR,
 MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_INVLPG_LOCAL, MMUEXT_TLB_FLUSH_MULTI, MMUEXT_INVLPG_MULTI, MMUEXT_TLB_FLUSH_ALL, MMUEXT_INVLPG_ALL,
 MMUEXT_FLUSH_CACHE, MMUEXT_SET_LDT, _MMUEXT_14, MMUEXT_NEW_USER_BASEPTR, MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE,
 MMUEXT_FLUSH_CACHE_GLOBAL, MMUEXT_MARK_SUPER, MMUEXT_UNMARK_SUPER) = range(21)  # fmt: skip
MMUEXT_NAMES = ("PIN_L1_TABLE", "PIN_L2_TABLE", "PIN_L3_TABLE", "PIN_L4_TABLE", "UNPIN_TABLE", "NEW_BASEPTR", "TLB_FLUSH_LOCAL",
                "INVLPG_LOCAL", "TLB_FLUSH_MULTI", "INVLPG_MULTI", "TLB_FLUSH_ALL", "INVLPG_ALL", "FLUSH_CACHE", "SET_LDT", "14",
                "NEW_USER_BASEPTR", "CLEAR_PAGE", "COPY_PAGE", "FLUSH_CACHE_GLOBAL", "MARK_SUPER", "UNMARK_SUPER")  # fmt: skip
UVMF_FLUSHTYPE_MASK, UVMF_NONE, UVMF_TLB_FLUSH, UVMF_INVLPG = 3, 0, 1, 2
(XENMEM_increase_reservation, XENMEM_decrease_reservation, XENMEM_maximum_ram_page, XENMEM_current_reservation,
 XENMEM_maximum_reservation, XENMEM_machphys_mfn_list, XENMEM_populate_physmap, XENMEM_add_to_physmap, _XENMEM_8,
 XENMEM_memory_map, XENMEM_machine_memory_map, XENMEM_exchange, XENMEM_machphys_mapping) = range(13)  # fmt: skip
(XENMEM_set_memory_map, XENMEM_maximum_gpfn, XENMEM_remove_from_physmap, XENMEM_set_pod_target, XENMEM_get_pod_target) = range(13, 18)
(XENMEM_add_to_physmap_batch, XENMEM_claim_pages, XENMEM_machphys_compat_mfn_list, XENMEM_get_vnumainfo,
 XENMEM_reserved_device_memory_map, XENMEM_acquire_resource) = range(23, 29)  # fmt: skip

# --- version and features ----------------------------------------------------------------------------------------------------
(XENVER_version, XENVER_extraversion, XENVER_compile_info, XENVER_capabilities, XENVER_changeset, XENVER_platform_parameters,
 XENVER_get_features, XENVER_pagesize, XENVER_guest_handle, XENVER_commandline, XENVER_build_id) = range(11)  # fmt: skip
XENFEAT_writable_page_tables, XENFEAT_writable_descriptor_tables, XENFEAT_auto_translated_physmap, XENFEAT_supervisor_mode_kernel = range(4)
XENFEAT_pae_pgdir_above_4gb, XENFEAT_mmu_pt_update_preserve_ad, XENFEAT_highmem_assist, XENFEAT_gnttab_map_avail_bits = 4, 5, 6, 7
XENFEAT_memory_op_vnode_supported, XENFEAT_direct_mapped = 13, 17

XEN_DOMCTL_INTERFACE_VERSION, XEN_SYSCTL_INTERFACE_VERSION, XENPF_INTERFACE_VERSION = 0x15, 0x15, 0x03000001

# --- physdev, console --------------------------------------------------------------------------------------------------------
PHYSDEVOP_IRQ_UNMASK_NOTIFY, PHYSDEVOP_irq_status_query, PHYSDEVOP_set_iopl, PHYSDEVOP_set_iobitmap = 4, 5, 6, 7
PHYSDEVOP_eoi, PHYSDEVOP_setup_gsi = 12, 21
XENIRQSTAT_needs_eoi = 1
CONSOLEIO_write, CONSOLEIO_read = 0, 1
CONSOLE_IN, CONSOLE_OUT, CONSOLE_IN_CONS, CONSOLE_IN_PROD, CONSOLE_OUT_CONS, CONSOLE_OUT_PROD = 0, 1024, 3072, 3076, 3080, 3084
CONSOLE_IN_SIZE, CONSOLE_OUT_SIZE = 1024, 2048
XENSTORE_REQ, XENSTORE_RSP, XENSTORE_REQ_CONS, XENSTORE_REQ_PROD, XENSTORE_RSP_CONS, XENSTORE_RSP_PROD = 0, 1024, 2048, 2052, 2056, 2060
XENSTORE_RING_SIZE = 1024

# --- trap vectors ------------------------------------------------------------------------------------------------------------
TRAP_NAMES = ("#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "CSO", "#TS", "#NP", "#SS", "#GP", "#PF", "#15", "#MF",
              "#AC", "#MC", "#XM", "#VE", "#CP")  # fmt: skip
TRAP_DB, TRAP_NMI, TRAP_BP, TRAP_OF, TRAP_UD, TRAP_NM, TRAP_DF = 1, 2, 3, 4, 6, 7, 8
TRAP_TS, TRAP_NP, TRAP_SS, TRAP_GP, TRAP_PF, TRAP_AC = 10, 11, 12, 13, 14, 17
TRAPS_WITH_ERROR_CODE = frozenset({8, 10, 11, 12, 13, 14, 17, 21})
PFEC_present, PFEC_write, PFEC_user, PFEC_reserved, PFEC_insn = 1, 2, 4, 8, 16
