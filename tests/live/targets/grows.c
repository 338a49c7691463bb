/* Grows on command, by amounts that it knows. `l N`: allocates N chunks of 1000 bytes and keeps them. `f N`: frees every second one of
 * the N oldest kept, so that their memory stays resident between live neighbours. `c TEXT`: keeps a copy of TEXT in the heap, one in a variable and one in
 * thread-local storage. Each
 * command is answered with the live bytes and chunks that it added or took away, as chunk sizes. Ends at EOF. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 100000, WANTED = 1000 };

static char *kept[MOST];
static char in_data[256];
static _Thread_local char in_thread[256];
static size_t kept_count;

static size_t chunk_size(void *pointer)
{
    return malloc_usable_size(pointer) + sizeof(size_t);
}

static size_t grow(size_t count)
{
    size_t added = 0;
    for (size_t i = 0; i < count && kept_count < MOST; i++) {
        char *pointer = malloc(WANTED);
        if (!pointer)
            exit(1);
        memset(pointer, 'x', WANTED);
        kept[kept_count++] = pointer;
        added += chunk_size(pointer);
    }
    return added;
}

static size_t give_back(size_t count)
{
    size_t freed = 0;
    for (size_t i = 0; i < count && i < kept_count; i += 2) {
        if (!kept[i])
            continue;
        freed += chunk_size(kept[i]);
        free(kept[i]);
        kept[i] = NULL;
    }
    return freed;
}

int main(void)
{
    static char line[256];
    static char *volatile copy;
    setvbuf(stdin, NULL, _IONBF, 0);
    setvbuf(stdout, NULL, _IONBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        size_t changed = 0;
        if (line[0] == 'l')
            changed = grow(strtoul(line + 1, NULL, 10));
        else if (line[0] == 'f')
            changed = give_back(strtoul(line + 1, NULL, 10));
        else if (line[0] == 'c') {
            copy = strdup(line + 2);
            memcpy(in_data, line, sizeof in_data);
            memcpy(in_thread, line, sizeof in_thread);
            changed = copy ? chunk_size(copy) : 0;
        }
        printf("%zu\n", changed + (in_data[0] != in_thread[0]));
    }
    return 0;
}
