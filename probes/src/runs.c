#include "runs.h"

#include <errno.h>
#include <stdlib.h>

int runs_load(as_source *source, uint64_t start, uint64_t end, run_list *list)
{
    size_t cap = 1024;
    list->count = 0;
    list->runs = malloc(cap * sizeof *list->runs);
    if (!list->runs)
        return ENOMEM;
    while (start < end) {
        size_t got;
        uint64_t resume;
        int error = as_runs(source, start, end, list->runs + list->count, cap - list->count, &got, &resume);
        if (!error && resume <= start)
            error = EIO;
        if (error) {
            runs_free(list);
            return error;
        }
        list->count += got;
        start = resume;
        if (start < end) {
            as_run *more = realloc(list->runs, cap * 2 * sizeof *more);
            if (!more) {
                runs_free(list);
                return ENOMEM;
            }
            list->runs = more;
            cap *= 2;
        }
    }
    return 0;
}

void runs_free(run_list *list)
{
    free(list->runs);
    list->runs = NULL;
    list->count = 0;
}
