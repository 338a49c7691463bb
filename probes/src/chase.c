/* Following many singly linked lists side by side: each round reads the next link of every list that still goes on, all of them in
 * one call. So lists cost as many calls as the longest of them is long, not as many as there are elements. */
#include "batch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct follower {
    uint64_t at;
    uint64_t *words;
    size_t count, cap;
    uint64_t lap_start; /* an element passed, renewed in ever longer laps: who meets it again goes in a circle (Brent) */
    size_t lap;
} follower;

static int keep(follower *f)
{
    if (f->count == f->cap) {
        size_t cap = f->cap ? f->cap * 2 : 8;
        uint64_t *more = realloc(f->words, cap * sizeof *more);
        if (!more)
            return ENOMEM;
        f->words = more;
        f->cap = cap;
    }
    f->words[f->count++] = f->at;
    if (f->count > f->lap) {
        f->lap_start = f->at;
        f->lap = 2 * f->count;
    }
    return 0;
}

typedef struct round_buffers {
    size_t *active;
    uint64_t *links, *values;
    uint8_t *ok;
} round_buffers;

/* Keeps the lists that go on; returns how many. */
static size_t gather(as_shape shape, const as_list *lists, follower *followers, uint8_t *broken, round_buffers *r, size_t active)
{
    size_t going = 0;
    for (size_t k = 0; k < active; k++) {
        size_t i = r->active[k];
        uint64_t at = followers[i].at, link = at + (uint64_t)lists[i].link_offset;
        if (at == lists[i].end)
            continue;
        if (followers[i].count == lists[i].limit) {
            broken[i] = 2;
        } else if (!at || at % as_header(shape) || link % shape.word || at == followers[i].lap_start) {
            broken[i] = 1;
        } else {
            r->active[going] = i;
            r->links[going++] = link;
        }
    }
    return going;
}

static int follow(batch *b, const as_list *lists, size_t list_count, follower *followers, uint8_t *broken,
                  round_buffers *r)
{
    for (size_t i = 0; i < list_count; i++)
        r->active[i] = i;
    const as_shape shape = b->source->shape;
    size_t active = list_count;
    while ((active = gather(shape, lists, followers, broken, r, active)) > 0) {
        int error = batch_read(b, r->links, active, shape.word, r->values, r->ok);
        size_t going = 0;
        for (size_t k = 0; !error && k < active; k++) {
            size_t i = r->active[k];
            if (!r->ok[k]) {
                broken[i] = 1;
                continue;
            }
            error = keep(&followers[i]);
            uint64_t value = as_word(shape, (const unsigned char *)r->values, k);
            followers[i].at = lists[i].mangled ? value ^ (r->links[k] >> 12) : value;
            r->active[going++] = i;
        }
        if (error)
            return error;
        active = going;
    }
    return 0;
}

static int join(const follower *followers, size_t list_count, uint64_t **out, size_t *counts)
{
    size_t total = 0;
    for (size_t i = 0; i < list_count; i++)
        total += counts[i] = followers[i].count;
    *out = malloc(total * sizeof **out + 1);
    if (!*out)
        return ENOMEM;
    uint64_t *to = *out;
    for (size_t i = 0; i < list_count; i++) {
        if (counts[i])
            memcpy(to, followers[i].words, counts[i] * sizeof *to);
        to += counts[i];
    }
    return 0;
}

int as_chase(as_source *source, const as_list *lists, size_t list_count, uint64_t **out, size_t *counts, uint8_t *broken)
{
    batch b = {0};
    follower *followers = calloc(list_count + 1, sizeof *followers);
    round_buffers r = {malloc((list_count + 1) * sizeof *r.active), malloc((list_count + 1) * sizeof *r.links),
                       malloc((list_count + 1) * sizeof *r.values), malloc(list_count + 1)};
    int error = followers && r.active && r.links && r.values && r.ok ? batch_open(&b, source) : ENOMEM;
    *out = NULL;
    memset(broken, 0, list_count);
    for (size_t i = 0; !error && i < list_count; i++)
        followers[i].at = lists[i].head;
    if (!error)
        error = follow(&b, lists, list_count, followers, broken, &r);
    if (!error)
        error = join(followers, list_count, out, counts);
    for (size_t i = 0; followers && i < list_count; i++)
        free(followers[i].words);
    batch_close(&b);
    free(followers);
    free(r.active);
    free(r.links);
    free(r.values);
    free(r.ok);
    return error;
}

void as_free(void *memory)
{
    free(memory);
}
