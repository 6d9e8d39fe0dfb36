/*
 * A PV guest's first instruction, its ELF notes, and every way back from Xen into it.
 *
 * Xen enters a handler on the kernel's own stack, aligned to 16, with this frame (entry.S, create_bounce_frame):
 *
 *     rsp -> rcx, r11, [error code], rip, cs, rflags, rsp, ss
 *
 * cs has its RPL cleared when the kernel was interrupted, rflags.IF is the inverse of the event mask before. Every handler
 * masks events and leaves by the iret hypercall, which takes the mask from rflags.IF again and then looks for pending events:
 * there is no window in which one could be lost or nest without bound.
 */
#include "xen.h"

.macro NOTE type, kind:vararg
    .pushsection .note.Xen, "a", @note
    .balign 4
    .long 4, 2f - 1f, \type
    .asciz "Xen"
1:  \kind
2:  .balign 4
    .popsection
.endm

    NOTE XEN_ELFNOTE_GUEST_OS, .asciz "xenconsole"
    NOTE XEN_ELFNOTE_GUEST_VERSION, .asciz "1"
    NOTE XEN_ELFNOTE_XEN_VERSION, .asciz "xen-3.0"
    NOTE XEN_ELFNOTE_LOADER, .asciz "generic"
    NOTE XEN_ELFNOTE_VIRT_BASE, .quad virt_base
    NOTE XEN_ELFNOTE_PADDR_OFFSET, .quad virt_base
    NOTE XEN_ELFNOTE_ENTRY, .quad _start
    NOTE XEN_ELFNOTE_HYPERCALL_PAGE, .quad hypercall_page
    NOTE XEN_ELFNOTE_HV_START_LOW, .quad HYPERVISOR_VIRT_START

    .section .text.start, "ax"
    .globl _start
_start:
    cld
    movq $stack_top, %rsp
    xorl %ebp, %ebp
    movq %rsi, %rdi
    call runtime_start
    ud2

    .section .text.hypercall_page, "ax"
    .balign 4096
    .globl hypercall_page
hypercall_page:
    .fill 4096, 1, 0xcc                 /* Xen fills it before the first instruction */

    .text

/* long hypercall(nr, a1, a2, a3, a4, a5): through the hypercall page, nr below 128 */
    .globl hypercall
hypercall:
    movq %rdi, %rax
    movq %rsi, %rdi
    movq %rdx, %rsi
    movq %rcx, %rdx
    movq %r8, %r10
    movq %r9, %r8
    shlq $5, %rax
    addq $hypercall_page, %rax
    jmp *%rax

/* The same by an inline syscall, any number */
    .globl hypercall_syscall
hypercall_syscall:
    movq %rdi, %rax
    movq %rsi, %rdi
    movq %rdx, %rsi
    movq %rcx, %rdx
    movq %r8, %r10
    movq %r9, %r8
    syscall
    ret

/*
 * bool guarded(long (*fn)(long), long arg, long *result): calls fn. A trap inside is noted in `last_trap` and ends the
 * call with true, whatever the registers and the segments look like by then.
 */
    .globl guarded
guarded:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rdx
    movq %rsp, guard_rsp
    movb $1, guard_armed
    movq %rdi, %r11
    movq %rsi, %rdi
    xorl %eax, %eax
    call *%r11
    movb $0, guard_armed
    popq %rdx
    movq %rax, (%rdx)
    xorl %eax, %eax
    jmp 1f
    .globl guard_landing
guard_landing:                          /* the trap handler comes here, rsp = guard_rsp */
    popq %rdx
    movl $1, %eax
1:  cld
    xorl %ecx, %ecx
    movl %ecx, %ds
    movl %ecx, %es
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

/* Exceptions. Those without an error code get a zero, so that all frames look like struct frame in traps.h. */
.macro TRAP vector, has_error=0
    .balign 16
    popq %rcx
    popq %r11
    .if \has_error == 0
    pushq $0
    .endif
    pushq $\vector
    jmp trap_common
.endm

    .balign 16
    .globl trap_entries
trap_entries:                           /* 16 bytes each, by vector 0 to 19 */
    TRAP 0
    TRAP 1
    TRAP 2
    TRAP 3
    TRAP 4
    TRAP 5
    TRAP 6
    TRAP 7
    TRAP 8, 1
    TRAP 9
    TRAP 10, 1
    TRAP 11, 1
    TRAP 12, 1
    TRAP 13, 1
    TRAP 14, 1
    TRAP 15
    TRAP 16
    TRAP 17, 1
    TRAP 18
    TRAP 19
    .org trap_entries + 20 * 16           /* an error when one of them is longer */

    .globl syscall_entry
syscall_entry:
    popq %rcx
    popq %r11
    pushq $0
    pushq $0x101
    jmp trap_common

    .globl failsafe_entry
failsafe_entry:                         /* rcx, r11, ds, es, fs, gs, then rip and on */
    popq %rcx
    popq %r11
    addq $32, %rsp
    pushq $0
    pushq $0x102
    jmp trap_common

    .globl event_entry
event_entry:
    popq %rcx
    popq %r11
    pushq $0
    pushq $0x100

trap_common:
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %rcx
    pushq %rax
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rbx                     /* an error code leaves rsp aligned otherwise than its absence */
    movq %rsp, %rdi
    andq $~15, %rsp
    call trap_dispatch
    movq %rbx, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rax
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
    addq $16, %rsp                      /* vector and error code */
    pushq $0                            /* iret_context.flags; the page pushes rcx, r11 and rax itself */
    jmp hypercall_page + __HYPERVISOR_iret * 32

    .section .bss.stack, "aw", @nobits
    .balign 4096
    .skip 16384
    .globl stack_top
stack_top:

    .section .note.GNU-stack, "", @progbits
