/* A heap held by one object near its end, as `pins` must name it: below it COUNT free chunks that were written to; a global variable,
 * a thread's stack and a node low in the heap point at it, and a global variable points at the node. Says where everything
 * lies, then ready; frees the object when told so, says done, and ends at EOF. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 2000, SIZE = 16000, PIN_SIZE = 3000 };

/* What the compiler makes of a class shop::Order with a virtual function. */
static int total(void)
{
    return 3;
}
void *_ZTVN4shop5OrderE[4] = {NULL, NULL, (void *)total, (void *)total};

struct node {
    long key;
    char *order;
};

char *last_order;
struct node *cache_head;

static pthread_mutex_t until_free = PTHREAD_MUTEX_INITIALIZER;

static void *holds(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&until_free);
    char *volatile mine = last_order;
    puts("ready");
    for (int said = 0; said != 'f' && said != EOF;)
        said = getchar();
    return mine;
}

int main(void)
{
    static void *slots[COUNT];
    pthread_t thread;
    setvbuf(stdout, NULL, _IONBF, 0);
    pthread_mutex_lock(&until_free);
    if (pthread_create(&thread, NULL, holds, NULL))
        return 1;
    struct node *node = malloc(sizeof *node);
    for (int i = 0; i < COUNT; i++)
        memset(slots[i] = malloc(SIZE), 1, SIZE);
    char *order = malloc(PIN_SIZE);
    memset(order, 0, PIN_SIZE);
    *(void **)order = &_ZTVN4shop5OrderE[2];
    *node = (struct node){7, order + 8};
    cache_head = node;
    last_order = order;
    for (int i = 0; i < COUNT; i++) {
        free(slots[i]);
        slots[i] = NULL;
    }
    printf("{\"order\": %lu, \"size\": %d, \"node\": %lu, \"free_bytes\": %ld}\n", (unsigned long)order, PIN_SIZE,
           (unsigned long)node, (long)COUNT * (SIZE + 16));
    pthread_mutex_unlock(&until_free);
    pthread_join(thread, NULL);
    free(order);
    puts("done");
    while (getchar() != EOF)
        ;
    return 0;
}
