/*
 * Privileged and sensitive instructions. Each is a function of its own in assembly; the guard around it restores what they
 * leave of the registers, so they may use any but the stack pointer's place.
 */
#include "rogue.h"

#define DB 1
#define BP 3
#define UD 6
#define GP 13

static bool interrupts_on(long flags)
{
    return flags & 0x200;
}

static bool no_iopl(long flags)
{
    return !(flags & 0x3000);
}

static bool no_vmxe(long cr4)
{
    return !(cr4 & 0x2000);
}

static bool all_ones(long value)
{
    return (uint8_t)value == 0xff;
}

/* name in the table, assembly, what Xen does, check of what it returned in rax */
#define FLAGS(X) \
    X(cli, "cli", "cli", GP, NULL) \
    X(sti, "sti", "sti", GP, NULL) \
    X(popf_if, "popf, IF cleared", "pushfq; andq $~0x200, (%rsp); popfq; pushfq; popq %rax", MAY, interrupts_on) \
    X(popf_iopl, "popf, IOPL 3", "pushfq; orq $0x3000, (%rsp); popfq; pushfq; popq %rax", MAY, no_iopl) \
    X(hlt, "hlt", "hlt", GP, NULL)

#define PORTS(X) \
    X(in_imm, "in $0x60", "inb $0x60, %al", GP, NULL) \
    X(in_dx, "in %dx (0x1f7)", "movl $0x1f7, %edx; inb %dx, %al", GP, NULL) \
    X(in_l, "in %dx, 32 bits (0xcfc)", "movl $0xcfc, %edx; inl %dx, %eax", GP, NULL) \
    X(out_imm, "out $0x64 (reset)", "movb $0xfe, %al; outb %al, $0x64", GP, NULL) \
    X(out_dx, "out %dx (0xcf9, reset)", "movl $0xcf9, %edx; movb $6, %al; outb %al, %dx", GP, NULL) \
    X(ins, "ins", "leaq victim(%rip), %rdi; movl $0x60, %edx; insb", GP, NULL) \
    X(outs, "outs", "leaq victim(%rip), %rsi; movl $0x80, %edx; outsb", GP, NULL)

#define PORTS_IOPL(X) \
    X(iopl_cli, "cli with virtual IOPL 1", "cli; pushfq; popq %rax", MAY, interrupts_on) \
    X(iopl_sti, "sti with virtual IOPL 1", "sti; pushfq; popq %rax", MAY, interrupts_on) \
    X(iopl_in, "in with virtual IOPL 1", "inb $0x60, %al", MAY, all_ones) \
    X(iopl_out, "out with virtual IOPL 1", "movb $0xfe, %al; outb %al, $0x64", MAY, NULL)

#define CONTROL(X) \
    X(clts, "clts", "clts", MAY, NULL) \
    X(lmsw, "lmsw", "xorl %eax, %eax; lmsw %ax", GP, NULL) \
    X(smsw, "smsw", "smsw %rax", EITHER, NULL) \
    X(rd_cr0, "mov %cr0, r", "movq %cr0, %rax", MAY, NULL) \
    X(cr0_pg, "mov r, %cr0: PG off", "movq %cr0, %rax; btrq $31, %rax; movq %rax, %cr0", GP, NULL) \
    X(cr0_wp, "mov r, %cr0: WP changed", "movq %cr0, %rax; btcq $16, %rax; movq %rax, %cr0", GP, NULL) \
    X(rd_cr1, "mov %cr1, r", ".byte 0x0f, 0x20, 0xc8", UD, NULL) \
    X(rd_cr2, "mov %cr2, r", "movq %cr2, %rax", MAY, NULL) \
    X(wr_cr2, "mov r, %cr2", "movq $0x1000, %rax; movq %rax, %cr2", MAY, NULL) \
    X(rd_cr3, "mov %cr3, r", "movq %cr3, %rax", MAY, NULL) \
    X(cr3_wild, "mov r, %cr3: wild frame", "movabsq $0x12345678000, %rax; movq %rax, %cr3", GP, NULL) \
    X(rd_cr4, "mov %cr4, r", "movq %cr4, %rax", MAY, NULL) \
    X(cr4_vmxe, "mov r, %cr4: VMXE on", "movq %cr4, %rax; btsq $13, %rax; movq %rax, %cr4; movq %cr4, %rax", MAY, no_vmxe) \
    X(rd_cr8, "mov %cr8, r", "movq %cr8, %rax", GP, NULL) \
    X(wr_cr8, "mov r, %cr8", "xorl %eax, %eax; movq %rax, %cr8", GP, NULL) \
    X(rd_dr0, "mov %dr0, r", "movq %dr0, %rax", MAY, NULL) \
    X(rd_dr7, "mov %dr7, r", "movq %dr7, %rax", MAY, NULL) \
    X(dr0_xen, "mov r, %dr0: Xen's memory", "movabsq $0xffff82d080200000, %rax; movq %rax, %dr0", GP, NULL) \
    X(dr7_gd, "mov r, %dr7: general detect", "movl $0x2400, %eax; movq %rax, %dr7", GP, NULL) \
    X(dr7_high, "mov r, %dr7: high bits", "movabsq $0x100000400, %rax; movq %rax, %dr7", GP, NULL) \
    X(dr6_high, "mov r, %dr6: high bits", "movabsq $0x1ffff0ff0, %rax; movq %rax, %dr6", GP, NULL) \
    X(xsetbv, "xsetbv, XCR0 without x87", "xorl %ecx, %ecx; xorl %eax, %eax; xorl %edx, %edx; xsetbv", ANY_TRAP, NULL)

#define TABLES(X) \
    X(lgdt, "lgdt", "pushq $0; pushq $0; lgdt (%rsp); addq $16, %rsp", GP, NULL) \
    X(lidt, "lidt", "pushq $0; pushq $0; lidt (%rsp); addq $16, %rsp", GP, NULL) \
    X(lldt, "lldt", "xorl %eax, %eax; lldt %ax", GP, NULL) \
    X(ltr, "ltr", "movl $0xe040, %eax; ltr %ax", GP, NULL) \
    X(sgdt, "sgdt", "subq $16, %rsp; sgdt (%rsp); movq 2(%rsp), %rax; addq $16, %rsp", EITHER, NULL) \
    X(sidt, "sidt", "subq $16, %rsp; sidt (%rsp); movq 2(%rsp), %rax; addq $16, %rsp", EITHER, NULL) \
    X(sldt, "sldt", "xorl %eax, %eax; sldt %ax", EITHER, NULL) \
    X(str, "str", "xorl %eax, %eax; str %ax", EITHER, NULL) \
    X(ds_xen_cs, "mov r, %ds: Xen's code", "movl $0xe008, %eax; movl %eax, %ds", GP, NULL) \
    X(ds_xen_ds, "mov r, %ds: Xen's data", "movl $0xe010, %eax; movl %eax, %ds", GP, NULL) \
    X(ss_code, "mov r, %ss: a code segment", "movl $0xe033, %eax; movl %eax, %ss", GP, NULL) \
    X(ss_ring0, "mov r, %ss: ring 0", "movl $0xe028, %eax; movl %eax, %ss", GP, NULL) \
    X(ss_beyond, "mov r, %ss: beyond the table", "movl $0xfffb, %eax; movl %eax, %ss", GP, NULL)

#define JUMPS(X) \
    X(iret0, "iretq to ring 0", \
      "movq %rsp, %rdx; pushq $0xe028; pushq %rdx; pushfq; pushq $0xe030; pushq $1f; iretq; 1:", GP, NULL) \
    X(iret_xen, "iretq to Xen's code", \
      "movq %rsp, %rdx; pushq $0xe010; pushq %rdx; pushfq; pushq $0xe008; pushq $1f; iretq; 1:", GP, NULL) \
    X(lret0, "lretq to ring 0", "pushq $0xe030; pushq $1f; lretq; 1:", GP, NULL) \
    X(lret_xen, "lretq to Xen's code", "pushq $0xe008; pushq $1f; lretq; 1:", GP, NULL) \
    X(ljmp_xen, "far jmp to Xen's code", "movabsq $0xe00800001000, %rax; pushq %rax; ljmpl *(%rsp)", GP, NULL) \
    X(lcall_xen, "far call to Xen's code", "movabsq $0xe00800001000, %rax; pushq %rax; lcalll *(%rsp)", GP, NULL) \
    X(sysretq, "sysretq", "leaq 1f(%rip), %rcx; movl $0x202, %r11d; sysretq; 1:", GP, NULL) \
    X(sysretl, "sysretl", "movl $0x1000, %ecx; movl $0x202, %r11d; sysretl", GP, NULL) \
    X(sysexit, "sysexit", "leaq 1f(%rip), %rdx; movq %rsp, %rcx; sysexitq; 1:", GP, NULL) \
    X(sysenter, "sysenter", "sysenter", ANY_TRAP, NULL) \
    X(int80, "int $0x80, no handler", "int $0x80", GP, NULL) \
    X(int82, "int $0x82 (32-bit hypercall)", "movl $17, %eax; int $0x82", GP, NULL) \
    X(int14, "int $14 (a page fault that is none)", "int $14", GP, NULL) \
    X(int2, "int $2", "int $2", GP, NULL) \
    X(int255, "int $255", "int $255", GP, NULL) \
    X(int3, "int3", "int3", BP, NULL) \
    X(int_3, "int $3", "int $3", BP, NULL) \
    X(into, "into", ".byte 0xce", UD, NULL) \
    X(icebp, "icebp", ".byte 0xf1", DB, NULL) \
    X(jmp_wild, "jmp to a non-canonical address", "movabsq $0x900000000000, %rax; jmp *%rax", GP, NULL)

#define MSRS(X) \
    X(rd_efer, "rdmsr EFER", "movl $0xc0000080, %ecx; rdmsr", MAY, NULL) \
    X(wr_efer, "wrmsr EFER: NXE off", "movl $0xc0000080, %ecx; rdmsr; btrl $11, %eax; wrmsr", GP, NULL) \
    X(rd_lstar, "rdmsr LSTAR", "movl $0xc0000082, %ecx; rdmsr", GP, NULL) \
    X(wr_lstar, "wrmsr LSTAR", "movl $0xc0000082, %ecx; xorl %eax, %eax; xorl %edx, %edx; wrmsr", GP, NULL) \
    X(wr_star, "wrmsr STAR", "movl $0xc0000081, %ecx; xorl %eax, %eax; xorl %edx, %edx; wrmsr", GP, NULL) \
    X(wr_fmask, "wrmsr SFMASK", "movl $0xc0000084, %ecx; xorl %eax, %eax; xorl %edx, %edx; wrmsr", GP, NULL) \
    X(wr_sysenter, "wrmsr SYSENTER_EIP", "movl $0x176, %ecx; xorl %eax, %eax; xorl %edx, %edx; wrmsr", GP, NULL) \
    X(wr_apic, "wrmsr APIC_BASE", "movl $0x1b, %ecx; movl $0xfee00800, %eax; xorl %edx, %edx; wrmsr", GP, NULL) \
    X(wr_tsc, "wrmsr TSC", "movl $0x10, %ecx; xorl %eax, %eax; xorl %edx, %edx; wrmsr", GP, NULL) \
    X(wr_fs, "wrmsr FS_BASE: non-canonical", "movl $0xc0000100, %ecx; xorl %eax, %eax; movl $0x9000, %edx; wrmsr", GP, NULL) \
    X(wr_gs, "wrmsr GS_BASE: non-canonical", "movl $0xc0000101, %ecx; xorl %eax, %eax; movl $0x9000, %edx; wrmsr", GP, NULL) \
    X(rd_none, "rdmsr of no register", "movl $0xdeadbeef, %ecx; rdmsr", GP, NULL) \
    X(wr_none, "wrmsr of no register", "movl $0xdeadbeef, %ecx; xorl %eax, %eax; xorl %edx, %edx; wrmsr", GP, NULL) \
    X(rdpmc, "rdpmc", "xorl %ecx, %ecx; rdpmc", GP, NULL) \
    X(rdtsc, "rdtsc", "rdtsc", MAY, NULL) \
    X(rdtscp, "rdtscp", "rdtscp", EITHER, NULL)

#define REST(X) \
    X(cpuid, "cpuid", "movl $1, %eax; xorl %ecx, %ecx; cpuid", MAY, NULL) \
    X(forced, "cpuid, forced emulation", "movl $1, %eax; xorl %ecx, %ecx; ud2; .ascii \"xen\"; cpuid", MAY, NULL) \
    X(forced_cli, "cli, forced emulation", "ud2; .ascii \"xen\"; cli", UD, NULL) \
    X(ud2, "ud2", "ud2", UD, NULL) \
    X(invlpg, "invlpg", "invlpg victim(%rip)", GP, NULL) \
    X(invpcid, "invpcid", "xorl %eax, %eax; pushq $0; pushq $0; invpcid (%rsp), %rax; addq $16, %rsp", ANY_TRAP, NULL) \
    X(invd, "invd", "invd", GP, NULL) \
    X(wbinvd, "wbinvd", "wbinvd", MAY, NULL) \
    X(swapgs, "swapgs", "swapgs", GP, NULL) \
    X(clac, "clac", "clac", UD, NULL) \
    X(stac, "stac", "stac", UD, NULL) \
    X(monitor, "monitor", "leaq victim(%rip), %rax; xorl %ecx, %ecx; xorl %edx, %edx; monitor", UD, NULL) \
    X(mwait, "mwait", "xorl %eax, %eax; xorl %ecx, %ecx; mwait", UD, NULL) \
    X(vmcall, "vmcall", "xorl %eax, %eax; vmcall", ANY_TRAP, NULL) \
    X(vmmcall, "vmmcall", "xorl %eax, %eax; vmmcall", ANY_TRAP, NULL) \
    X(vmxon, "vmxon", "vmxon victim(%rip)", ANY_TRAP, NULL) \
    X(vmlaunch, "vmlaunch", "vmlaunch", ANY_TRAP, NULL) \
    X(vmptrld, "vmptrld", "vmptrld victim(%rip)", ANY_TRAP, NULL) \
    X(vmrun, "vmrun", "leaq victim(%rip), %rax; vmrun", ANY_TRAP, NULL) \
    X(vmload, "vmload", "leaq victim(%rip), %rax; vmload", ANY_TRAP, NULL) \
    X(vmsave, "vmsave", "leaq victim(%rip), %rax; vmsave", ANY_TRAP, NULL) \
    X(stgi, "stgi", "stgi", ANY_TRAP, NULL) \
    X(clgi, "clgi", "clgi", ANY_TRAP, NULL) \
    X(skinit, "skinit", "xorl %eax, %eax; skinit", ANY_TRAP, NULL) \
    X(invlpga, "invlpga", "xorl %eax, %eax; xorl %ecx, %ecx; invlpga", ANY_TRAP, NULL) \
    X(getsec, "getsec", "xorl %eax, %eax; getsec", UD, NULL) \
    X(encls, "encls", "xorl %eax, %eax; .byte 0x0f, 0x01, 0xcf", UD, NULL) \
    X(rsm, "rsm", "rsm", UD, NULL)

#define DEFINE(id, name, code, expect, check) \
    long insn_##id(long); \
    __asm__(".pushsection .text\ninsn_" #id ": " code "\n ret\n.popsection");
#define LIST(id, name, code, expect, check) {name, insn_##id, 0, expect, check},

FLAGS(DEFINE) PORTS(DEFINE) PORTS_IOPL(DEFINE) CONTROL(DEFINE) TABLES(DEFINE) JUMPS(DEFINE) MSRS(DEFINE) REST(DEFINE)

static const struct attempt flags[] = {FLAGS(LIST)}, ports[] = {PORTS(LIST)}, ports_iopl[] = {PORTS_IOPL(LIST)},
                            control[] = {CONTROL(LIST)}, tables[] = {TABLES(LIST)}, jumps[] = {JUMPS(LIST)},
                            msrs[] = {MSRS(LIST)}, rest[] = {REST(LIST)};

#define PHYSDEVOP_set_iopl 6

static void set_iopl(uint32_t iopl)
{
    HYPERVISOR(physdev_op, PHYSDEVOP_set_iopl, &iopl);
}

static void iopl_1(void)
{
    set_iopl(1);
}

static void iopl_0(void)
{
    set_iopl(0);
}

const struct table instruction_tables[] = {
    TABLE("Interrupt flag and privilege", flags, NULL, NULL),
    TABLE("I/O ports", ports, NULL, NULL),
    TABLE("The same with virtual IOPL", ports_iopl, iopl_1, iopl_0),
    TABLE("Control and debug registers", control, NULL, NULL),
    TABLE("Descriptor tables and segments", tables, NULL, NULL),
    TABLE("Ways into another ring", jumps, NULL, NULL),
    TABLE("Model-specific registers and counters", msrs, NULL, NULL),
    TABLE("Caches, virtualization and the rest", rest, NULL, NULL),
    {NULL, NULL, 0, false, NULL, NULL},
};
