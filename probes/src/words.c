/* Keeping words in ascending order while a walk goes on. */
#include "words_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t PAGE = 4096;

static size_t words_from(const as_page *page, unsigned first)
{
    size_t count = 0;
    for (unsigned group = first / 64; group < 8; group++) {
        uint64_t bits = page->mask[group];
        if (group == first / 64)
            bits &= UINT64_MAX << first % 64;
        count += (size_t)__builtin_popcountll(bits);
    }
    return count;
}

/* Room for one more element of size bytes at index; NULL when there is none. */
static void *open_gap(void *array, size_t *count, size_t *cap, size_t size, size_t index)
{
    unsigned char *bytes = array;
    if (*count == *cap) {
        size_t more = *cap ? *cap * 2 : 256;
        bytes = realloc(array, more * size);
        if (!bytes)
            return NULL;
        *cap = more;
    }
    memmove(bytes + (index + 1) * size, bytes + index * size, (*count - index) * size);
    ++*count;
    return bytes;
}

void as_words_add(as_words *w, uint64_t address, uint64_t value)
{
    uint64_t start = address & ~(PAGE - 1);
    unsigned bit = (unsigned)(address % PAGE / 8);
    size_t at = w->page_count, behind = 0;
    while (at && w->pages[at - 1].start > start)
        behind += words_from(&w->pages[--at], 0);
    if (at && w->pages[at - 1].start == start) {
        at--;
    } else {
        as_page *pages = open_gap(w->pages, &w->page_count, &w->page_cap, sizeof *pages, at);
        if (!pages) {
            w->error = ENOMEM;
            return;
        }
        w->pages = pages;
        w->pages[at] = (as_page){.start = start};
    }
    uint64_t *group = &w->pages[at].mask[bit / 64], one = 1ull << bit % 64;
    behind += bit < 511 ? words_from(&w->pages[at], bit + 1) : 0;
    if (*group & one) {
        w->words[w->word_count - behind - 1] = value;
        return;
    }
    size_t index = w->word_count - behind;
    uint64_t *words = open_gap(w->words, &w->word_count, &w->word_cap, sizeof *words, index);
    if (!words) {
        w->error = ENOMEM;
        return;
    }
    w->words = words;
    w->words[index] = value;
    *group |= one;
}

void as_words_add_header(as_words *w, as_shape shape, uint64_t chunk, const uint64_t *prev_size, uint64_t size_word)
{
    if (shape.word == 4) {
        as_words_add(w, chunk, (prev_size ? *prev_size : 0) | size_word << 32);
        return;
    }
    if (prev_size)
        as_words_add(w, chunk, *prev_size);
    as_words_add(w, chunk + shape.word, size_word);
}

void as_words_add_links(as_words *w, as_shape shape, uint64_t chunk, uint64_t fd, uint64_t bk, int count)
{
    uint64_t at = chunk + as_header(shape);
    if (shape.word == 4) {
        as_words_add(w, at, count > 1 ? fd | bk << 32 : fd);
        return;
    }
    as_words_add(w, at, fd);
    if (count > 1)
        as_words_add(w, at + shape.word, bk);
}

void as_words_free(as_words *w)
{
    free(w->pages);
    free(w->words);
    memset(w, 0, sizeof *w);
}
