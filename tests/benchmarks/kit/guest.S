# A PV kernel of a few instructions: `t` on the console, the tightest loop, `h`, empty hypercalls, `.`, then it powers off. The
# reader of the console takes the time between the letters.

        .set    SCHEDOP_shutdown, 2
        .set    HYPERVISOR_xen_version, 17
        .set    HYPERVISOR_console_io, 18
        .set    HYPERVISOR_sched_op, 29

        .macro  say letter
        xor     %edi, %edi              # CONSOLEIO_write
        mov     $2, %esi
        lea     \letter(%rip), %rdx
        mov     $HYPERVISOR_console_io, %eax
        syscall
        .endm

        .text
        .globl  _start
_start:
        say     tight
        mov     $ROUNDS_TIGHT, %rdi
        call    loop_tight
        say     hypercalls
        mov     $ROUNDS_HYPERCALL, %ebx
1:      xor     %edi, %edi              # XENVER_version: reads nothing, writes nothing
        mov     $HYPERVISOR_xen_version, %eax
        syscall
        dec     %ebx
        jnz     1b
        say     done
2:      mov     $SCHEDOP_shutdown, %edi
        lea     poweroff(%rip), %rsi
        mov     $HYPERVISOR_sched_op, %eax
        syscall
        jmp     2b

        .data
tight:          .ascii "t\n"
hypercalls:     .ascii "h\n"
done:           .ascii ".\n"
        .balign 8
poweroff:       .long 0

        .macro  text type, value
        .balign 4
        .long   4, 8f - 7f, \type
        .asciz  "Xen"
7:      .asciz  "\value"
8:      .balign 4
        .endm

        .macro  number type, value
        .balign 4
        .long   4, 8, \type
        .asciz  "Xen"
        .quad   \value
        .endm

        .section .note.Xen, "a", @note
        text    6, "bench"                      # XEN_ELFNOTE_GUEST_OS
        text    5, "xen-3.0"                    # XEN_ELFNOTE_XEN_VERSION
        text    8, "generic"                    # XEN_ELFNOTE_LOADER
        number  3, 0xffffffff80000000           # XEN_ELFNOTE_VIRT_BASE
        number  4, 0xffffffff80000000           # XEN_ELFNOTE_PADDR_OFFSET
        number  1, _start                       # XEN_ELFNOTE_ENTRY

        .section .note.GNU-stack, "", @progbits
