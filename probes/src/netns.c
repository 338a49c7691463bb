#define _GNU_SOURCE
#include "netns.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>

typedef struct request {
    int namespace_fd, domain, type, protocol;
    int fd, error;
} request;

static void *enter_and_open(void *argument)
{
    request *asked = argument;
    if (setns(asked->namespace_fd, CLONE_NEWNET) < 0) {
        asked->error = errno;
        return NULL;
    }
    asked->fd = socket(asked->domain, asked->type, asked->protocol);
    asked->error = asked->fd < 0 ? errno : 0;
    return NULL;
}

int as_socket_in(int namespace_fd, int domain, int type, int protocol, int *fd)
{
    request asked = {namespace_fd, domain, type, protocol, -1, 0};
    pthread_t thread;
    int error = pthread_create(&thread, NULL, enter_and_open, &asked);
    if (!error)
        error = pthread_join(thread, NULL);
    if (!error)
        error = asked.error;
    if (!error)
        *fd = asked.fd;
    return error;
}
