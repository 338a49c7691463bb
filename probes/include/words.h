/* Words of memory, page by page: what a recording keeps of a heap. The walk passes every header of a heap; here it also hands out
 * the words that it looked at, and from such words the same walk can be made again.
 *
 * Rule: no payload. Kept are each chunk's size word, prev_size where the chunk before is free (else it is that chunk's payload), and
 * the links of free and parked chunks. */
#ifndef ALLOCSCOPE_WORDS_H
#define ALLOCSCOPE_WORDS_H

#include "walk.h"

/* A page of which some words are known: bit i % 64 of mask[i / 64] stands for the word at start + 8 * i. */
typedef struct as_page {
    uint64_t start;
    uint64_t mask[8];
} as_page;

/* Pages in ascending order, and their words, page after page. To begin with: all zero. */
typedef struct as_words {
    as_page *pages;
    uint64_t *words;
    size_t page_count, word_count, page_cap, word_cap;
    int error; /* ENOMEM: something could not be kept */
} as_words;

/* as_walk, which adds what it looks at to words. */
int as_walk_words(as_source *source, const as_region *region, as_words *words, as_tally *tally, as_class *classes);
void as_words_free(as_words *words);

/* A source of such words. pages may come in any order and more than once: where words overlap, the page that comes later in the array
 * counts. runs are as for as_source_spans; what is present there and not among the words reads as zero. Copies neither
 * pages nor words: both must outlive the source. EINVAL: pages, words and runs do not fit together. */
int as_source_words(const as_page *pages, size_t page_count, const uint64_t *words, size_t word_count,
                    const as_run *runs, size_t run_count, as_source **out);

#endif
