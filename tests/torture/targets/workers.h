/* What the targets of the torture test share: workers that go round and check what they get, and the protocol.
 *
 * One JSON line when ready; for every line on stdin one JSON line of counts, as soon as each worker has gone round twice more;
 * end at EOF. A worker counts what it checked and what was wrong; an interruption is counted, and is an error where the kernel
 * restarts the call by itself. */
#ifndef TORTURE_WORKERS_H
#define TORTURE_WORKERS_H

#include <stdatomic.h>
#include <stdint.h>

typedef struct worker {
    const char *name;
    void (*round)(struct worker *);
    int may_be_interrupted;
    atomic_long rounds, checks, errors, interruptions;
    atomic_int tid;
    int number;
} worker;

uint64_t now_ns(void);
void expect(worker *w, int holds);
/* A call that failed with EINTR: true, and counted. */
int interrupted(worker *w, long got, int error);
/* Runs each worker in a thread of its own, and the protocol in this one. */
int run_workers(worker *workers, int count);
/* One thread alone: goes round, and looks at stdin between two rounds for some milliseconds. */
int run_alone(worker *w);

#endif
