/* A small register machine that counts Collatz steps. Dispatch is a switch, or with
   COMPUTED_GOTO an indirect jump at the end of each operation. */
#include "kernel.h"

enum { LOAD, ADD, MUL3, HALVE, ODD, JUMP_IF, JUMP, LESS, OPERATIONS_END, LIMIT = 15000 };

struct operation { uint8_t code, target, left, right; int32_t value; };

/* r0: number, r1: n, r2: steps, r3: flag, r4: one, r5: limit, r6: total */
static const struct operation program[] = {
    /* 0 */ { LOAD, 0, 0, 0, 1 },
    /* 1 */ { LOAD, 4, 0, 0, 1 },
    /* 2 */ { LOAD, 5, 0, 0, LIMIT },
    /* 3 */ { LOAD, 6, 0, 0, 0 },
    /* 4 */ { LESS, 3, 0, 5, 0 },
    /* 5 */ { JUMP_IF, 0, 3, 0, 7 },
    /* 6 */ { OPERATIONS_END, 0, 0, 0, 0 },
    /* 7 */ { LOAD, 2, 0, 0, 0 },
    /* 8 */ { LOAD, 7, 0, 0, 0 },
    /* 9 */ { ADD, 1, 0, 7, 0 },
    /* 10 */ { LESS, 3, 4, 1, 0 }, /* 1 < n */
    /* 11 */ { JUMP_IF, 0, 3, 0, 15 },
    /* 12 */ { ADD, 6, 6, 2, 0 },
    /* 13 */ { ADD, 0, 0, 4, 0 },
    /* 14 */ { JUMP, 0, 0, 0, 4 },
    /* 15 */ { ADD, 2, 2, 4, 0 },
    /* 16 */ { ODD, 3, 1, 0, 0 },
    /* 17 */ { JUMP_IF, 0, 3, 0, 20 },
    /* 18 */ { HALVE, 1, 1, 0, 0 },
    /* 19 */ { JUMP, 0, 0, 0, 10 },
    /* 20 */ { MUL3, 1, 1, 0, 0 },
    /* 21 */ { ADD, 1, 1, 4, 0 },
    /* 22 */ { JUMP, 0, 0, 0, 10 },
};

#ifdef COMPUTED_GOTO
#define ON(name) on_##name
#define NEXT do { at = next++; goto *handlers[at->code]; } while (0)
#else
#define ON(name) case name
#define NEXT break
#endif

uint64_t kernel(void)
{
    int64_t r[8] = { 0 };
    const struct operation *next = program, *at;
#ifdef COMPUTED_GOTO
    static const void *const handlers[] = {
        &&on_LOAD, &&on_ADD, &&on_MUL3, &&on_HALVE, &&on_ODD,
        &&on_JUMP_IF, &&on_JUMP, &&on_LESS, &&on_OPERATIONS_END,
    };
    NEXT;
#else
    for (;;) {
        at = next++;
        switch (at->code) {
#endif
        ON(LOAD): r[at->target] = at->value; NEXT;
        ON(ADD): r[at->target] = r[at->left] + r[at->right]; NEXT;
        ON(MUL3): r[at->target] = 3 * r[at->left]; NEXT;
        ON(HALVE): r[at->target] = r[at->left] >> 1; NEXT;
        ON(ODD): r[at->target] = r[at->left] & 1; NEXT;
        ON(JUMP_IF): if (r[at->left]) next = program + at->value; NEXT;
        ON(JUMP): next = program + at->value; NEXT;
        ON(LESS): r[at->target] = r[at->left] < r[at->right]; NEXT;
        ON(OPERATIONS_END): return mix((uint64_t)r[6], (uint64_t)r[0]);
#ifndef COMPUTED_GOTO
        }
    }
#endif
}
