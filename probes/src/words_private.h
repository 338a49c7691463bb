/* What words.c shares with the walk and with source.c. */
#ifndef ALLOCSCOPE_WORDS_PRIVATE_H
#define ALLOCSCOPE_WORDS_PRIVATE_H

#include "source_private.h"
#include "words.h"

/* Keeps the word at address (a multiple of 8). Quick where addresses come in nearly ascending order. */
void as_words_add(as_words *words, uint64_t address, uint64_t value);
/* Keeps a chunk's header; without prev_size where that is NULL, because it belongs to the chunk before. Two words of a 32-bit
 * program make one of those that are kept. */
void as_words_add_header(as_words *words, as_shape shape, uint64_t chunk, const uint64_t *prev_size, uint64_t size_word);
/* Keeps one or both (count) links of a free chunk. */
void as_words_add_links(as_words *words, as_shape shape, uint64_t chunk, uint64_t fd, uint64_t bk, int count);

/* Where each page's words begin, by address; made by as_source_words. */
typedef struct word_index word_index;
int as_word_index_read(const word_index *index, uint64_t address, unsigned char *buffer, size_t size);
void as_word_index_free(word_index *index);

#endif
