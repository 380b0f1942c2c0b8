/* Double precision: iterations of the Mandelbrot set over a grid. */
#include "kernel.h"

enum { WIDTH = 320, HEIGHT = 240, LIMIT = 1000 };

uint64_t kernel(void)
{
    uint64_t sum = 0;
    for (int row = 0; row < HEIGHT; row++)
        for (int column = 0; column < WIDTH; column++) {
            double re = -2.2 + 3.0 * column / WIDTH, im = -1.2 + 2.4 * row / HEIGHT;
            double x = 0, y = 0;
            int count = 0;
            while (count < LIMIT && x * x + y * y < 4.0) {
                double next = x * x - y * y + re;
                y = 2.0 * x * y + im;
                x = next;
                count++;
            }
            sum = mix(sum, (uint64_t)count);
        }
    return sum;
}
