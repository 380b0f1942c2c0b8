# A small supervisor for riscv32 and riscv64: it turns address translation on, runs a user program
# that asks it for characters, takes a timer interrupt, starts the second hart and ends the machine.
#if __riscv_xlen == 32
#define STORE sw
#define WORD 4
#define MODE (1 << 31)
#define ENTRIES 1024
#define STEP (1 << 20)
#define IMAGE 0x80400000
#define ALIAS 0xFFC00000
#define ALIAS_ENTRY ((0x201 << 20) + USER)
#else
#define STORE sd
#define WORD 8
#define MODE (8 << 60)
#define ENTRIES 256
#define STEP (1 << 28)
#define IMAGE 0x80000000
#define ALIAS (255 << 30)
#define ALIAS_ENTRY ((2 << 28) + USER)
#endif
#define PLAIN 0xCF
#define USER 0xDF

    .text
    .globl _start
_start:
    mv   s11, a0
    la   sp, stack_end
    la   a0, begins
    call print

    # Large pages map every address to itself for the supervisor. One more, the last entry of the
    # table, maps what the image stands in for user mode.
    la   s0, table
    li   t0, ENTRIES
    li   t1, PLAIN
    li   t2, STEP
1:  STORE t1, 0(s0)
    add  t1, t1, t2
    addi s0, s0, WORD
    addi t0, t0, -1
    bnez t0, 1b
    li   t1, ALIAS_ENTRY
    STORE t1, -WORD(s0)
    la   t0, table
    srli t0, t0, 12
    li   t1, MODE
    or   t0, t0, t1
    csrw satp, t0
    sfence.vma
    la   a0, translates
    call print

    la   t0, trap
    csrw stvec, t0
    # The user's view of `user`: the same place in the last large page.
    la   t0, user
    li   t1, ALIAS - IMAGE
    add  t0, t0, t1
    csrw sepc, t0
    li   t0, 0x100
    csrc sstatus, t0
    la   t0, stack_end
    csrw sscratch, t0
    sret

    .balign 4
trap:
    csrrw sp, sscratch, sp
    csrr t0, scause
    bltz t0, timer
    li   t1, 8
    bne  t0, t1, broken
    beqz a0, users_end
    # A character of the user's, in a0.
    li   a7, 1
    ecall
    csrr t0, sepc
    addi t0, t0, 4
    csrw sepc, t0
    csrrw sp, sscratch, sp
    sret

users_end:
    la   a0, waits
    call print
    # A timer interrupt in 1 ms, by the firmware.
    rdtime a0
    li   t0, 10000
    add  a0, a0, t0
#if __riscv_xlen == 32
    rdtimeh a1
    sltu t0, a0, t0
    add  a1, a1, t0
#endif
    li   a7, 0x54494D45
    li   a6, 0
    ecall
    li   t0, 1 << 5
    csrs sie, t0
    csrsi sstatus, 2
2:  wfi
    j    2b

timer:
    la   a0, rings
    call print
    li   t0, 1 << 5
    csrc sie, t0
    # The other hart: it writes into `word`.
    li   a7, 0x48534D
    li   a6, 0
    li   a0, 1
    sub  a0, a0, s11
    la   a1, second
    li   a2, 42
    ecall
    bnez a0, broken
    la   t0, word
3:  lw   t1, 0(t0)
    beqz t1, 3b
    la   a0, runs
    call print
    li   a0, 0
    j    end
broken:
    li   a0, 0
    li   a1, 1
    j    reset
end:
    li   a1, 0
reset:
    li   a7, 0x53525354
    li   a6, 0
    ecall
4:  j    4b

second:
    la   t0, word
    fence
    sw   a1, 0(t0)
5:  wfi
    j    5b

print:
    mv   t6, a0
6:  lbu  a0, 0(t6)
    beqz a0, 7f
    li   a7, 1
    li   a6, 0
    ecall
    addi t6, t6, 1
    j    6b
7:  ret

    # What user mode runs; its data is reached from where it runs.
user:
    lla  s1, greeting
8:  lbu  a0, 0(s1)
    addi s1, s1, 1
    ecall
    j    8b
greeting: .asciz "user mode\n"

begins: .asciz "supervisor\n"
translates: .asciz "translation\n"
waits: .asciz "wait\n"
rings: .asciz "timer\n"
runs: .asciz "second hart\n"
    .balign 8
word: .word 0
    .balign 4096
table: .space 4096
stack: .space 4096
stack_end:
