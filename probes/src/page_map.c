#include "page_map.h"

#include <string.h>

static uint64_t page_of(const as_region *region, uint64_t address)
{
    return address & ~(region->page_size - 1);
}

/* Where the map begins; where it ends. */
static uint64_t map_start(const as_region *region)
{
    return page_of(region, region->start);
}

static uint64_t map_end(const as_region *region)
{
    return page_of(region, region->map_end + region->page_size - 1);
}

static uint8_t *cell_at(const as_region *region, uint64_t page)
{
    return region->cells + (page - map_start(region)) / region->page_size;
}

/* Sets the pages of [start, end), as far as the map goes. */
static void set_pages(const as_region *region, uint64_t start, uint64_t end, uint8_t cell)
{
    uint64_t low = map_start(region), high = map_end(region);
    start = start < low ? low : start;
    end = end > high ? high : end;
    if (start < end)
        memset(cell_at(region, start), cell, (end - start) / region->page_size);
}

void page_map_open(page_map *map, const as_region *region)
{
    *map = (page_map){.region = region, .page = UINT64_MAX};
    if (region->cells && map_start(region) < map_end(region))
        memset(region->cells, AS_CELL_OTHER, (map_end(region) - map_start(region)) / region->page_size);
}

/* The page added up is complete. A page without anything held stays what it was called. */
static void page_done(page_map *map)
{
    const as_region *g = map->region;
    if (!map->held_bytes)
        return;
    uint64_t share = (map->held_bytes * AS_CELL_SHARES + g->page_size - 1) / g->page_size;
    if (share > AS_CELL_SHARES)
        share = AS_CELL_SHARES;
    set_pages(g, map->page, map->page + g->page_size, (uint8_t)(AS_CELL_HELD + share - 1));
    map->held_bytes = 0;
}

static void add_held(page_map *map, uint64_t page, uint64_t bytes)
{
    if (page != map->page) {
        page_done(map);
        map->page = page;
    }
    map->held_bytes += bytes;
}

void page_map_held(page_map *map, uint64_t start, uint64_t end)
{
    const as_region *g = map->region;
    uint64_t first = page_of(g, start), last = page_of(g, end - 1);
    if (first == last) {
        add_held(map, first, end - start);
        return;
    }
    add_held(map, first, first + g->page_size - start);
    set_pages(g, first + g->page_size, last, AS_CELL_HELD + AS_CELL_SHARES - 1);
    add_held(map, last, end - last);
}

void page_map_free(page_map *map, uint64_t start, uint64_t end)
{
    const as_region *g = map->region;
    uint64_t page = page_of(g, start), low = map_start(g), high = map_end(g);
    for (page = page < low ? low : page; page < end && page < high; page += g->page_size)
        if (*cell_at(g, page) == AS_CELL_OTHER)
            *cell_at(g, page) = AS_CELL_FREE;
}

void page_map_trimmable(const as_region *region, uint64_t start, uint64_t end)
{
    if (region->cells)
        set_pages(region, page_of(region, start + region->page_size - 1), page_of(region, end), AS_CELL_TRIMMABLE);
}

void page_map_close(page_map *map, const run_list *runs)
{
    const as_region *g = map->region;
    uint64_t at = map_start(g);
    page_done(map);
    for (size_t i = 0; i < runs->count; i++) {
        const as_run *run = &runs->runs[i];
        set_pages(g, at, run->start, AS_CELL_ABSENT);
        if (!(run->flags & AS_PRESENT) || run->flags & AS_ZERO)
            set_pages(g, run->start, run->end, run->flags & AS_SWAPPED ? AS_CELL_SWAPPED : AS_CELL_ABSENT);
        at = run->end;
    }
    set_pages(g, at, map_end(g), AS_CELL_ABSENT);
}
