"""The budget: what is run at the start of every block, and how it gets into the block itself.

    refuse the block when COUNT >= LIMIT, else add its size to COUNT

BLOCK is Unicorn's block callback: `void block(uc, u64 address, u32 size, control)`. The charge comes after the comparison: a refused block costs
nothing. RIP is the block's already, and a refusal leaves it by `native.VECTOR_BUDGET`.

Called from a block for the first time, it also replaces the call. A call costs a block 1 to 3 ns, which short blocks feel: a fifth of a
tight loop, a tenth of awk. What Unicorn translates a block hook to is four loads of arguments and the call, with every constant known:

    rdi = uc (7 or 10 bytes)   rsi = address (5, 7 or 10)   mov edx, size   lea rcx, [control]   call block

Each is compared, backwards from the return address, by form and value. When all are found, 29 bytes and an idle instruction go in their place
that do the same; nothing jumps into their midst, and nothing after them needs their registers. When anything is otherwise, the call
stays: slower, and as exact.
"""

from __future__ import annotations

from functools import cache

from emulator.cpu.mappings import mappings

_LEAST_BUFFER = 1 << 20


@cache
def may_be_inlined() -> bool:
    """Whether translated code can be written where it lies: the pinned build maps its buffer so. Asked once an instance has one."""
    return any(found.rights == "rwxp" and found.high - found.low >= _LEAST_BUFFER - 4096 for found in mappings())  # its last page is a guard


BLOCK_CODE = bytes.fromhex(
    "488b01"  # mov rax, qword ptr [rcx + COUNT]
    "483b4108"  # cmp rax, qword ptr [rcx + LIMIT]
    "0f8345010000"  # jae refuse
    "89d2"  # mov edx, edx    the size is 32 bits wide
    "480111"  # add qword ptr [rcx + COUNT], rdx
    # Is the call that led here one that can be replaced? R8 is its end. It is preceded by, backwards: lea rcx, [rip+disp32];
    "4883b99000000000"  # cmp qword ptr [rcx + INLINE], 0
    "0f8431010000"  # je done
    "83fa7f"  # cmp edx, 0x7f
    "0f8728010000"  # ja done
    "4c8b0424"  # mov r8, qword ptr [rsp]
    "418078fbe8"  # cmp byte ptr [r8 - 5], 0xe8
    "0f8519010000"  # jne done
    "418b40f4"  # mov eax, dword ptr [r8 - 12]
    "25ffffff00"  # and eax, 0xffffff
    "3d488d0d00"  # cmp eax, 0xd8d48
    "0f8505010000"  # jne done
    # mov edx, size;
    "418078efba"  # cmp byte ptr [r8 - 17], 0xba
    "0f85fa000000"  # jne done
    "413950f0"  # cmp dword ptr [r8 - 16], edx
    "0f85f0000000"  # jne done
    # RSI loaded by mov esi, imm32; or
    "4d8d48ea"  # lea r9, [r8 - 22]
    "418b40eb"  # mov eax, dword ptr [r8 - 21]
    "4839f0"  # cmp rax, rsi
    "7506"  # jne signed
    "418039be"  # cmp byte ptr [r9], 0xbe
    "744e"  # je owner
    # mov rsi, simm32; or
    "496340eb"  # signed: movsxd rax, dword ptr [r8 - 21]
    "458b50e8"  # mov r10d, dword ptr [r8 - 24]
    "4181e2ffffff00"  # and r10d, 0xffffff
    "4d8d48e8"  # lea r9, [r8 - 24]
    "4839f0"  # cmp rax, rsi
    "7509"  # jne relative
    "4181fa48c7c600"  # cmp r10d, 0xc6c748
    "742d"  # je owner
    # lea rsi, [rip+disp32]; or
    "498d4400ef"  # relative: lea rax, [r8 + rax - 17]
    "4839f0"  # cmp rax, rsi
    "7509"  # jne wide
    "4181fa488d3500"  # cmp r10d, 0x358d48
    "741a"  # je owner
    # movabs rsi, imm64;
    "4d8d48e5"  # wide: lea r9, [r8 - 27]
    "49397102"  # cmp qword ptr [r9 + 2], rsi
    "0f859b000000"  # jne done
    "6641813948be"  # cmp word ptr [r9], 0xbe48
    "0f858f000000"  # jne done
    # R9 is where that begins. Before it RDI was loaded by movabs rdi, imm64; or
    "493979f8"  # owner: cmp qword ptr [r9 - 8], rdi
    "750f"  # jne near_owner
    "66418179f648bf"  # cmp word ptr [r9 - 10], 0xbf48
    "7506"  # jne near_owner
    "4983e90a"  # sub r9, 10
    "eb20"  # jmp replace
    # lea rdi, [rip+disp32].
    "496341fc"  # near_owner: movsxd rax, dword ptr [r9 - 4]
    "4c01c8"  # add rax, r9
    "4839f8"  # cmp rax, rdi
    "756e"  # jne done
    "418b41f9"  # mov eax, dword ptr [r9 - 7]
    "25ffffff00"  # and eax, 0xffffff
    "3d488d3d00"  # cmp eax, 0x3d8d48
    "755e"  # jne done
    "4983e907"  # sub r9, 7
    # From R9 to R8 are 29 bytes or up to 8 more: an idle instruction that long,
    "498d70e3"  # replace: lea rsi, [r8 - 29]
    "89f0"  # mov eax, esi
    "4429c8"  # sub eax, r9d
    "4c8d1566000000"  # lea r10, [rip + idle]
    "498b04c2"  # mov rax, qword ptr [r10 + rax*8]
    "498901"  # mov qword ptr [r9], rax
    # then mov rax, [rip+COUNT]; cmp rax, [rip+LIMIT]; jb +5; call refused; add qword [rip+COUNT], size.
    "4829f1"  # sub rcx, rsi
    "c706488b0500"  # mov dword ptr [rsi], 0x58b48
    "8d41f9"  # lea eax, [rcx - 7]
    "894603"  # mov dword ptr [rsi + 3], eax
    "c74607483b0500"  # mov dword ptr [rsi + 7], 0x53b48
    "8d41fa"  # lea eax, [rcx - 6]
    "89460a"  # mov dword ptr [rsi + 10], eax
    "c7460e7205e800"  # mov dword ptr [rsi + 14], 0xe80572
    "488d0526000000"  # lea rax, [rip + refused]
    "4c29c0"  # sub rax, r8
    "83c008"  # add eax, 8
    "894611"  # mov dword ptr [rsi + 17], eax
    "c7461548830500"  # mov dword ptr [rsi + 21], 0x58348
    "8d41e3"  # lea eax, [rcx - 29]
    "894618"  # mov dword ptr [rsi + 24], eax
    "88561c"  # mov byte ptr [rsi + 28], dl
    "c3"  # done: ret
    "488b7910"  # refuse: mov rdi, qword ptr [rcx + ENV]
    "be03010000"  # mov esi, 0x103    VECTOR_BUDGET
    "ff6118"  # jmp qword ptr [rcx + RAISE]
    # From a replaced call: the control block again, by the distance to LIMIT in the instruction before it.
    "488b0424"  # refused: mov rax, qword ptr [rsp]
    "486348f5"  # movsxd rcx, dword ptr [rax - 11]
    "488d4c08f1"  # lea rcx, [rax + rcx - 15]
    "ebe5"  # jmp refuse
)
IDLE = bytes.fromhex(
"9090909090909090"
    "9090909090909090"
    "6690909090909090"
    "0f1f009090909090"
    "0f1f400090909090"
    "0f1f440000909090"
    "660f1f4400009090"
    "0f1f800000000090"
    "0f1f840000000000"
)
"""Idle instructions of 0 to 8 bytes, each in 8 bytes; BLOCK_CODE finds them at its end."""

BLOCK = BLOCK_CODE + IDLE
