"""mmu_update of one entry of an L1 table in machine code: half of the hypercalls of a Linux boot.

The same as `hypervisor.memory.pagetables.PageTables.write_l1` by way of `hypercalls.mmu.mmu_update`, with the same charge to the clock, for the
case that makes up nearly all of them: a table and a page that are plain memory of the guest's. What is not that case is refused before
anything is changed, and Python does it. `crossing` comes here with the address of the (pointer, value) pair in RAX; the registers are as there.

Where Python flushes the TLB, this drops what the entry had translated: those of its frame in the 1, 2, 4 … places of the TLB that an address with
this entry's 9 bits can have, and in the victim TLBs. Blocks are found by address without asking the TLB, so that is not enough where the entry let
its page be executed and no longer does: Python's, too.
"""

from __future__ import annotations

from emulator.cpu.tlb import T_KEPT

E_RAX, E_EFLAGS = 0, 136
T_USED, T_VICTIMS = T_KEPT + 32, T_KEPT + 48
"""Byte offsets from CPUX86State: how many entries of index 0 are used, and its 8 victims; the other indices' are DESCRIPTION behind."""
ENTRY_FRAME = 24
"""Byte offset of the machine address in a TLB entry of 64 bytes."""

UPDATE = bytes.fromhex(
    "41f784248800000000010100"  # test dword ptr [r12 + E_EFLAGS], 0x10100    TF, RF
    "0f85a4020000"  # jne refuse
    "488b5328"  # mov rdx, qword ptr [rbx + INFO]
    "48035550"  # add rdx, qword ptr [rbp + MEMORY]
    "807a0100"  # cmp byte ptr [rdx + 1], 0    evtchn_upcall_mask
    "7509"  # jne quiet
    "803a00"  # cmp byte ptr [rdx], 0    evtchn_upcall_pending
    "0f858d020000"  # jne refuse
    # R14 the entry's machine address and the command, R13 the value, RDI the entry's place, RSI what it holds, RDX the types.
    "4c8b30"  # quiet: mov r14, qword ptr [rax]
    "4c8b6808"  # mov r13, qword ptr [rax + 8]
    "4c89f7"  # mov rdi, r14
    "48c1ef0c"  # shr rdi, 12
    "483bbdc0000000"  # cmp rdi, qword ptr [rbp + FRAMES]
    "0f8372020000"  # jae refuse
    "488b95c8000000"  # mov rdx, qword ptr [rbp + FRAME_TYPES]
    "803c3a01"  # cmp byte ptr [rdx + rdi], 1    L1
    "0f8561020000"  # jne refuse
    "4c8b85d0000000"  # mov r8, qword ptr [rbp + FRAME_OWNERS]
    "41803c3801"  # cmp byte ptr [r8 + rdi], 1    GUEST
    "0f854f020000"  # jne refuse
    "4c89f7"  # mov rdi, r14
    "4883e7f8"  # and rdi, -8
    "48037d50"  # add rdi, qword ptr [rbp + MEMORY]
    "488b37"  # mov rsi, qword ptr [rdi]
    # adjust_guest_l1e: USER and GUEST_KERNEL where USER is missing, GLOBAL where only GUEST_KERNEL is.
    "41f6c501"  # test r13b, 1
    "7423"  # je adjusted
    "41f6c504"  # test r13b, 4
    "750f"  # jne users
    "48b80400000000001000"  # movabs rax, 0x10000000000004
    "4909c5"  # or r13, rax
    "eb0e"  # jmp adjusted
    "490fbae534"  # users: bt r13, 0x34
    "7207"  # jb adjusted
    "4981cd00010000"  # or r13, 0x100
    # MMU_NORMAL_PT_UPDATE or MMU_PT_UPDATE_PRESERVE_AD.
    "4183e607"  # adjusted: and r14d, 7
    "7412"  # je stale
    "4183fe02"  # cmp r14d, 2
    "0f8508020000"  # jne refuse
    "89f0"  # mov eax, esi
    "83e060"  # and eax, 0x60
    "4909c5"  # or r13, rax
    # R11: whether the TLB may hold what it must not any more. R9 is what changes, R10 the frame in an entry.
    "4989f1"  # stale: mov r9, rsi
    "4d31e9"  # xor r9, r13
    "49ba00f0ffffffff0f00"  # movabs r10, 0xffffffffff000
    "4531db"  # xor r11d, r11d
    "89f0"  # mov eax, esi
    "83e021"  # and eax, 0x21    PRESENT ACCESSED
    "83f821"  # cmp eax, 0x21
    "7542"  # jne counts
    "4d85d1"  # test r9, r10
    "7516"  # jne forget
    "4489e8"  # mov eax, r13d
    "f7d0"  # not eax
    "21f0"  # and eax, esi
    "a867"  # test al, 0x67    PRESENT RW USER ACCESSED DIRTY
    "750b"  # jne forget
    "4889f0"  # mov rax, rsi
    "48f7d0"  # not rax
    "4c21e8"  # and rax, r13
    "7927"  # jns counts    NX
    "41ffc3"  # forget: inc r11d
    "4885f6"  # test rsi, rsi
    "781f"  # js counts
    "4d85d1"  # test r9, r10
    "0f85b7010000"  # jne refuse
    "4d85ed"  # test r13, r13
    "0f88ae010000"  # js refuse
    "4489e8"  # mov eax, r13d
    "f7d0"  # not eax
    "a805"  # test al, 5
    "0f85a1010000"  # jne refuse
    # A reference to what is mapped now,
    "41f6c501"  # counts: test r13b, 1
    "7471"  # je given
    "48b89bf0ffffffff0f00"  # movabs rax, 0xffffffffff09b    with PRESENT RW PWT PCD PAT
    "4985c1"  # test r9, rax
    "0f8491000000"  # je write
    "41f6c598"  # test r13b, 0x98
    "0f857e010000"  # jne refuse
    "4c89e8"  # mov rax, r13
    "4c21d0"  # and rax, r10
    "48c1e80c"  # shr rax, 12
    "483b85c0000000"  # cmp rax, qword ptr [rbp + FRAMES]
    "0f8367010000"  # jae refuse
    "41803c0001"  # cmp byte ptr [r8 + rax], 1
    "0f855c010000"  # jne refuse
    "41f6c502"  # test r13b, 2
    "7422"  # je read_only
    "488b8dd8000000"  # mov rcx, qword ptr [rbp + FRAME_TALLY]
    "837cc10400"  # cmp dword ptr [rcx + rax*8 + 4], 0
    "740a"  # je taken
    "803c0206"  # cmp byte ptr [rdx + rax], 6    WRITABLE
    "0f853e010000"  # jne refuse
    "c6040206"  # taken: mov byte ptr [rdx + rax], 6
    "ff44c104"  # inc dword ptr [rcx + rax*8 + 4]
    "eb0a"  # jmp given
    "488b8dd8000000"  # read_only: mov rcx, qword ptr [rbp + FRAME_TALLY]
    "ff04c1"  # inc dword ptr [rcx + rax*8]
    # and the one to what was mapped goes (put_leaf).
    "40f6c601"  # given: test sil, 1
    "742d"  # je write
    "4889f0"  # mov rax, rsi
    "4c21d0"  # and rax, r10
    "48c1e80c"  # shr rax, 12
    "40f6c602"  # test sil, 2
    "7413"  # je read
    "488b8dd8000000"  # mov rcx, qword ptr [rbp + FRAME_TALLY]
    "ff4cc104"  # dec dword ptr [rcx + rax*8 + 4]
    "7510"  # jne write
    "c6040200"  # mov byte ptr [rdx + rax], 0    NONE
    "eb0a"  # jmp write
    "488b8dd8000000"  # read: mov rcx, qword ptr [rbp + FRAME_TALLY]
    "ff0cc1"  # dec dword ptr [rcx + rax*8]
    # What may be executed now may become code.
    "41f6c501"  # write: test r13b, 1
    "741a"  # je store
    "4d85ed"  # test r13, r13
    "7815"  # js store
    "4c89e8"  # mov rax, r13
    "4c21d0"  # and rax, r10
    "48c1e80c"  # shr rax, 12
    "488b8de0000000"  # mov rcx, qword ptr [rbp + FRAME_CODE]
    "c6040101"  # mov byte ptr [rcx + rax], 1
    "4c892f"  # store: mov qword ptr [rdi], r13
    "4585db"  # test r11d, r11d
    "0f84ab000000"  # je done
    # RSI the frame that was mapped, RDI the first place in a TLB of 512 entries; smaller ones have it sooner, larger ones again.
    "4c21d6"  # and rsi, r10
    "81e7f80f0000"  # and edi, 0xff8
    "c1e703"  # shl edi, 3
    "660f76c0"  # pcmpeqd xmm0, xmm0
    "498d5424c0"  # lea rdx, [r12 + T_FAST]
    "498d8c24b0f7ffff"  # lea rcx, [r12 + T_USED]
    "41bb03000000"  # mov r11d, 3
    "4c8b02"  # index: mov r8, qword ptr [rdx]
    "4c8b7208"  # mov r14, qword ptr [rdx + 8]
    "4989f9"  # mov r9, rdi
    "4d21c1"  # and r9, r8
    "4b39740e18"  # place: cmp qword ptr [r14 + r9 + ENTRY_FRAME], rsi
    "751a"  # jne again
    "430f11040e"  # movups xmmword ptr [r14 + r9], xmm0
    "430f11440e10"  # movups xmmword ptr [r14 + r9 + 16], xmm0
    "430f11440e20"  # movups xmmword ptr [r14 + r9 + 32], xmm0
    "430f11440e30"  # movups xmmword ptr [r14 + r9 + 48], xmm0
    "48ff09"  # dec qword ptr [rcx]
    "4981c100800000"  # again: add r9, 0x8000
    "4d39c1"  # cmp r9, r8
    "76d3"  # jbe place
    "4883c210"  # add rdx, 16
    "4881c1b8020000"  # add rcx, 0x2b8    DESCRIPTION
    "41ffcb"  # dec r11d
    "75b6"  # jne index
    "498d9424c0f7ffff"  # lea rdx, [r12 + T_VICTIMS]
    "41bb03000000"  # mov r11d, 3
    "41b808000000"  # victims: mov r8d, 8
    "48397218"  # victim: cmp qword ptr [rdx + ENTRY_FRAME], rsi
    "750f"  # jne other
    "0f1102"  # movups xmmword ptr [rdx], xmm0
    "0f114210"  # movups xmmword ptr [rdx + 16], xmm0
    "0f114220"  # movups xmmword ptr [rdx + 32], xmm0
    "0f114230"  # movups xmmword ptr [rdx + 48], xmm0
    "4883c240"  # other: add rdx, 64
    "41ffc8"  # dec r8d
    "75e2"  # jne victim
    "4881c2b8000000"  # add rdx, 0xb8    to the next index's
    "41ffcb"  # dec r11d
    "75d0"  # jne victims
    "488b4d78"  # done: mov rcx, qword ptr [rbp + IRET_COST]    of any hypercall
    "48014d00"  # add qword ptr [rbp + COUNT], rcx
    "48ff85b8000000"  # inc qword ptr [rbp + UPDATES]
    "49c7042400000000"  # mov qword ptr [r12 + E_RAX], 0
    "415e"  # pop r14
    "415d"  # pop r13
    "415c"  # pop r12
    "5d"  # pop rbp
    "5b"  # pop rbx
    "c3"  # ret
    "4c89e7"  # refuse: mov rdi, r12
    "488b4518"  # mov rax, qword ptr [rbp + RAISE]
    "415e"  # pop r14
    "415d"  # pop r13
    "415c"  # pop r12
    "5d"  # pop rbp
    "5b"  # pop rbx
    "be00010000"  # mov esi, 0x100    VECTOR_SYSCALL
    "ffe0"  # jmp rax
)
