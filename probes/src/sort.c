/* Sorting addresses: free lists can hold millions of them. Byte by byte from the lowest (radix), bytes that are the same everywhere
 * left out; addresses have six bytes that differ at most. */
#include "source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { DIGITS = 8, VALUES = 256 };

static void scatter(const uint64_t *from, uint64_t *to, size_t count, const size_t *counts, int shift)
{
    size_t places[VALUES], sum = 0;
    for (int i = 0; i < VALUES; i++) {
        places[i] = sum;
        sum += counts[i];
    }
    for (size_t i = 0; i < count; i++)
        to[places[from[i] >> shift & (VALUES - 1)]++] = from[i];
}

int as_sort(uint64_t *addresses, size_t count)
{
    size_t counts[DIGITS][VALUES];
    uint64_t *spare = malloc(count * sizeof *spare + 1), *from = addresses, *to = spare;
    if (!spare)
        return ENOMEM;
    memset(counts, 0, sizeof counts);
    for (size_t i = 0; i < count; i++)
        for (int digit = 0; digit < DIGITS; digit++)
            counts[digit][addresses[i] >> digit * 8 & (VALUES - 1)]++;
    for (int digit = 0; count && digit < DIGITS; digit++) {
        if (counts[digit][addresses[0] >> digit * 8 & (VALUES - 1)] == count)
            continue;
        scatter(from, to, count, counts[digit], digit * 8);
        uint64_t *swapped = from;
        from = to;
        to = swapped;
    }
    if (from != addresses)
        memcpy(addresses, from, count * sizeof *addresses);
    free(spare);
    return 0;
}
