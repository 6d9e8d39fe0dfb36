"""A TLB for each of the guest's two modes, so that a crossing between them forgets nothing.

Both modes run in ring 3, whose translations Unicorn keeps under index 1 of three (MMU_USER_IDX, target/i386/cpu.h), and each has page tables of
its own. With one TLB a crossing must flush it: 1 to 2 µs, and each page and block that is used next is looked up again. So `turn` keeps
the other mode's translations under index 0 (MMU_KSMAP_IDX), which this processor never uses as it has no SMAP, and lets the two change places:

    env_tlb (accel/tcg/cputlb.c, before CPUX86State): dirty …   d[3] of 696 bytes   f[3] {mask, table}

Blocks are found by RIP and flags before any translation is asked (tb_jmp_cache), so a flag tells the two modes' blocks apart: HF_MPX_IU, which means
nothing while MPX is off, as it always is here. Index 2 holds descriptors and what IRET and LRET pop; it is flushed when it has anything.

What makes this right is that no stale translation is left to a mode that does not run, either: all flushes but `turn`'s own are of all indices,
and each follows a change of an entry at once, whichever table it is in. `SPARE` is the L4 table that the kept translations
are of: another one than is wanted, and they are flushed.
"""

from __future__ import annotations

E_HFLAGS, E_CR3 = 176, 448
T_DIRTY, T_KEPT, T_KEPT_END, T_FAST, T_FAST_USED = -2192, -2160, -1472, -64, -48
"""Byte offsets from CPUX86State: the mask of indices that are not empty, d[0], the last 8 bytes of it, f[0] and f[1]."""
DESCRIPTION = 696
"""Bytes of d[i]."""

TURN = bytes.fromhex(
    # void turn(control, u64 cr3): to the other mode, whose L4 table lies at `cr3`.
    "488b4710"  # mov rax, qword ptr [rdi + ENV]
    "81b0b000000000000004"  # xor dword ptr [rax + E_HFLAGS], 0x4000000    HF_MPX_IU
    "488b88c0010000"  # mov rcx, qword ptr [rax + E_CR3]
    "4889b0c0010000"  # mov qword ptr [rax + E_CR3], rsi
    # f[0] and f[1] change places,
    "0f1040c0"  # movups xmm0, xmmword ptr [rax + T_FAST]
    "0f1048d0"  # movups xmm1, xmmword ptr [rax + T_FAST_USED]
    "0f1148c0"  # movups xmmword ptr [rax + T_FAST], xmm1
    "0f1140d0"  # movups xmmword ptr [rax + T_FAST_USED], xmm0
    # and d[0] and d[1].
    "488d9090f7ffff"  # lea rdx, [rax + T_KEPT]
    "4c8d8040faffff"  # lea r8, [rax + T_KEPT_END]
    "0f1002"  # again: movups xmm0, xmmword ptr [rdx]
    "0f108ab8020000"  # movups xmm1, xmmword ptr [rdx + DESCRIPTION]
    "0f110a"  # movups xmmword ptr [rdx], xmm1
    "0f1182b8020000"  # movups xmmword ptr [rdx + DESCRIPTION], xmm0
    "4883c210"  # add rdx, 16
    "4c39c2"  # cmp rdx, r8
    "75e3"  # jne again
    "4c8b0a"  # mov r9, qword ptr [rdx]
    "4c8b92b8020000"  # mov r10, qword ptr [rdx + DESCRIPTION]
    "4c8912"  # mov qword ptr [rdx], r10
    "4c898ab8020000"  # mov qword ptr [rdx + DESCRIPTION], r9
    "0fb79070f7ffff"  # movzx edx, word ptr [rax + T_DIRTY]
    "66838870f7ffff03"  # or word ptr [rax + T_DIRTY], 3
    # What must be flushed: the mode's own when they are of another table, and index 2.
    "4c8b8798000000"  # mov r8, qword ptr [rdi + SPARE]
    "48898f98000000"  # mov qword ptr [rdi + SPARE], rcx
    "4c8b4f68"  # mov r9, qword ptr [rdi + FLUSH_INDICES]
    "4939f0"  # cmp r8, rsi
    "7509"  # jne another
    "f7c204000000"  # test edx, 4
    "7508"  # jne descriptors
    "c3"  # ret
    "be06000000"  # another: mov esi, 6
    "eb05"  # jmp flush
    "be04000000"  # descriptors: mov esi, 4
    "488b7f58"  # flush: mov rdi, qword ptr [rdi + CPU]
    "41ffe1"  # jmp r9
)
