/* The headers of rows of chunks, kept from one reading of their memory (as_keep_headers). */
#ifndef ALLOCSCOPE_HEADERS_H
#define ALLOCSCOPE_HEADERS_H

#include "source_private.h"

enum { HEADER_WORDS = 4, HEADER_BYTES = 32 };

/* A page of a row: which header is the first in it, and where. */
typedef struct header_page {
    uint32_t first;  /* its number plus 1; 0: none begins here */
    uint16_t offset;
    uint16_t there;  /* was the page read? */
} header_page;

/* The row [first, end); its pages and headers begin at these numbers of the table's. */
typedef struct header_row {
    uint64_t first, end;
    size_t page, header, header_end;
} header_row;

enum { HEADER_ROWS = 256 };

struct header_table {
    header_row rows[HEADER_ROWS];
    size_t row_count;
    uint64_t (*words)[HEADER_WORDS];
    header_page *pages;
    size_t header_count, page_count, page_cap;
};

/* The word at address, if it is one of a header that was kept. */
int headers_word(const struct header_table *table, uint64_t address, uint64_t *value);

/* Where a walk stands among the headers; all zero: nowhere. */
typedef struct header_cursor {
    const struct header_table *table;
    const header_row *row;
    size_t header;
    uint64_t at;
} header_cursor;

header_cursor headers_from(const struct header_table *table, uint64_t chunk);

/* Was the page that the links of the chunk at address reach into read too? */
static inline int headers_links_there(const struct header_table *table, const header_row *row, uint64_t chunk)
{
    size_t page = row->page + (size_t)(chunk / 4096 - row->first / 4096);
    return chunk % 4096 + HEADER_BYTES <= 4096 || (page + 1 < table->page_count && table->pages[page + 1].there);
}

/* The words of the chunk at address, if it is the next one kept; the cursor goes on to the one behind it. */
static inline const uint64_t *headers_take(header_cursor *c, uint64_t chunk, int *links_there)
{
    if (!c->row || c->at != chunk || c->header == c->row->header_end)
        return NULL;
    const uint64_t *words = c->table->words[c->header++];
    *links_there = headers_links_there(c->table, c->row, chunk);
    c->at += words[1] & ~7ull;
    return words;
}

#endif
