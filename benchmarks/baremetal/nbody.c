/* Double precision: five bodies under gravity, symplectic steps. */
#include "kernel.h"

enum { BODIES = 5, STEPS = 600000 };

struct body { double x, y, z, vx, vy, vz, mass; };

static struct body bodies[BODIES];

uint64_t kernel(void)
{
    uint64_t random = 6, sum = 0;
    for (int i = 0; i < BODIES; i++) {
        double *field = &bodies[i].x;
        for (int j = 0; j < 6; j++)
            field[j] = (double)(next_random(&random) % 1000) / (j < 3 ? 50.0 : 2000.0);
        bodies[i].mass = i ? 0.01 * i : 40.0;
    }
    const double step = 0.001;
    for (int n = 0; n < STEPS; n++) {
        for (int i = 0; i < BODIES; i++) {
            struct body *p = &bodies[i];
            for (int j = i + 1; j < BODIES; j++) {
                struct body *q = &bodies[j];
                double dx = p->x - q->x, dy = p->y - q->y, dz = p->z - q->z;
                double square = dx * dx + dy * dy + dz * dz + 0.01;
                double pull = step / (square * __builtin_sqrt(square));
                p->vx -= dx * q->mass * pull, q->vx += dx * p->mass * pull;
                p->vy -= dy * q->mass * pull, q->vy += dy * p->mass * pull;
                p->vz -= dz * q->mass * pull, q->vz += dz * p->mass * pull;
            }
        }
        for (int i = 0; i < BODIES; i++) {
            bodies[i].x += step * bodies[i].vx;
            bodies[i].y += step * bodies[i].vy;
            bodies[i].z += step * bodies[i].vz;
        }
    }
    for (int i = 0; i < BODIES; i++)
        sum = mix(mix(sum, bits_of(bodies[i].x)), bits_of(bodies[i].vz));
    return sum;
}
