/* The chunk walk. A chunk's state is told by the chunk behind it (PREV_INUSE), so each one is held back until the next
 * header has been read. Facts: glibc malloc/malloc.c (chunk layout, mtrim, systrim), malloc/arena.c (heap ends). */
#define _GNU_SOURCE
#include "walk.h"
#include "classes_private.h"
#include "deadline.h"
#include "doubts_private.h"
#include "headers.h"
#include "held.h"
#include "largest.h"
#include "marks.h"
#include "page_map.h"
#include "pins_private.h"
#include "sorted.h"
#include "trim_rule.h"
#include "window.h"
#include "words_private.h"

#include <errno.h>
#include <string.h>

enum { PREV_INUSE = 1, FLAG_BITS = 7 };

typedef struct walker {
    const as_region *region;
    as_shape shape;
    as_tally *tally;
    as_class *classes;
    run_list runs;
    window window;
    size_t chunk_hint, class_hint;
    marks tcache, fastbin, structs;
    uint64_t next_mark; /* the first chunk that one of them tells of */
    trimming trim;
    as_words *words; /* where to keep what is looked at; NULL: nowhere */
    page_map pages;  /* filled in where region->cells is there */
    as_doubts *log;  /* where chunks in doubt are written down; NULL: there is no doubt */
    pin_watch pins;
    /* the chunk held back; size 0: none */
    uint64_t chunk, size, fd, bk;
    int links_read;
} walker;

/* ---- one chunk ---- */

/* ---- keeping words (see words.h) ---- */

/* Out of the way of the walk that keeps nothing. */
#define SELDOM __attribute__((noinline, cold))

SELDOM static void keep_header(const walker *w, uint64_t chunk, uint64_t prev_size, uint64_t size_word)
{
    as_words_add_header(w->words, w->shape, chunk, size_word & PREV_INUSE ? NULL : &prev_size, size_word);
}

/* A parked chunk has one link, a binned one two; what follows is payload. */
SELDOM static void keep_links(const walker *w, int count)
{
    if (w->links_read)
        as_words_add_links(w->words, w->shape, w->chunk, w->fd, count > 1 ? w->bk : 0, count);
}

SELDOM static void map_chunk(walker *w, uint64_t chunk, uint64_t size, int held)
{
    if (held)
        page_map_held(&w->pages, chunk, chunk + size);
    else
        page_map_free(&w->pages, chunk, chunk + size);
}

static uint64_t resident(walker *w, uint64_t start, uint64_t end)
{
    return runs_resident(&w->runs, &w->chunk_hint, start, end);
}

static void take_fencepost(walker *w, uint64_t at, uint64_t size)
{
    w->tally->fencepost_bytes += size;
    w->tally->fencepost_resident_bytes += resident(w, at, at + size);
}

SELDOM static int kind_of(const walker *w, int in_use, int parked, int fast, int structure)
{
    if (parked)
        return AS_HELD_TCACHE;
    if (fast)
        return w->region->merge_fastbins ? AS_HELD_NOTHING : AS_HELD_FASTBIN;
    if (structure)
        return AS_HELD_STRUCT;
    return in_use ? AS_HELD_LIVE : AS_HELD_NOTHING;
}

SELDOM static void tell_pins(walker *w, uint64_t chunk, uint64_t size, int kind)
{
    if (kind == AS_HELD_NOTHING)
        pins_free(&w->pins, chunk, size);
    else
        pins_held(&w->pins, chunk, size, kind);
}

/* ---- rows of free chunks ---- */

static uint64_t page_of(const walker *w, uint64_t address)
{
    return address & ~(w->region->page_size - 1);
}

/* The row that the walk is in ends at something that stays. What was written down of one is closed when it is counted. */
static inline void end_row(walker *w)
{
    if (w->log && w->log->in_row)
        w->log->in_row = 0;
    else
        row_close(&w->trim);
}

static inline void free_in_row(walker *w, uint64_t start, uint64_t end, int fast)
{
    if (w->log && w->log->in_row)
        doubts_add(w->log, DOUBT_FREE, start, end);
    else
        row_extend(&w->trim, start, end, fast);
}

static void top_meets_row(walker *w, uint64_t top, uint64_t end)
{
    if (w->log && w->log->in_row)
        doubts_add(w->log, DOUBT_TOP, top, end);
    else
        row_meets_top(&w->trim, top, end);
}

/* Is the chunk in use in a fastbin? That is not known yet: from here on the row is written down, and what of it came before. */
static inline int take_doubt(walker *w, size_t index, uint64_t chunk, uint64_t size)
{
    uint64_t next;
    if (!doubts_allow(w->log, chunk, index, w->fd, &next) || !w->links_read)
        return 0;
    if (!w->region->merge_fastbins) {
        end_row(w);
    } else if (!w->log->in_row) {
        if (w->trim.row.start)
            doubts_add(w->log, DOUBT_FREE, w->trim.row.start, chunk);
        w->trim.row.start = 0;
        w->log->in_row = 1;
    }
    doubts_add_chunk(w->log, chunk, size, next, w->classes[index].last_page > page_of(w, chunk));
    return 1;
}

static uint64_t first_mark(const walker *w)
{
    uint64_t tcache = mark_ahead(&w->tcache), fastbin = mark_ahead(&w->fastbin), structs = mark_ahead(&w->structs);
    uint64_t first = tcache < fastbin ? tcache : fastbin;
    return first < structs ? first : structs;
}

/* The chunk held back is whole now: what is it? */
static void settle(walker *w, int in_use)
{
    uint64_t chunk = w->chunk, size = w->size;
    as_tally *t = w->tally;
    if (!size)
        return;
    w->size = 0;
    if (size == as_header(w->shape)) {
        take_fencepost(w, chunk, size);
        end_row(w);
        return;
    }
    uint64_t there = resident(w, chunk, chunk + size);
    size_t index = class_of(size);
    as_class *class = &w->classes[index];
    int parked = 0, fast = 0, structure = 0;
    if (chunk >= w->next_mark) {
        parked = marked(&w->tcache, chunk);
        fast = marked(&w->fastbin, chunk);
        structure = marked(&w->structs, chunk);
        w->next_mark = first_mark(w);
    }
    if (w->region->cells)
        map_chunk(w, chunk, size, in_use && !parked && !fast);
    if (w->pins.pins)
        tell_pins(w, chunk, size, kind_of(w, in_use, parked, fast, structure));
    if (in_use && !parked && !fast) {
        if (w->log && !structure && take_doubt(w, index, chunk, size))
            return;
        end_row(w);
        if (structure) {
            t->tcache_struct_bytes += size;
            t->tcache_struct_resident_bytes += there;
            return;
        }
        t->live_bytes += size;
        t->live_resident_bytes += there;
        t->last_live = chunk;
        t->last_live_bytes = size;
        t->live_count++;
        class->live_bytes += size;
        class->live_count++;
        hold_pages(&w->runs, &w->class_hint, class, page_of(w, chunk), round_up(chunk + size, w->region->page_size),
                   w->region->page_size);
        if (w->log)
            doubts_meet_live(w->log, chunk, index);
        return;
    }
    if (w->words)
        keep_links(w, parked || fast ? 1 : 2);
    if (parked) {
        end_row(w);
        t->tcache_bytes += size;
        t->tcache_count++;
        t->tcache_resident_bytes += there;
        class->tcache_bytes += size;
        class->tcache_count++;
        return;
    }
    t->pinned_bytes += there;
    if (fast) {
        t->fastbin_bytes += size;
        t->fastbin_count++;
        t->fastbin_resident_bytes += there;
        class->fastbin_bytes += size;
        class->fastbin_count++;
        if (w->region->merge_fastbins)
            free_in_row(w, chunk, chunk + size, 1);
        else
            end_row(w);
        return;
    }
    note_free(t, chunk, size, there);
    t->bin_bytes += size;
    t->bin_count++;
    t->bin_resident_bytes += there;
    class->bin_bytes += size;
    class->bin_count++;
    t->bin_node_hash += hash_of(chunk);
    t->bin_fd_hash += hash_of(w->fd);
    t->bin_bk_hash += hash_of(w->bk);
    free_in_row(w, chunk, chunk + size, 0);
}

/* ---- going on after damage ---- */

static uint64_t next_known(const as_region *g, uint64_t address)
{
    uint64_t best = g->top > address ? g->top : UINT64_MAX;
    uint64_t found[] = {next_after(g->known, g->known_count, address),
                        next_after(g->tcache, g->tcache_count, address),
                        next_after(g->fastbin, g->fastbin_count, address),
                        next_after(g->tcache_struct, g->tcache_struct_count, address)};
    for (size_t i = 0; i < sizeof found / sizeof *found; i++)
        if (found[i] < best)
            best = found[i];
    return best < g->limit ? best : UINT64_MAX;
}

/* ---- the pass ---- */

static uint64_t stop(walker *w, uint64_t at, uint64_t reason)
{
    w->tally->stopped_at = at;
    w->tally->stop_reason = reason;
    return 0;
}

static void leave_unread(walker *w, uint64_t start, uint64_t end)
{
    w->tally->unread_bytes += end - start;
    w->tally->unread_resident_bytes += resident(w, start, end);
}

/* Skips to the next chunk known from elsewhere; returns its address, 0 when there is none. */
static uint64_t skip_damage(walker *w, uint64_t at)
{
    as_tally *t = w->tally;
    if (!t->damage_count++) {
        t->first_damage = at;
        t->before_damage = w->size ? w->chunk : 0;
    }
    settle(w, 1);
    end_row(w);
    uint64_t next = next_known(w->region, at);
    leave_unread(w, at, next == UINT64_MAX ? w->region->limit : next);
    return next == UINT64_MAX ? stop(w, at, AS_STOP_DAMAGE) : next;
}

static void meet_top(walker *w, uint64_t at, uint64_t size)
{
    const as_region *g = w->region;
    top_meets_row(w, at, g->limit);
    w->tally->top_bytes = g->limit - at;
    w->tally->top_resident_bytes = resident(w, at, g->limit);
    if (g->cells)
        page_map_free(&w->pages, at, g->limit);
    note_free(w->tally, at, w->tally->top_bytes, w->tally->top_resident_bytes);
    stop(w, g->limit, at + size == g->limit ? AS_STOP_TOP : AS_STOP_BROKEN_TOP);
}

static void count_footer_mismatch(as_tally *t, uint64_t chunk)
{
    if (!t->footer_mismatch_count++)
        t->first_footer_mismatch = chunk;
}

/* Inlined once for each shape, so that 64-bit heaps cost what they would cost alone. */
#define ALWAYS_INLINE inline __attribute__((always_inline))

/* Takes the chunk at address; returns the next one's address, 0 at the end of the walk. */
static ALWAYS_INLINE uint64_t step(walker *w, as_shape s, uint64_t at, const unsigned char *bytes, int link_there)
{
    const as_region *g = w->region;
    const uint64_t min_size = as_min_chunk(s), fencepost = as_header(s), beyond_fencepost = fencepost + as_slack(s);
    uint64_t prev_size = as_word(s, bytes, 0), size_word = as_word(s, bytes, 1);
    uint64_t size = size_word & ~(uint64_t)FLAG_BITS;
    __builtin_prefetch((const void *)((uintptr_t)bytes + size)); /* the next header, while this chunk is counted */
    int previous_in_use = size_word & PREV_INUSE;
    int after_fencepost = w->size == fencepost;

    if (w->words)
        keep_header(w, at, prev_size, size_word);
    if (!previous_in_use && w->size && prev_size != w->size)
        count_footer_mismatch(w->tally, w->chunk);
    if (at == g->top) {
        settle(w, previous_in_use);
        meet_top(w, at, size);
        return 0;
    }
    if (size == 0 && (after_fencepost || at + beyond_fencepost == g->limit)) {
        if (w->size == min_size && previous_in_use) { /* a heap's old top was too small to be freed: it became a part */
            take_fencepost(w, w->chunk, min_size);
            w->size = 0;
        }
        settle(w, previous_in_use);
        end_row(w);
        take_fencepost(w, at, beyond_fencepost);
        uint64_t reason = at + beyond_fencepost == g->limit ? AS_STOP_LIMIT : AS_STOP_FENCEPOST;
        return stop(w, at + beyond_fencepost, reason);
    }
    /* elsewhere than at the end of a page, old top was too small, and is a third one */
    if (size == fencepost && after_fencepost && page_of(w, at + beyond_fencepost) == at + beyond_fencepost) {
        settle(w, previous_in_use);
        take_fencepost(w, at, beyond_fencepost);
        return stop(w, at + beyond_fencepost, at + beyond_fencepost >= g->limit ? AS_STOP_LIMIT : AS_STOP_FENCEPOST);
    }
    if ((size != fencepost && (size < min_size || size % s.alignment)) || size > g->limit - at)
        return skip_damage(w, at);
    if (at < g->top && size > g->top - at) {
        size = g->top - at;
        w->tally->cut_at_top_count++;
    }
    settle(w, previous_in_use);
    w->chunk = at;
    w->size = size;
    w->fd = link_there ? as_word(s, bytes, 2) : 0;
    w->bk = link_there ? as_word(s, bytes, 3) : 0;
    w->links_read = link_there;
    if (at + size == g->limit) {
        settle(w, 1);
        end_row(w);
        return stop(w, g->limit, AS_STOP_LIMIT);
    }
    return at + size;
}

static void leave_at_deadline(walker *w, uint64_t at)
{
    settle(w, 1);
    leave_unread(w, at, w->region->limit);
    stop(w, at, AS_STOP_DEADLINE);
}

static ALWAYS_INLINE int walk_shaped(walker *w, as_shape s)
{
    const as_region *g = w->region;
    window *win = &w->window;
    uint64_t at = g->first;
    header_cursor kept = headers_from(win->source->headers, at);
    if (at >= g->limit) {
        stop(w, at, AS_STOP_LIMIT);
        return 0;
    }
    if (deadline_passed(g->deadline_ns)) { /* kept headers ask no more */
        leave_at_deadline(w, at);
        return 0;
    }
    while (at) {
        int links_there;
        const uint64_t *words = headers_take(&kept, at, &links_there);
        if (words) {
            at = step(w, s, at, (const unsigned char *)words, links_there);
            continue;
        }
        if (!window_holds(win, at)) {
            if (deadline_passed(g->deadline_ns)) {
                leave_at_deadline(w, at);
                return 0;
            }
            int error = window_move(win, at);
            if (error)
                return error;
        }
        int misplaced = !as_is_chunk(s, at) && w->size != as_header(s); /* behind a fencepost nothing is aligned */
        const unsigned char *bytes = misplaced ? NULL : window_chunk(win, s, at, &links_there);
        if (bytes)
            at = step(w, s, at, bytes, links_there);
        else if (window_holds(win, at))
            at = skip_damage(w, at);
    }
    return 0;
}

static int walk_chunks(walker *w)
{
    return w->shape.word == 8 ? walk_shaped(w, AS_SHAPE_64) : walk_shaped(w, w->shape);
}

/* The resident bytes on both sides of what was walked. What was left unread is no side. */
static void count_sides(walker *w)
{
    const as_region *g = w->region;
    as_tally *t = w->tally;
    int unread = t->stop_reason == AS_STOP_DAMAGE || t->stop_reason == AS_STOP_DEADLINE;
    uint64_t behind = unread ? g->limit : t->stopped_at;
    t->before_resident_bytes = resident(w, g->start & ~(g->page_size - 1), g->first);
    t->beyond_resident_bytes = resident(w, behind, round_up(g->map_end, g->page_size));
}

/* Behind a seam the row may have begun in doubt already. */
static as_doubts *begin_doubts(const walker *w)
{
    as_doubts *log = w->region->doubts;
    log->region = *w->region;
    log->region.tcache = log->region.fastbin = log->region.tcache_struct = log->region.known = log->region.locked = NULL;
    log->region.locked_count = 0;
    log->region.doubts = NULL;
    log->shape = w->shape;
    log->in_row = w->region->joins != 0;
    return log;
}

static int walk(as_source *source, const as_region *region, as_words *words, as_pins *pins, as_tally *tally,
                as_class *classes)
{
    walker w = {.region = region, .shape = source->shape, .tally = tally, .classes = classes, .words = words};
    memset(tally, 0, sizeof *tally);
    for (size_t i = 0; i < AS_CLASSES; i++)
        classes[i].last_page = 0;
    w.trim = (trimming){.region = region, .shape = w.shape, .tally = tally, .runs = &w.runs, .locked = region->locked};
    w.trim.locked_end = region->locked + region->locked_count / 2 * 2;
    pins_open(&w.pins, pins, &w.runs, region->page_size);
    w.tcache = marks_of(region->tcache, region->tcache_count);
    w.fastbin = marks_of(region->fastbin, region->fastbin_count);
    w.structs = marks_of(region->tcache_struct, region->tcache_struct_count);
    w.next_mark = first_mark(&w);
    int error = runs_load(source, region->start, region->map_end, &w.runs);
    if (error)
        return error;
    page_map_open(&w.pages, region);
    for (size_t i = 0; region->hugetlb && i < w.runs.count; i++)
        w.runs.runs[i].flags |= AS_HUGETLB;
    as_add_residency(w.runs.runs, w.runs.count, &tally->pages);
    error = window_open(&w.window, source, &w.runs, region->limit);
    if (!error && region->doubts)
        w.log = begin_doubts(&w);
    if (!error)
        error = walk_chunks(&w);
    if (pins)
        pins_close(&w.pins);
    count_sides(&w);
    tally->missed_mark_count = never_met(&w.tcache, tally->stopped_at) + never_met(&w.fastbin, tally->stopped_at) +
                               never_met(&w.structs, tally->stopped_at);
    if (region->cells)
        page_map_close(&w.pages, &w.runs);
    window_close(&w.window);
    if (w.log)
        w.log->runs = w.runs; /* kept for when it is counted */
    else
        runs_free(&w.runs);
    return !error && words ? words->error : error;
}

int as_walk_words(as_source *source, const as_region *region, as_words *words, as_tally *tally, as_class *classes)
{
    return walk(source, region, words, NULL, tally, classes);
}

int as_walk_pins(as_source *source, const as_region *region, as_pins *pins, as_tally *tally, as_class *classes)
{
    memset(pins, 0, sizeof *pins);
    return walk(source, region, NULL, pins, tally, classes);
}

int as_walk(as_source *source, const as_region *region, as_tally *tally, as_class *classes)
{
    return walk(source, region, NULL, NULL, tally, classes);
}
