/* Memory of a live process or of spans in memory, behind one interface. Page states come from PAGEMAP_SCAN (Linux 6.7) or, on
 * older kernels, from plain pagemap reads. Facts: Documentation/admin-guide/mm/pagemap.rst. */
#define _GNU_SOURCE
#include "source.h"
#include "source_private.h"
#include "transit.h"
#include "words_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <unistd.h>

/* linux/fs.h has these from 6.7 on; older headers must do as well. */
struct pm_scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct pm_region {
    uint64_t start, end, categories;
};
#define PM_SCAN _IOWR('f', 16, struct pm_scan)
enum { PM_PRESENT = 8, PM_SWAPPED = 16, PM_ZERO = 32, PM_HUGE = 64, PM_GUARD = 256 };

/* Above 512 entries the kernel's walk_end can be stale, and a resumed scan then repeats pages. */
enum { SCAN_ENTRIES = 512, PAGEMAP_BATCH = 16384, PATIENCE = 10000 };
/* One scan holds the target's mmap lock: keep the pieces short. */
static const uint64_t SCAN_PIECE = 64u << 20;
/* Where user space ends, on any machine and on this one; asked about what lies beyond, the kernel answers EFAULT. */
static const uint64_t ANY_USER_END = 1ull << 48;
#ifdef __x86_64__
static const uint64_t USER_END = (1ull << 47) - 4096;
#else
static const uint64_t USER_END = 1ull << 48;
#endif

static int add_run(as_run *out, size_t cap, size_t *count, uint64_t start, uint64_t end, uint64_t flags)
{
    if (*count && out[*count - 1].end == start && out[*count - 1].flags == flags) {
        out[*count - 1].end = end;
        return 1;
    }
    if (*count == cap)
        return 0;
    out[(*count)++] = (as_run){start, end, flags};
    return 1;
}

static uint64_t flags_of_categories(uint64_t categories)
{
    if (categories & PM_GUARD)
        return AS_GUARD;
    if (categories & PM_SWAPPED)
        return AS_SWAPPED;
    return AS_PRESENT | (categories & PM_ZERO ? AS_ZERO : 0) | (categories & PM_HUGE ? AS_HUGE : 0);
}

static int scan_runs(as_source *s, uint64_t start, uint64_t end, as_run *out, size_t cap, size_t *count,
                     uint64_t *resume)
{
    struct pm_region found[SCAN_ENTRIES];
    uint64_t at = start;
    while (at < end) {
        uint64_t stop = end - at > SCAN_PIECE ? at + SCAN_PIECE : end;
        struct pm_scan arg = {
            .size = sizeof arg,
            .start = at,
            .end = stop,
            .vec = (uint64_t)(uintptr_t)found,
            .vec_len = SCAN_ENTRIES,
            .category_anyof_mask = PM_PRESENT | PM_SWAPPED,
            .return_mask = PM_PRESENT | PM_SWAPPED | PM_ZERO | PM_HUGE | (s->no_guard ? 0 : PM_GUARD),
        };
        int n = ioctl(s->pagemap, PM_SCAN, &arg);
        if (n < 0 && errno == EINVAL && !s->no_guard) {
            s->no_guard = 1; /* the guard category came later than the call itself */
            continue;
        }
        if (n < 0)
            return errno;
        for (int i = 0; i < n; i++)
            if (!add_run(out, cap, count, found[i].start, found[i].end, flags_of_categories(found[i].categories))) {
                *resume = found[i].start;
                return 0;
            }
        if (n < SCAN_ENTRIES)
            at = stop;
        else
            at = arg.walk_end > found[n - 1].end ? arg.walk_end : found[n - 1].end;
    }
    *resume = end;
    return 0;
}

static int pagemap_runs(as_source *s, uint64_t start, uint64_t end, as_run *out, size_t cap, size_t *count,
                        uint64_t *resume)
{
    static const uint64_t PRESENT = 1ull << 63, SWAPPED = 1ull << 62, GUARD = 1ull << 58;
    const uint64_t page = s->state_page;
    uint64_t *entries = malloc(PAGEMAP_BATCH * sizeof *entries);
    if (!entries)
        return ENOMEM;
    int error = 0;
    uint64_t at = start;
    while (at < end) {
        uint64_t pages = (end - at) / page;
        if (pages > PAGEMAP_BATCH)
            pages = PAGEMAP_BATCH;
        ssize_t got = pread(s->pagemap, entries, pages * 8, (off_t)(at / page * 8));
        if (got < 8) {
            error = got < 0 ? errno : 0;
            at = got < 0 ? at : end; /* beyond the address space there is nothing */
            break;
        }
        for (ssize_t i = 0; i < got / 8; i++, at += page) {
            uint64_t e = entries[i];
            uint64_t flags = e & GUARD ? AS_GUARD : e & PRESENT ? AS_PRESENT : e & SWAPPED ? AS_SWAPPED : 0;
            if (flags && !add_run(out, cap, count, at, at + page, flags)) {
                *resume = at;
                free(entries);
                return 0;
            }
        }
    }
    free(entries);
    *resume = at;
    return error;
}

/* The first run that ends after address. */
static size_t first_run_after(const as_source *s, uint64_t address)
{
    size_t low = 0, high = s->run_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->runs[middle].end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int span_runs(as_source *s, uint64_t start, uint64_t end, as_run *out, size_t cap, size_t *count,
                     uint64_t *resume)
{
    for (size_t i = first_run_after(s, start); i < s->run_count && s->runs[i].start < end; i++) {
        as_run r = s->runs[i];
        if (r.start < start)
            r.start = start;
        if (r.end > end)
            r.end = end;
        if (!add_run(out, cap, count, r.start, r.end, r.flags)) {
            *resume = r.start;
            return 0;
        }
    }
    *resume = end;
    return 0;
}

/* The same as as_runs, for whole pages of user space, as they are at this moment. */
static int runs_now(as_source *s, uint64_t start, uint64_t end, as_run *out, size_t cap, size_t *count,
                      uint64_t *resume)
{
    if (s->pid < 0)
        return span_runs(s, start, end, out, cap, count, resume);
    if (!s->no_scan) {
        int error = scan_runs(s, start, end, out, cap, count, resume);
        if (error != ENOTTY && error != EINVAL)
            return error;
        s->no_scan = 1;
        *count = 0;
    }
    return pagemap_runs(s, start, end, out, cap, count, resume);
}

static int runs_below(as_source *s, uint64_t start, uint64_t end, as_run *out, size_t cap, size_t *count,
                      uint64_t *resume)
{
    int waited, error;
    do {
        *count = 0;
        waited = 0;
        error = runs_now(s, start, end, out, cap, count, resume);
        if (!error && s->pid >= 0)
            error = as_settle(s, out, *count, &waited);
    } while (!error && waited);
    return error;
}

int as_runs(as_source *s, uint64_t start, uint64_t end, as_run *out, size_t cap, size_t *count, uint64_t *resume)
{
    const uint64_t within = s->state_page - 1;
    uint64_t beyond = s->pid < 0 ? ANY_USER_END : USER_END, stop = end < beyond ? (end + within) & ~within : beyond;
    *count = 0;
    *resume = start;
    start &= ~within;
    int error = start < stop ? runs_below(s, start, stop, out, cap, count, resume) : 0;
    if (!error && (start >= stop || *resume >= stop))
        *resume = end;
    return error;
}

int as_residency_of(as_source *s, uint64_t start, uint64_t end, as_residency *out)
{
    as_run runs[SCAN_ENTRIES];
    memset(out, 0, sizeof *out);
    while (start < end) {
        size_t count;
        uint64_t resume;
        int error = as_runs(s, start, end, runs, SCAN_ENTRIES, &count, &resume);
        if (error)
            return error;
        as_add_residency(runs, count, out);
        if (resume <= start)
            return EIO;
        start = resume;
    }
    return 0;
}

void as_add_residency(const as_run *runs, size_t count, as_residency *out)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = runs[i].end - runs[i].start;
        if (runs[i].flags & AS_SWAPPED)
            out->swapped_bytes += bytes;
        if (runs[i].flags & AS_ZERO)
            out->zero_bytes += bytes;
        if (as_resident(runs[i].flags)) {
            out->resident_bytes += bytes;
            if (runs[i].flags & AS_HUGE)
                out->huge_bytes += bytes;
        }
    }
}

/* ---- opening and closing ---- */

int as_source_process(int pid, as_source **out)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/pagemap", pid);
    as_source *s = calloc(1, sizeof *s);
    if (!s)
        return ENOMEM;
    s->pid = pid;
    s->shape = AS_SHAPE_64;
    s->state_page = (uint64_t)sysconf(_SC_PAGESIZE);
    struct sysinfo machine;
    s->no_swap = !sysinfo(&machine) && !machine.totalswap;
    s->patience = PATIENCE;
    s->memory = -1;
    s->pagemap = open(path, O_RDONLY | O_CLOEXEC);
    int error = s->pagemap < 0 ? errno : 0;
    if (!error) {
        snprintf(path, sizeof path, "/proc/%d/mem", pid);
        s->memory = open(path, O_RDONLY | O_CLOEXEC);
        error = s->memory < 0 ? errno : 0;
    }
    if (error) {
        as_source_close(s);
        return error;
    }
    *out = s;
    return 0;
}

int as_source_spans(const as_span *spans, size_t span_count, const as_run *runs, size_t run_count, as_source **out)
{
    as_source *s = calloc(1, sizeof *s);
    if (!s)
        return ENOMEM;
    s->pid = -1;
    s->file = s->pagemap = s->memory = -1;
    s->shape = AS_SHAPE_64;
    s->state_page = s->shape.page;
    s->spans = malloc(span_count * sizeof *spans + 1);
    s->runs = malloc(run_count * sizeof *runs + 1);
    if (!s->spans || !s->runs) {
        as_source_close(s);
        return ENOMEM;
    }
    if (span_count)
        memcpy(s->spans, spans, span_count * sizeof *spans);
    if (run_count)
        memcpy(s->runs, runs, run_count * sizeof *runs);
    s->span_count = span_count;
    s->run_count = run_count;
    *out = s;
    return 0;
}

int as_source_file(int descriptor, const as_span *spans, size_t span_count, const as_run *runs, size_t run_count,
                   as_source **out)
{
    int error = as_source_spans(spans, span_count, runs, run_count, out);
    if (!error)
        (*out)->file = descriptor;
    return error;
}

void as_source_close(as_source *s)
{
    if (!s)
        return;
    if (s->pagemap >= 0)
        close(s->pagemap);
    if (s->memory >= 0)
        close(s->memory);
    headers_free(s->headers);
    as_word_index_free(s->words);
    free(s->spans);
    free(s->runs);
    free(s);
}

int as_source_shape(as_source *s, uint64_t word_bytes, uint64_t alignment, uint64_t page_bytes)
{
    int wide = word_bytes == 8 && alignment == 16, narrow = word_bytes == 4 && (alignment == 8 || alignment == 16);
    if ((!wide && !narrow) || page_bytes < 4096 || page_bytes & (page_bytes - 1))
        return EINVAL;
    s->shape = (as_shape){word_bytes, alignment, page_bytes};
    return 0;
}

void as_source_without_scan(as_source *s)
{
    s->no_scan = 1;
}

/* ---- reading ---- */

/* The span that holds address, or NULL. */
static const as_span *span_at(const as_source *s, uint64_t address)
{
    size_t low = 0, high = s->span_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->spans[middle].start <= address)
            low = middle + 1;
        else
            high = middle;
    }
    const as_span *found = low ? &s->spans[low - 1] : NULL;
    return found && address - found->start < found->size ? found : NULL;
}

/* Bytes may come from several spans that follow on each other. */
static int span_read(const as_source *s, uint64_t address, unsigned char *buffer, size_t size)
{
    while (size) {
        const as_span *p = span_at(s, address);
        if (!p)
            return ENODATA;
        uint64_t skipped = address - p->start, part = p->size - skipped < size ? p->size - skipped : size;
        if (s->file < 0)
            memcpy(buffer, (const unsigned char *)p->data + skipped, part);
        else if (pread(s->file, buffer, part, (off_t)((uintptr_t)p->data + skipped)) != (ssize_t)part)
            return ENODATA;
        address += part;
        buffer += part;
        size -= part;
    }
    return 0;
}

ssize_t as_peek(as_source *s, const struct iovec *local, const struct iovec *remote, size_t count)
{
    ssize_t total = 0;
    for (size_t i = 0; i < count; i++) {
        ssize_t got = pread(s->memory, local[i].iov_base, remote[i].iov_len, (off_t)(uintptr_t)remote[i].iov_base);
        if (got < 0 && (errno == EIO || errno == EINVAL)) /* EINVAL: no address of a process */
            errno = EFAULT;
        if (!got && remote[i].iov_len) { /* its memory is gone: it ended, or called execve */
            errno = ESRCH;
            got = -1;
        }
        if (got < 0)
            return total ? total : -1;
        total += got;
        if ((size_t)got < remote[i].iov_len)
            break;
    }
    return total;
}

int as_read_present(as_source *s, uint64_t address, void *buffer, size_t size)
{
    if (s->words)
        return as_word_index_read(s->words, address, buffer, size);
    if (s->pid < 0)
        return span_read(s, address, buffer, size);
    struct iovec local = {buffer, size}, remote = {(void *)(uintptr_t)address, size};
    ssize_t got = as_peek(s, &local, &remote, 1);
    if (got < 0)
        return errno;
    return (size_t)got == size ? 0 : ENODATA;
}

int as_read(as_source *s, uint64_t address, void *buffer, size_t size)
{
    as_run runs[64];
    uint64_t at = address, end = address + size;
    if (end < address)
        return ENODATA;
    if (!size)
        return 0;
    while (at < end) {
        size_t count;
        uint64_t resume;
        int error = as_runs(s, at, end, runs, 64, &count, &resume);
        if (error)
            return error;
        for (size_t i = 0; i < count; i++) {
            if (runs[i].start > at || !(runs[i].flags & AS_PRESENT))
                return ENODATA;
            at = runs[i].end;
        }
        if (at < end && at < resume)
            return ENODATA;
    }
    return as_read_present(s, address, buffer, size);
}
