/* Sockets of another process's network namespace. */
#ifndef ALLOCSCOPE_NETNS_H
#define ALLOCSCOPE_NETNS_H

/* A socket in the network namespace that namespace_fd stands for (an open /proc/PID/ns/net). A thread of its own enters the
 * namespace, opens the socket and ends: a socket stays where it was opened, and no other thread ever leaves its namespace.
 * EPERM: entering needs CAP_SYS_ADMIN there and here (setns(2)). */
int as_socket_in(int namespace_fd, int domain, int type, int protocol, int *fd);

#endif
