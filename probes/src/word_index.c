/* A source of words: pages found by binary search, words within a page by counting bits. */
#include "source_private.h"
#include "words_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE_BYTES = 4096, PAGE_WORDS = PAGE_BYTES / 8 };
static const uint64_t USER_END = 1ull << 48;

typedef struct entry {
    uint64_t start;
    size_t page; /* which of the pages, and which of the words is its first */
    size_t first;
} entry;

struct word_index {
    const as_page *pages;
    const uint64_t *words;
    size_t count;
    entry *entries;
};

static int by_start(const void *left, const void *right)
{
    const entry *a = left, *b = right;
    if (a->start != b->start)
        return a->start < b->start ? -1 : 1;
    return a->page < b->page ? -1 : a->page > b->page;
}

/* Fills the entries; EINVAL when the masks do not tell of exactly word_count words. */
static int index_pages(word_index *index, size_t word_count)
{
    size_t total = 0;
    int sorted = 1;
    for (size_t i = 0; i < index->count; i++) {
        const as_page *page = &index->pages[i];
        if (page->start % PAGE_BYTES || page->start >= USER_END)
            return EINVAL;
        index->entries[i] = (entry){page->start, i, total};
        sorted = sorted && (!i || index->entries[i - 1].start <= page->start);
        for (int group = 0; group < 8; group++)
            total += (size_t)__builtin_popcountll(page->mask[group]);
    }
    if (!sorted)
        qsort(index->entries, index->count, sizeof *index->entries, by_start);
    return total == word_count ? 0 : EINVAL;
}

static int runs_sound(const as_run *runs, size_t count)
{
    uint64_t beyond = 0;
    for (size_t i = 0; i < count; i++) {
        if (runs[i].start < beyond || runs[i].end <= runs[i].start || runs[i].end > USER_END)
            return 0;
        if (runs[i].start % PAGE_BYTES || runs[i].end % PAGE_BYTES)
            return 0;
        beyond = runs[i].end;
    }
    return 1;
}

int as_source_words(const as_page *pages, size_t page_count, const uint64_t *words, size_t word_count,
                    const as_run *runs, size_t run_count, as_source **out)
{
    const as_span none = {0};
    if (!runs_sound(runs, run_count))
        return EINVAL;
    word_index *index = calloc(1, sizeof *index);
    if (!index)
        return ENOMEM;
    *index = (word_index){pages, words, page_count, malloc(page_count * sizeof(entry) + 1)};
    int error = index->entries ? index_pages(index, word_count) : ENOMEM;
    if (!error)
        error = as_source_spans(&none, 0, runs, run_count, out);
    if (error)
        as_word_index_free(index);
    else
        (*out)->words = index;
    return error;
}

void as_word_index_free(word_index *index)
{
    if (index)
        free(index->entries);
    free(index);
}

/* The first entry at or above start. */
static size_t seek(const word_index *index, uint64_t start)
{
    size_t low = 0, high = index->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (index->entries[middle].start < start)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Lays the known ones of the page's words [low, high) over image, which holds the whole page. */
static void overlay(const word_index *index, const entry *e, unsigned low, unsigned high, uint64_t *image)
{
    const as_page *page = &index->pages[e->page];
    const uint64_t *word = index->words + e->first;
    for (unsigned group = 0; group * 64 < high; group++) {
        uint64_t bits = page->mask[group];
        if ((group + 1) * 64 <= low) {
            word += __builtin_popcountll(bits);
            continue;
        }
        for (; bits; bits &= bits - 1, word++) {
            unsigned at = group * 64 + (unsigned)__builtin_ctzll(bits);
            if (at >= low && at < high)
                image[at] = *word;
        }
    }
}

int as_word_index_read(const word_index *index, uint64_t address, unsigned char *buffer, size_t size)
{
    uint64_t image[PAGE_WORDS];
    size_t i = seek(index, address - address % PAGE_BYTES);
    while (size) {
        uint64_t offset = address % PAGE_BYTES, start = address - offset;
        size_t part = size < PAGE_BYTES - offset ? size : PAGE_BYTES - offset;
        unsigned low = (unsigned)(offset / 8), high = (unsigned)((offset + part + 7) / 8);
        memset(image + low, 0, (high - low) * sizeof *image);
        while (i < index->count && index->entries[i].start < start)
            i++;
        for (; i < index->count && index->entries[i].start == start; i++)
            overlay(index, &index->entries[i], low, high, image);
        memcpy(buffer, (const unsigned char *)image + offset, part);
        address += part;
        buffer += part;
        size -= part;
    }
    return 0;
}
