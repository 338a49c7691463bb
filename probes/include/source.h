/* A source of memory: a live process, spans of a file (cores), or spans in memory (recordings and the fakes of the tests).
 *
 * Rules: only pages that are there are read, so that reading never changes the target; every function returns 0 or an
 * errno; out-parameters come last; nothing here allocates per chunk. */
#ifndef ALLOCSCOPE_SOURCE_H
#define ALLOCSCOPE_SOURCE_H

#include <stddef.h>
#include <stdint.h>

/* Page states, as bits of as_run.flags. A zero page is mapped but belongs to nobody, and a hugetlb page is not in RSS: they do not
 * count as resident. The kernel does not tell a hugetlb page from another huge one; who walks it must. */
enum { AS_PRESENT = 1, AS_SWAPPED = 2, AS_ZERO = 4, AS_HUGE = 8, AS_GUARD = 16, AS_HUGETLB = 32 };

/* Pages [start, end) that share the same state. */
typedef struct as_run {
    uint64_t start, end;
    uint64_t flags;
} as_run;

/* Bytes at [start, start + size) of the address space, held at data. */
typedef struct as_span {
    uint64_t start, size;
    const void *data;
} as_span;

typedef struct as_residency {
    uint64_t resident_bytes, swapped_bytes, huge_bytes, zero_bytes;
} as_residency;

/* A singly linked list to follow: head is the value of the list's head pointer, link_offset where in an element the link
 * lies (relative to the pointer), mangled whether links are stored as (address_of_link >> 12) XOR target. The list ends at
 * end, which is 0 for tcache bins and fastbins and the bin's own address for the circular bins. */
typedef struct as_list {
    uint64_t head;
    uint64_t end;
    int64_t link_offset;
    uint64_t mangled;
    uint64_t limit;
} as_list;

typedef struct as_source as_source;

/* How words and chunks lie in this memory: 8 and 16 on 64-bit machines, which is where a source begins; 4 and 16 or 8 on i386. Pages
 * are those of the target. EINVAL for any other. */
int as_source_shape(as_source *source, uint64_t word_bytes, uint64_t alignment, uint64_t page_bytes);
/* Opens pid's pagemap. ENOENT or ESRCH: no such process; EACCES or EPERM: not allowed. */
int as_source_process(int pid, as_source **out);
/* Copies the descriptions, not the data: data must outlive the source. Spans and runs are sorted by start and do not overlap; pages
 * that runs call present must be there in full to be walked. */
int as_source_spans(const as_span *spans, size_t span_count, const as_run *runs, size_t run_count, as_source **out);
/* The same of an open file, which stays the caller's and open: a span's data is its offset in the file, as a number. It is read, not
 * mapped, so that a file that becomes shorter meanwhile is no SIGBUS: what it no longer holds is not there. */
int as_source_file(int descriptor, const as_span *spans, size_t span_count, const as_run *runs, size_t run_count,
                   as_source **out);
void as_source_close(as_source *source);
/* For tests: behave as a kernel before 6.7, which has no PAGEMAP_SCAN. */
void as_source_without_scan(as_source *source);

/* The states of the pages in [start, end): at most cap runs, neighbours of equal state merged. resume is where to go on, end
 * when all was told. Pages that are absent have no run. */
int as_runs(as_source *source, uint64_t start, uint64_t end, as_run *out, size_t cap, size_t *count, uint64_t *resume);
int as_residency_of(as_source *source, uint64_t start, uint64_t end, as_residency *out);

/* Reads exactly size bytes. ENODATA: some page of it is not there (or swapped out, or a guard page) and was left alone. */
int as_read(as_source *source, uint64_t address, void *buffer, size_t size);
/* count reads of size bytes each, at addresses[i], to buffer + i * size; ok[i] tells whether it succeeded. */
int as_read_each(as_source *source, const uint64_t *addresses, size_t count, size_t size, void *buffer, uint8_t *ok);

/* Follows list_count lists. All elements' pointers, list after list, go to *out (give it back with as_free); counts[i] is how many
 * belong to list i; broken[i]: 0 it ended as it should, 1 in an unreadable or unaligned element or in a
 * circle, 2 at its limit. */
int as_chase(as_source *source, const as_list *lists, size_t list_count, uint64_t **out, size_t *counts, uint8_t *broken);
void as_free(void *memory);
/* Sorts addresses, ascending. */
int as_sort(uint64_t *addresses, size_t count);

#endif
