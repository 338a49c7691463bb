/* The chunk walk: one pass over a heap's memory in small windows, tallies out, no object per chunk.
 *
 * It classes every chunk, adds up bytes and resident bytes, and applies malloc_trim's rule (glibc malloc.c, mtrim and
 * systrim), which needs chunks and pages together. Little-endian heaps. */
#ifndef ALLOCSCOPE_WALK_H
#define ALLOCSCOPE_WALK_H

#include "source.h"

typedef struct as_doubts as_doubts;

/* One contiguous row of chunks, and what is known about it beforehand. All arrays are sorted ascending. */
typedef struct as_region {
    uint64_t start;      /* page states are counted over [start, map_end) */
    uint64_t first;      /* the first chunk */
    uint64_t limit;      /* no chunk reaches beyond this */
    uint64_t map_end;
    uint64_t top;        /* the top chunk when it lies here, else 0 */
    uint64_t page_size;
    uint64_t trim_unit;  /* systrim's unit for the top; 0: this top is never released */
    uint64_t trim_pad;
    uint64_t merge_fastbins; /* malloc_trim consolidates fastbins first (glibc up to 2.42) */
    uint64_t hugetlb;        /* lies on hugetlb pages: none of it counts as resident, because RSS does not count it */
    const uint64_t *locked;      size_t locked_count;    /* mlocked memory: start, end, start, end, ... */
    uint64_t deadline_ns;    /* CLOCK_MONOTONIC; 0: none */
    const uint64_t *tcache;      size_t tcache_count;    /* chunks parked in a tcache */
    const uint64_t *fastbin;     size_t fastbin_count;   /* chunks in fastbins */
    const uint64_t *tcache_struct; size_t tcache_struct_count; /* the tcaches' own chunks */
    const uint64_t *known;       size_t known_count;     /* chunks known from bins, to go on at after damage */
    /* Where doubts is there, it is not known which chunks are in fastbins (fastbin is empty, and so is locked): chunks that may be are
     * written down and not counted, see doubts.h. Of a class n: where bit n of fast_classes is set. Their links lead to
     * [links_low, links_high). */
    as_doubts *doubts;
    uint64_t fast_classes, links_low, links_high;
    uint64_t joins;          /* the chunk before first belongs to this row of chunks too */
    uint8_t *cells;          /* one for each page of [start, map_end), to be filled in: an AS_CELL_; NULL: not wanted */
} as_region;

/* What a page is used for. AS_CELL_OTHER: none of the walked chunks lies on it. AS_CELL_FREE: only free ones, and yet malloc_trim would
 * not release it. From AS_CELL_HELD on: something is held there, less than a sixteenth of the page, and so on to the whole page. */
enum { AS_CELL_ABSENT = 0, AS_CELL_SWAPPED = 1, AS_CELL_OTHER = 2, AS_CELL_FREE = 3, AS_CELL_TRIMMABLE = 4, AS_CELL_LAZY = 5 };
enum { AS_CELL_HELD = 16, AS_CELL_SHARES = 16 };

enum {
    AS_STOP_LIMIT = 0,     /* arrived at limit */
    AS_STOP_TOP = 1,       /* arrived at the top chunk */
    AS_STOP_FENCEPOST = 2, /* a fencepost pair before limit: foreign memory follows */
    AS_STOP_DAMAGE = 3,    /* no plausible header, and no known chunk further on */
    AS_STOP_DEADLINE = 4,
    AS_STOP_BROKEN_TOP = 5 /* the top chunk does not end at limit */
};

typedef struct as_class {
    uint64_t live_count, live_bytes, tcache_count, tcache_bytes, fastbin_count, fastbin_bytes, bin_count, bin_bytes;
    uint64_t pages_held, last_page;
} as_class;

/* Size classes: 16-byte steps up to 1040, then eight per power of two. */
enum { AS_CLASSES = 400 };

typedef struct as_free_chunk {
    uint64_t address, size, resident_bytes;
} as_free_chunk;

enum { AS_LARGEST = 10 };

typedef struct as_tally {
    uint64_t live_bytes, live_count, tcache_bytes, tcache_count, fastbin_bytes, fastbin_count, bin_bytes, bin_count;
    uint64_t top_bytes, fencepost_bytes, tcache_struct_bytes, unread_bytes;
    uint64_t tcache_resident_bytes, fastbin_resident_bytes, bin_resident_bytes, top_resident_bytes;
    uint64_t trimmable_bytes; /* resident bytes that malloc_trim would release */
    uint64_t pinned_bytes;    /* resident bin and fastbin bytes that it would not */
    /* Where the resident bytes are that the four above leave: with them they sum to pages.resident_bytes. */
    uint64_t live_resident_bytes, tcache_struct_resident_bytes, fencepost_resident_bytes, unread_resident_bytes;
    uint64_t before_resident_bytes; /* from start, down to a page, to first */
    uint64_t beyond_resident_bytes; /* from where the walk stopped to map_end, up to a page */
    /* What malloc_trim would release of bins and of top; fastbins have the rest of trimmable_bytes. bin_whole_bytes: the same of
     * bins, resident or not. */
    uint64_t bin_trimmable_bytes, bin_whole_bytes, top_trimmable_bytes;
    uint64_t trim_range_count;  /* system calls that it would make, on resident pages or not: */
    uint64_t trim_break_bytes;  /* one of them lowers the break by so much, unless this is 0; the others are madvise */
    uint64_t locked_trim_bytes; /* resident bytes that it would release if they were not mlocked; */
    uint64_t bin_locked_bytes;  /* what bins have of these */
    uint64_t last_live, last_live_bytes; /* the live chunk nearest to the end of the row; 0: none */
    as_residency pages;
    /* Sums of a hash over the binned chunks' addresses, their fd and their bk: equal to the same sums over the bin heads
     * exactly when the lists hold the chunks that the walk found. */
    uint64_t bin_node_hash, bin_fd_hash, bin_bk_hash;
    uint64_t footer_mismatch_count; /* a free chunk's size and the prev_size after it differ */
    uint64_t missed_mark_count;     /* list-free chunks that the walk did not come by */
    uint64_t cut_at_top_count;      /* a chunk reached over top: an allocation was under way */
    uint64_t damage_count;
    uint64_t first_damage;
    uint64_t before_damage;         /* the chunk that led there; 0: none */
    uint64_t first_footer_mismatch; /* the free chunk; 0: none */
    uint64_t stopped_at, stop_reason;
    as_free_chunk largest[AS_LARGEST]; /* of bins, and top: by falling size, then by address; size 0: none */
} as_tally;

/* Reads the row of chunks from first on, once, and keeps the first words of each chunk: until as_forget_headers, lists that lead through
 * them are followed and the row is walked without reading it again. It keeps up to top, to where chunks make no sense, or to
 * AS_HEADERS_MAX of them (32 bytes each) in all rows together, and no further than to the block read when deadline_ns
 * (CLOCK_MONOTONIC, 0: none) came; what lies beyond is read as ever. */
enum { AS_HEADERS_MAX = 1048576 };
int as_keep_headers(as_source *source, uint64_t first, uint64_t limit, uint64_t top, uint64_t deadline_ns);
void as_forget_headers(as_source *source);

int as_walk(as_source *source, const as_region *region, as_tally *tally, as_class *classes);
uint64_t as_hash(uint64_t address);
size_t as_class_of(uint64_t size);
uint64_t as_class_min(size_t index);
/* Is there a row of chunks from address that arrives exactly at one of known, at limit, or at fenceposts that end a page? 1 yes, 0
 * no. */
int as_chain_reaches(as_source *source, uint64_t address, uint64_t limit, const uint64_t *known, size_t known_count,
                     int *reaches);
/* The first address in [low, high) that such a row begins at, as the first of its arena does: with PREV_INUSE set, and no other flag.
 * 0 when there is none. */
int as_row_start(as_source *source, uint64_t low, uint64_t high, uint64_t limit, const uint64_t *known,
                 size_t known_count, uint64_t *start);

#endif
