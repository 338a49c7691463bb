/* What words.c shares with the walk and with source.c. */
#ifndef ALLOCSCOPE_WORDS_PRIVATE_H
#define ALLOCSCOPE_WORDS_PRIVATE_H

#include "words.h"

/* Keeps the word at address (a multiple of 8). Quick where addresses come in nearly ascending order. */
void as_words_add(as_words *words, uint64_t address, uint64_t value);

/* Where each page's words begin, by address; made by as_source_words. */
typedef struct word_index word_index;
int as_word_index_read(const word_index *index, uint64_t address, unsigned char *buffer, size_t size);
void as_word_index_free(word_index *index);

#endif
