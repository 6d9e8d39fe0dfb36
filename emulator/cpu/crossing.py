"""The crossing between a PV guest's two modes in machine code: SYSCALL in user mode, and the iret hypercall back.

The same steps as `hypervisor.vcpu.Vcpu.bounce`, `toggle_mode` and `iret`, with the same charges to the clock, for the one case that makes up
nearly all of them: 64-bit code, no single step, no event due, a frame that lies in one page of plain writable memory, a user's code and stack
segment that were loaded before. Everything is looked at before anything is changed; what is not that case is refused, becomes
`native.VECTOR_SYSCALL` like any other hypercall, and Python does it. A guest cannot tell the two apart.

It runs as Unicorn's SYSCALL callback: `int syscall(uc, control)`, with RIP at the instruction; Unicorn adds 2 to RIP afterwards, leaves
the block and looks the next one up by what CPUX86State then says. RBP is the control block, RBX the running vCPU's words (below), R12
CPUX86State.
"""

from __future__ import annotations

KERNEL_MODE, CR3_KERNEL, CR3_USER, GS_OTHER, KERNEL_SP, INFO, IO_USER, IO_KERNEL, SYSCALL, SYSCALL_MASKS, USER_CS, USER_SS = range(12)
USER_IMAGE, KERNEL_IMAGE, VCPU_WORDS = 12, 18, 24
"""Indices of a vCPU's 64-bit words.

KERNEL_MODE: 1 in guest kernel mode. CR3_KERNEL, CR3_USER: machine frames of L4 tables, 0 for none. GS_OTHER: GS base of the mode that is
not running. KERNEL_SP: where its kernel is entered. INFO: its vcpu_info, as offset in the machine memory. IO_USER, IO_KERNEL: IO_ALLOWED in
the two modes. SYSCALL: its kernel's entry for system calls of 64-bit code, 0 while it is not known here, and SYSCALL_MASKS whether events
are masked there. USER_CS, USER_SS: selectors that iret loaded last, 0 for none, and USER_IMAGE the six words that CPUX86State has for
them; KERNEL_IMAGE those of the flat kernel segments."""

E_RAX, E_RCX, E_RDX, E_RSP, E_RSI, E_RDI, E_R10, E_R11 = 0, 8, 16, 32, 48, 56, 80, 88
E_RIP, E_EFLAGS, E_CC_SRC, E_CC_OP, E_DF, E_HFLAGS = 128, 136, 152, 168, 172, 176
E_CS, E_GS_BASE = 208, 312
"""Byte offsets in CPUX86State (see `layout`)."""

CROSSING = bytes.fromhex(
    "53"  # push rbx
    "55"  # push rbp
    "4154"  # push r12
    "4155"  # push r13
    "4156"  # push r14
    "4889f5"  # mov rbp, rsi
    "4c8b6510"  # mov r12, qword ptr [rbp + ENV]
    "488b5d48"  # mov rbx, qword ptr [rbp + VCPU]
    "48837d4000"  # cmp qword ptr [rbp + CROSSING], 0
    "0f84a4030000"  # je refuse
    "48833b00"  # cmp qword ptr [rbx + KERNEL_MODE], 0
    "0f855c010000"  # jne hypercall
    # SYSCALL in guest user mode. 64-bit code, a known entry, no single step:
    "48837b4000"  # cmp qword ptr [rbx + SYSCALL], 0
    "0f848f030000"  # je refuse
    "41f68424b100000080"  # test byte ptr [r12 + E_HFLAGS + 1], 0x80    CS64
    "0f8480030000"  # je refuse
    "41f784248800000000010100"  # test dword ptr [r12 + E_EFLAGS], 0x10100    TF, RF
    "0f856e030000"  # jne refuse
    # a frame of 7 words on the kernel's stack, by the kernel's tables:
    "488b7b20"  # mov rdi, qword ptr [rbx + KERNEL_SP]
    "4883e7f0"  # and rdi, -16
    "4883ef38"  # sub rdi, 56
    "bac80f0000"  # mov edx, 4040    the last offset in its page at which it fits
    "e895030000"  # call walk
    "4885c0"  # test rax, rax
    "0f844f030000"  # je refuse
    "4989c6"  # mov r14, rax
    # and no event to deliver at once.
    "488b5328"  # mov rdx, qword ptr [rbx + INFO]
    "48035550"  # add rdx, qword ptr [rbp + MEMORY]
    "440fb66a01"  # movzx r13d, byte ptr [rdx + 1]    evtchn_upcall_mask
    "4489e8"  # mov eax, r13d
    "480b4348"  # or rax, qword ptr [rbx + SYSCALL_MASKS]
    "7509"  # jne masked
    "803a00"  # cmp byte ptr [rdx], 0    evtchn_upcall_pending
    "0f852d030000"  # jne refuse
    "48837b4800"  # masked: cmp qword ptr [rbx + SYSCALL_MASKS], 0
    "7404"  # je entering
    "c6420101"  # mov byte ptr [rdx + 1], 1
    "4c89e7"  # entering: mov rdi, r12
    "ff5560"  # call qword ptr [rbp + READ_EFLAGS]
    # The frame: RCX R11 RIP CS|mask RFLAGS RSP SS, and what SYSCALL leaves in RCX and R11.
    "498bb42480000000"  # mov rsi, qword ptr [r12 + E_RIP]
    "4883c602"  # add rsi, 2
    "4989742408"  # mov qword ptr [r12 + E_RCX], rsi
    "4989442458"  # mov qword ptr [r12 + E_R11], rax
    "498936"  # mov qword ptr [r14], rsi
    "49894608"  # mov qword ptr [r14 + 8], rax
    "49897610"  # mov qword ptr [r14 + 16], rsi
    "4489e9"  # mov ecx, r13d
    "48c1e120"  # shl rcx, 32
    "4881c933e00000"  # or rcx, 0xe033    FLAT_KERNEL_CS
    "49894e18"  # mov qword ptr [r14 + 24], rcx
    "89c1"  # mov ecx, eax
    "81e1ffcdffff"  # and ecx, 0xffffcdff    without IF and IOPL
    "4585ed"  # test r13d, r13d
    "7506"  # jne shown
    "81c900020000"  # or ecx, 0x200    IF: events were not masked
    "49894e20"  # shown: mov qword ptr [r14 + 32], rcx
    "498b4c2420"  # mov rcx, qword ptr [r12 + E_RSP]
    "49894e28"  # mov qword ptr [r14 + 40], rcx
    "49c746302be00000"  # mov qword ptr [r14 + 48], 0xe02b    FLAT_RING3_DS
    "488b7b20"  # mov rdi, qword ptr [rbx + KERNEL_SP]
    "4883e7f0"  # and rdi, -16
    "4883ef38"  # sub rdi, 56
    "49897c2420"  # mov qword ptr [r12 + E_RSP], rdi
    # On at the kernel's entry, AC, VM, RF, NT and TF clear. Unicorn adds 2 to RIP after this.
    "488b4b40"  # mov rcx, qword ptr [rbx + SYSCALL]
    "4883e902"  # sub rcx, 2
    "49898c2480000000"  # mov qword ptr [r12 + E_RIP], rcx
    "89c1"  # mov ecx, eax
    "81e1d5080000"  # and ecx, 0x8d5    the arithmetic flags
    "49898c2498000000"  # mov qword ptr [r12 + E_CC_SRC], rcx
    "41c78424a800000001000000"  # mov dword ptr [r12 + E_CC_OP], 1    CC_OP_EFLAGS
    "41c78424ac00000001000000"  # mov dword ptr [r12 + E_DF], 1    DF clear, as in SYSCALL_MASK
    "2500022000"  # and eax, 0x200200    IF, ID
    "83c802"  # or eax, 2
    "4989842488000000"  # mov qword ptr [r12 + E_EFLAGS], rax
    "488b4d70"  # mov rcx, qword ptr [rbp + SYSCALL_COST]
    "48014d00"  # add qword ptr [rbp + COUNT], rcx
    "48ff8580000000"  # inc qword ptr [rbp + SYSTEM_CALLS]
    "488db390000000"  # lea rsi, [rbx + KERNEL_IMAGE]
    "48c70301000000"  # mov qword ptr [rbx + KERNEL_MODE], 1
    "488b4308"  # mov rax, qword ptr [rbx + CR3_KERNEL]
    "488b5338"  # mov rdx, qword ptr [rbx + IO_KERNEL]
    "e9f4010000"  # jmp toggle
    # A hypercall: mmu_update of one entry goes on elsewhere, from a list of two words,
    "49833c2417"  # hypercall: cmp qword ptr [r12 + E_RAX], 23
    "7468"  # je iret
    "49833c2401"  # cmp qword ptr [r12 + E_RAX], 1
    "0f852c020000"  # jne refuse
    "4883bda800000000"  # cmp qword ptr [rbp + LEAVES], 0
    "0f841e020000"  # je refuse
    "41837c243001"  # cmp dword ptr [r12 + E_RSI], 1
    "0f8512020000"  # jne refuse
    "49837c241000"  # cmp qword ptr [r12 + E_RDX], 0
    "0f8506020000"  # jne refuse
    "49817c2450f07f0000"  # cmp qword ptr [r12 + E_R10], 0x7ff0    DOMID_SELF
    "0f85f7010000"  # jne refuse
    "498b7c2438"  # mov rdi, qword ptr [r12 + E_RDI]
    "40f6c707"  # test dil, 7
    "0f85e8010000"  # jne refuse
    "baf00f0000"  # mov edx, 4080
    "e81b020000"  # call walk
    "4885c0"  # test rax, rax
    "0f84d5010000"  # je refuse
    "ffa5b0000000"  # jmp qword ptr [rbp + UPDATE]
    # and iret is done here, from a frame of 9 words: RAX R11 RCX flags RIP CS RFLAGS RSP SS.
    "498b7c2420"  # iret: mov rdi, qword ptr [r12 + E_RSP]
    "bab80f0000"  # mov edx, 4024
    "e8fd010000"  # call walk
    "4885c0"  # test rax, rax
    "0f84b7010000"  # je refuse
    "4989c6"  # mov r14, rax
    "4d8b6e30"  # mov r13, qword ptr [r14 + 48]    RFLAGS
    "41f7c500010000"  # test r13d, 0x100    TF; RF falls
    "0f85a3010000"  # jne refuse
    "410fb74e28"  # movzx ecx, word ptr [r14 + 40]    CS
    "410fb75640"  # movzx edx, word ptr [r14 + 64]    SS
    "89c8"  # mov eax, ecx
    "83c903"  # or ecx, 3
    "83ca03"  # or edx, 3
    "83e003"  # and eax, 3
    "83f803"  # cmp eax, 3
    "7421"  # je to_user
    # To the kernel: its flat segments.
    "81f933e00000"  # cmp ecx, 0xe033
    "0f857d010000"  # jne refuse
    "81fa2be00000"  # cmp edx, 0xe02b
    "0f8571010000"  # jne refuse
    "488db390000000"  # lea rsi, [rbx + KERNEL_IMAGE]
    "eb42"  # jmp events
    # To the user: by SYSRET the flat segments, else those that it had last; and page tables.
    "41f7461800010000"  # to_user: test dword ptr [r14 + 24], 0x100    VGCF_IN_SYSCALL
    "7415"  # je by_iret
    "81f923e00000"  # cmp ecx, 0xe023    FLAT_RING3_CS32
    "0f8452010000"  # je refuse
    "488db390000000"  # lea rsi, [rbx + KERNEL_IMAGE]
    "eb18"  # jmp tables
    "483b4b50"  # by_iret: cmp rcx, qword ptr [rbx + USER_CS]
    "0f853f010000"  # jne refuse
    "483b5358"  # cmp rdx, qword ptr [rbx + USER_SS]
    "0f8535010000"  # jne refuse
    "488d7360"  # lea rsi, [rbx + USER_IMAGE]
    "48837b1000"  # tables: cmp qword ptr [rbx + CR3_USER], 0
    "0f8426010000"  # je refuse
    # The mask follows IF; an event that this lets through is delivered elsewhere.
    "488b5328"  # events: mov rdx, qword ptr [rbx + INFO]
    "48035550"  # add rdx, qword ptr [rbp + MEMORY]
    "41f7c500020000"  # test r13d, 0x200    IF
    "0f94c1"  # sete cl
    "7502"  # jne unmasked
    "eb09"  # jmp returning
    "803a00"  # unmasked: cmp byte ptr [rdx], 0
    "0f8507010000"  # jne refuse
    "884a01"  # returning: mov byte ptr [rdx + 1], cl
    "498b5620"  # mov rdx, qword ptr [r14 + 32]    RIP
    "488d4afe"  # lea rcx, [rdx - 2]
    "49898c2480000000"  # mov qword ptr [r12 + E_RIP], rcx
    "4981e5ffcffdff"  # and r13, 0xfffffffffffdcfff    without IOPL and VM
    "4981cd00020000"  # or r13, 0x200
    "41f7461800010000"  # test dword ptr [r14 + 24], 0x100    VGCF_IN_SYSCALL
    "750a"  # jne by_sysret
    "498b5610"  # mov rdx, qword ptr [r14 + 16]
    "498b4e08"  # mov rcx, qword ptr [r14 + 8]
    "eb03"  # jmp loaded
    "4c89e9"  # by_sysret: mov rcx, r13
    "4989542408"  # loaded: mov qword ptr [r12 + E_RCX], rdx
    "49894c2458"  # mov qword ptr [r12 + E_R11], rcx
    "4489e9"  # mov ecx, r13d
    "81e1d5080000"  # and ecx, 0x8d5
    "49898c2498000000"  # mov qword ptr [r12 + E_CC_SRC], rcx
    "41c78424a800000001000000"  # mov dword ptr [r12 + E_CC_OP], 1
    "4489e9"  # mov ecx, r13d
    "81e100040000"  # and ecx, 0x400    DF
    "f7d9"  # neg ecx
    "19c9"  # sbb ecx, ecx    all ones with DF, else 0
    "83c901"  # or ecx, 1    -1 with DF, else 1
    "41898c24ac000000"  # mov dword ptr [r12 + E_DF], ecx
    "4181e500422400"  # and r13d, 0x244200    IF, NT, AC, ID
    "4183cd02"  # or r13d, 2
    "4d89ac2488000000"  # mov qword ptr [r12 + E_EFLAGS], r13
    "498b4e38"  # mov rcx, qword ptr [r14 + 56]
    "49894c2420"  # mov qword ptr [r12 + E_RSP], rcx
    "498b0e"  # mov rcx, qword ptr [r14]
    "49890c24"  # mov qword ptr [r12 + E_RAX], rcx
    "488b4d78"  # mov rcx, qword ptr [rbp + IRET_COST]
    "48014d00"  # add qword ptr [rbp + COUNT], rcx
    "48ff8588000000"  # inc qword ptr [rbp + IRETS]
    "83f803"  # cmp eax, 3
    "754b"  # jne same_mode
    "48c70300000000"  # mov qword ptr [rbx + KERNEL_MODE], 0
    "488b4310"  # mov rax, qword ptr [rbx + CR3_USER]
    "488b5330"  # mov rdx, qword ptr [rbx + IO_USER]
    # toggle_mode: RAX is the frame of the other mode's L4, RDX its right to IN and OUT, [RSI] its CS and SS.
    "48895530"  # toggle: mov qword ptr [rbp + IO_ALLOWED], rdx
    "488b4b18"  # mov rcx, qword ptr [rbx + GS_OTHER]
    "498b942438010000"  # mov rdx, qword ptr [r12 + E_GS_BASE]
    "48895318"  # mov qword ptr [rbx + GS_OTHER], rdx
    "49898c2438010000"  # mov qword ptr [r12 + E_GS_BASE], rcx
    "e83f000000"  # call segments
    "4889ef"  # mov rdi, rbp
    "4889c6"  # mov rsi, rax
    "48c1e60c"  # shl rsi, 12
    "488b85a0000000"  # mov rax, qword ptr [rbp + TURN]
    "415e"  # pop r14
    "415d"  # pop r13
    "415c"  # pop r12
    "5d"  # pop rbp
    "5b"  # pop rbx
    "ffe0"  # jmp rax
    "e81f000000"  # same_mode: call segments
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
    # CS and SS from their image at RSI.
    "0f1006"  # segments: movups xmm0, xmmword ptr [rsi]
    "0f104e10"  # movups xmm1, xmmword ptr [rsi + 16]
    "0f105620"  # movups xmm2, xmmword ptr [rsi + 32]
    "410f118424d0000000"  # movups xmmword ptr [r12 + E_CS], xmm0
    "410f118c24e0000000"  # movups xmmword ptr [r12 + E_CS + 16], xmm1
    "410f119424f0000000"  # movups xmmword ptr [r12 + E_CS + 32], xmm2
    "c3"  # ret
    # RAX = where the kernel's byte at RDI lies in our memory, 0 unless its page is plain writable data, used before, not in the
    # hypervisor's range, and the offset in it not above EDX. Each level must be present before it is followed.
    "31c0"  # walk: xor eax, eax
    "4189f9"  # mov r9d, edi
    "4181e1ff0f0000"  # and r9d, 0xfff
    "4139d1"  # cmp r9d, edx
    "7775"  # ja done
    "4889fa"  # mov rdx, rdi
    "48c1ea2f"  # shr rdx, 47
    "740f"  # je lower
    "49b8000000000088ffff"  # movabs r8, 0xffff880000000000    HYPERVISOR_VIRT_END
    "4c39c7"  # cmp rdi, r8
    "725d"  # jb done
    "49ba00f0ffffffff0f00"  # lower: movabs r10, 0xffffffffff000    the frame in an entry
    "4c8b4550"  # mov r8, qword ptr [rbp + MEMORY]
    "488b7308"  # mov rsi, qword ptr [rbx + CR3_KERNEL]
    "48c1e60c"  # shl rsi, 12
    "b927000000"  # mov ecx, 39
    "4889fa"  # level: mov rdx, rdi
    "48d3ea"  # shr rdx, cl
    "81e2ff010000"  # and edx, 0x1ff
    "4c01c6"  # add rsi, r8
    "488b14d6"  # mov rdx, qword ptr [rsi + rdx*8]
    "89d6"  # mov esi, edx
    "f7d6"  # not esi
    "40f6c607"  # test sil, 7    PRESENT RW USER
    "7525"  # jne done
    "84d2"  # test dl, dl    PSE
    "7821"  # js done
    "4889d6"  # mov rsi, rdx
    "4c21d6"  # and rsi, r10
    "83e909"  # sub ecx, 9
    "83f903"  # cmp ecx, 3
    "75d1"  # jne level
    "4885d2"  # test rdx, rdx    NX
    "790e"  # jns done
    "f7d2"  # not edx
    "f6c260"  # test dl, 0x60    ACCESSED DIRTY
    "7507"  # jne done
    "4a8d0406"  # lea rax, [rsi + r8]
    "4c01c8"  # add rax, r9
    "c3"  # done: ret
)
