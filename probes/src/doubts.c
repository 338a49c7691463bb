/* Writing chunks in doubt down, following lists among them, and counting them as what they are. */
#include "doubts_private.h"
#include "classes_private.h"
#include "held.h"
#include "trim_rule.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_CAP = 256 };

/* Entries that all logs of this process have room for. */
static uint64_t room_taken;

/* ---- writing down ---- */

as_doubts *as_doubts_open(void)
{
    return calloc(1, sizeof(as_doubts));
}

void as_doubts_close(as_doubts *log)
{
    if (!log)
        return;
    __atomic_sub_fetch(&room_taken, log->cap, __ATOMIC_RELAXED);
    runs_free(&log->runs);
    free(log->items);
    free(log);
}

static int grow(as_doubts *log)
{
    size_t more = log->cap ? log->cap : FIRST_CAP;
    doubt *items = NULL;
    if (__atomic_add_fetch(&room_taken, more, __ATOMIC_RELAXED) <= AS_DOUBTS_MAX)
        items = realloc(log->items, (log->cap + more) * sizeof *items);
    if (!items) {
        __atomic_sub_fetch(&room_taken, more, __ATOMIC_RELAXED);
        log->incomplete = 1;
        return 0;
    }
    log->items = items;
    log->cap += more;
    return 1;
}

static doubt *add(as_doubts *log, int kind, uint64_t address, uint64_t next)
{
    if (log->incomplete || (log->count == log->cap && !grow(log)))
        return NULL;
    doubt *d = &log->items[log->count++];
    *d = (doubt){.address = address, .next = next, .kind = (uint8_t)kind};
    return d;
}

void doubts_add(as_doubts *log, int kind, uint64_t start, uint64_t end)
{
    add(log, kind, start, end);
}

static uint64_t last_page(const as_doubts *log, const doubt *d)
{
    return (d->address + d->size - 1) & ~(log->region.page_size - 1);
}

void doubts_add_chunk(as_doubts *log, uint64_t chunk, uint64_t size, uint64_t next, int held_before)
{
    uint32_t *pending = &log->pending[class_of(size)];
    doubt *d = add(log, DOUBT_CHUNK, chunk, next);
    if (!d)
        return;
    d->size = (uint16_t)size;
    d->flags = held_before ? DOUBT_HELD_BEFORE : 0;
    if (*pending && last_page(log, &log->items[*pending - 1]) == last_page(log, d))
        d->earlier = *pending;
    *pending = (uint32_t)log->count;
}

void doubts_note_live(as_doubts *log, uint64_t chunk, size_t class)
{
    uint32_t number = log->pending[class];
    uint64_t page = chunk & ~(log->region.page_size - 1);
    log->pending[class] = 0;
    if (last_page(log, &log->items[number - 1]) != page)
        return;
    for (; number; number = log->items[number - 1].earlier)
        log->items[number - 1].flags |= DOUBT_HELD_AFTER;
}

/* ---- following lists ---- */

/* One log, and where each of its blocks begins among its items; there are about as many blocks as items. */
typedef struct indexed {
    as_doubts *log;
    uint64_t first, last; /* addresses */
    unsigned shift;
    uint32_t *blocks;
} indexed;

static int by_address(const void *a, const void *b)
{
    const indexed *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

static int make_index(as_doubts *log, indexed *out)
{
    *out = (indexed){log, log->items[0].address, log->items[log->count - 1].address, 4, NULL};
    uint64_t span = out->last - out->first;
    while (span >> out->shift > log->count)
        out->shift++;
    size_t count = (size_t)(span >> out->shift) + 2, at = 0;
    out->blocks = malloc(count * sizeof *out->blocks);
    if (!out->blocks)
        return ENOMEM;
    for (size_t block = 0; block < count; block++) {
        while (at < log->count && (log->items[at].address - out->first) >> out->shift < block)
            at++;
        out->blocks[block] = (uint32_t)at;
    }
    return 0;
}

static doubt *find(const indexed *logs, size_t count, uint64_t address)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (logs[middle].first <= address)
            low = middle + 1;
        else
            high = middle;
    }
    const indexed *in = low ? &logs[low - 1] : NULL;
    if (!in || address > in->last)
        return NULL;
    size_t block = (size_t)((address - in->first) >> in->shift), from = in->blocks[block], to = in->blocks[block + 1];
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        doubt *d = &in->log->items[middle];
        if (d->address == address)
            return d->kind == DOUBT_CHUNK ? d : NULL;
        if (d->address < address)
            from = middle + 1;
        else
            to = middle;
    }
    return NULL;
}

/* Each chunk is met once, so a circle ends. */
static int follow(const indexed *logs, size_t count, uint64_t head)
{
    for (uint64_t at = head; at;) {
        doubt *d = find(logs, count, at);
        if (!d || d->flags & DOUBT_FAST)
            return 0;
        d->flags |= DOUBT_FAST;
        at = d->next;
    }
    return 1;
}

int as_doubts_follow(as_doubts *const *logs, size_t log_count, const uint64_t *heads, size_t head_count, int *whole)
{
    indexed *all = calloc(log_count + 1, sizeof *all);
    size_t count = 0;
    int error = all ? 0 : ENOMEM;
    *whole = 1;
    for (size_t i = 0; !error && i < log_count; i++) {
        *whole &= !logs[i]->incomplete;
        if (logs[i]->count)
            error = make_index(logs[i], &all[count++]);
    }
    if (!error && *whole) {
        qsort(all, count, sizeof *all, by_address);
        for (size_t i = 0; *whole && i < head_count; i++)
            *whole = follow(all, count, heads[i]);
    }
    for (size_t i = 0; i < count; i++)
        free(all[i].blocks);
    free(all);
    return error;
}

/* ---- counting ---- */

typedef struct counting {
    as_tally *tally;
    as_class *classes;
    run_list runs;
    size_t chunk_hint, class_hint;
    trimming trim;
} counting;

static void count_fast(counting *c, const doubt *d, uint64_t resident)
{
    as_class *class = &c->classes[class_of(d->size)];
    c->tally->pinned_bytes += resident;
    c->tally->fastbin_bytes += d->size;
    c->tally->fastbin_count++;
    c->tally->fastbin_resident_bytes += resident;
    class->fastbin_bytes += d->size;
    class->fastbin_count++;
    if (c->trim.region->merge_fastbins)
        row_extend(&c->trim, d->address, d->address + d->size, 1);
    else
        row_close(&c->trim);
}

static void count_live(counting *c, const doubt *d, uint64_t resident)
{
    as_class *class = &c->classes[class_of(d->size)];
    uint64_t page = c->trim.region->page_size, first = d->address & ~(page - 1);
    uint64_t beyond = round_up(d->address + d->size, page);
    row_close(&c->trim);
    c->tally->live_bytes += d->size;
    c->tally->live_count++;
    c->tally->live_resident_bytes += resident;
    c->tally->last_live = d->address;
    c->tally->last_live_bytes = d->size;
    class->live_bytes += d->size;
    class->live_count++;
    first += d->flags & DOUBT_HELD_BEFORE ? page : 0;
    beyond -= d->flags & DOUBT_HELD_AFTER ? page : 0;
    if (first < beyond)
        hold_pages(&c->runs, &c->class_hint, class, first, beyond, page);
}

static void count_all(counting *c, const as_doubts *log, uint64_t *row_end)
{
    for (size_t i = 0; i < log->count; i++) {
        const doubt *d = &log->items[i];
        uint64_t end = d->kind == DOUBT_CHUNK ? d->address + d->size : d->next;
        if (d->address != *row_end)
            row_close(&c->trim);
        if (d->kind == DOUBT_FREE) {
            row_extend(&c->trim, d->address, end, 0);
        } else if (d->kind == DOUBT_TOP) {
            row_meets_top(&c->trim, d->address, end);
        } else {
            uint64_t resident = runs_resident(&c->runs, &c->chunk_hint, d->address, end);
            if (d->flags & DOUBT_FAST)
                count_fast(c, d, resident);
            else
                count_live(c, d, resident);
        }
        *row_end = end;
    }
}

/* The page states of neighbouring parts of a row: of a page that two of them have, what the first one saw counts. */
static int join_runs(as_doubts *const *logs, size_t log_count, run_list *out)
{
    size_t total = 0;
    for (size_t i = 0; i < log_count; i++)
        total += logs[i]->runs.count;
    *out = (run_list){malloc(total * sizeof *out->runs + 1), 0};
    if (!out->runs)
        return ENOMEM;
    for (size_t i = 0; i < log_count; i++) {
        for (size_t k = 0; k < logs[i]->runs.count; k++) {
            as_run run = logs[i]->runs.runs[k];
            uint64_t done = out->count ? out->runs[out->count - 1].end : 0;
            run.start = run.start < done ? done : run.start;
            if (run.start < run.end)
                out->runs[out->count++] = run;
        }
    }
    return 0;
}

int as_doubts_settle(as_doubts *const *logs, size_t log_count, as_tally *tally, as_class *classes)
{
    counting c = {.tally = tally, .classes = classes};
    uint64_t row_end = 0;
    memset(tally, 0, sizeof *tally);
    if (!log_count)
        return 0;
    const as_doubts *last = logs[log_count - 1]; /* its region is the one that top lies in */
    int error = join_runs(logs, log_count, &c.runs);
    if (error)
        return error;
    c.trim = (trimming){.region = &last->region, .shape = last->shape, .tally = tally, .runs = &c.runs};
    for (size_t i = 0; i < log_count; i++)
        count_all(&c, logs[i], &row_end);
    row_close(&c.trim);
    runs_free(&c.runs);
    return 0;
}
