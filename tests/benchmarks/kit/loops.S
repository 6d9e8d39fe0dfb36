# The loops that are timed in a guest and on bare Unicorn alike: each runs %rdi rounds and returns. %rsi is a writable page.

        .text
        .globl  loop_tight, loop_memory, loop_call

        .balign 64
loop_tight:                     # 2 instructions a round
1:      dec     %rdi
        jnz     1b
        ret

        .balign 64
loop_memory:                    # 5 instructions a round, one load and one store among them
1:      mov     (%rsi), %rax
        add     %rdi, %rax
        mov     %rax, 8(%rsi)
        dec     %rdi
        jnz     1b
        ret

        .balign 64
loop_call:                      # 6 instructions a round
1:      call    2f
        dec     %rdi
        jnz     1b
        ret
2:      push    %rdi
        pop     %rax
        ret

        .section .note.GNU-stack, "", @progbits
