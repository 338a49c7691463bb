/* Keeping headers: a row of chunks is read once, in a window, and the first words of each chunk stay. They are all that its free lists and
 * its walk ask for, in a tenth of the memory or less, and they are of one moment. */
#define _GNU_SOURCE
#include "headers.h"
#include "deadline.h"
#include "walk.h"
#include "window.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { MIN_SIZE = 32, FENCEPOST = 16, FLAG_BITS = 7, PAGE = 4096, MAX_PAGES = 1 << 20 };

static const size_t WORDS_BYTES = (size_t)AS_HEADERS_MAX * HEADER_BYTES;

/* A table with room for all that may be kept; what of it is never used costs nothing. */
static struct header_table *make_table(void)
{
    struct header_table *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->words = mmap(NULL, WORDS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (t->words == MAP_FAILED) {
        free(t);
        return NULL;
    }
    madvise(t->words, WORDS_BYTES, MADV_HUGEPAGE); /* fewer faults; does no harm where refused */
    return t;
}

static int add_pages(struct header_table *t, size_t count)
{
    if (t->page_count + count > t->page_cap) {
        header_page *more = realloc(t->pages, (t->page_count + count) * sizeof *more);
        if (!more)
            return ENOMEM;
        t->pages = more;
        t->page_cap = t->page_count + count;
    }
    memset(t->pages + t->page_count, 0, count * sizeof *t->pages);
    return 0;
}

static void keep(struct header_table *t, header_row *row, uint64_t at, const unsigned char *bytes, int links_there)
{
    header_page *page = &t->pages[row->page + (size_t)(at / PAGE - row->first / PAGE)];
    uint64_t *words = t->words[t->header_count++];
    memset(words, 0, sizeof *t->words);
    memcpy(words, bytes, links_there ? HEADER_BYTES : HEADER_BYTES / 2);
    if (!page->first)
        *page = (header_page){(uint32_t)t->header_count, (uint16_t)(at % PAGE), 1};
    if (links_there && at % PAGE + HEADER_BYTES > PAGE)
        page[1].there = 1;
}

/* Where the row goes on behind a chunk; 0: it ends, or makes no sense. */
static uint64_t behind(uint64_t at, uint64_t size_word, uint64_t limit, uint64_t top)
{
    uint64_t size = size_word & ~(uint64_t)FLAG_BITS;
    if (at == top || (size < MIN_SIZE && size != FENCEPOST) || size % 16 || size >= limit - at)
        return 0;
    return at < top && size > top - at ? 0 : at + size;
}

static int pass(struct header_table *t, header_row *row, window *win, uint64_t limit, uint64_t top, uint64_t deadline_ns)
{
    for (uint64_t at = row->first; at && t->header_count < AS_HEADERS_MAX;) {
        if (!window_holds(win, at)) {
            int error = deadline_passed(deadline_ns) ? 0 : window_move(win, at);
            if (error)
                return error;
            if (!window_holds(win, at))
                break;
        }
        int links_there;
        const unsigned char *bytes = window_chunk(win, AS_SHAPE_64, at, &links_there);
        if (!bytes && !window_holds(win, at))
            continue;
        if (!bytes)
            break;
        uint64_t size_word;
        memcpy(&size_word, bytes + 8, sizeof size_word);
        keep(t, row, at, bytes, links_there);
        row->end = at + HEADER_BYTES;
        row->header_end = t->header_count;
        at = behind(at, size_word, limit, top);
    }
    return 0;
}

int as_keep_headers(as_source *s, uint64_t first, uint64_t limit, uint64_t top, uint64_t deadline_ns)
{
    if (s->shape.word != AS_SHAPE_64.word) /* a 32-bit heap is small: it does without */
        return 0;
    if (!s->headers)
        s->headers = make_table();
    struct header_table *t = s->headers;
    if (!t)
        return ENOMEM;
    size_t room = MAX_PAGES - t->page_count;
    if (t->row_count == HEADER_ROWS || first % 16 || first >= limit || limit / PAGE - first / PAGE + 2 > room)
        return 0;
    size_t pages = (size_t)(limit / PAGE - first / PAGE + 2);
    int error = add_pages(t, pages);
    if (error)
        return error;
    header_row *row = &t->rows[t->row_count];
    *row = (header_row){first, first, t->page_count, t->header_count, t->header_count};
    run_list runs;
    window win;
    error = runs_load(s, first, limit, &runs);
    if (error)
        return error;
    error = window_open(&win, s, &runs, limit);
    if (!error)
        error = pass(t, row, &win, limit, top, deadline_ns);
    window_close(&win);
    runs_free(&runs);
    if (error) {
        t->header_count = row->header;
        return error;
    }
    t->page_count += pages;
    t->row_count++;
    return 0;
}

void as_forget_headers(as_source *s)
{
    if (s->headers)
        s->headers->row_count = s->headers->header_count = s->headers->page_count = 0;
}

void headers_free(struct header_table *t)
{
    if (!t)
        return;
    munmap(t->words, WORDS_BYTES);
    free(t->pages);
    free(t);
}

/* ---- asking ---- */

static const header_row *row_of(const struct header_table *t, uint64_t address)
{
    for (size_t i = 0; i < t->row_count; i++)
        if (address >= t->rows[i].first && address < t->rows[i].end)
            return &t->rows[i];
    return NULL;
}

/* The last header at address or before it that begins in this page of the row; 0 when there is none. */
static size_t last_before(const struct header_table *t, const header_row *row, uint64_t page, uint64_t address, uint64_t *at)
{
    const header_page *p = &t->pages[row->page + (size_t)(page - row->first / PAGE)];
    if (!p->first || page * PAGE + p->offset > address)
        return 0;
    size_t header = p->first;
    *at = page * PAGE + p->offset;
    while (header < row->header_end) { /* at most 256 headers begin in one page */
        uint64_t next = *at + (t->words[header - 1][1] & ~(uint64_t)FLAG_BITS);
        if (next > address || next / PAGE != page)
            break;
        *at = next;
        header++;
    }
    return header;
}

int headers_word(const struct header_table *t, uint64_t address, uint64_t *value)
{
    const header_row *row = t && address % 8 == 0 ? row_of(t, address) : NULL;
    if (!row)
        return 0;
    uint64_t at, page = address / PAGE;
    size_t header = last_before(t, row, page, address, &at);
    if (!header && page > row->first / PAGE)
        header = last_before(t, row, page - 1, address, &at);
    if (!header || address - at >= HEADER_BYTES || (address - at >= 16 && !headers_links_there(t, row, at)))
        return 0;
    *value = t->words[header - 1][(address - at) / 8];
    return 1;
}

header_cursor headers_from(const struct header_table *t, uint64_t chunk)
{
    uint64_t at;
    const header_row *row = t ? row_of(t, chunk) : NULL;
    size_t header = row ? last_before(t, row, chunk / PAGE, chunk, &at) : 0;
    return header && at == chunk ? (header_cursor){t, row, header - 1, at} : (header_cursor){0};
}
