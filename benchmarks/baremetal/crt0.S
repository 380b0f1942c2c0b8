# Start of a bare-metal program on the riscv-virt board, M-mode: one hart gets a stack and an
# empty .bss and runs main; the others wait. Returning from main powers the machine off.
    .section .text.start, "ax"
    .globl _start
_start:
    csrr    t0, mhartid
    bnez    t0, park
    li      t0, 0x6000          # mstatus.FS = dirty: floating point is on
    csrs    mstatus, t0
    csrw    fcsr, zero
    .option push
    .option norelax
    la      gp, __global_pointer$
    .option pop
    la      sp, __stack_top
    la      t0, __bss_start
    la      t1, __bss_end
clear:
    bgeu    t0, t1, enter
    sd      zero, 0(t0)
    addi    t0, t0, 8
    j       clear
enter:
    call    main
power_off:
    li      t0, 0x100000        # the test finisher: 0x5555 powers off
    li      t1, 0x5555
    sw      t1, 0(t0)
park:
    wfi
    j       park
