/* A process to ask, in a state chosen by its first argument. It prints one JSON line when that state is reached and one when
 * stdin has ended and the state was left again; then it exits with 0, or with 1 when something in it was harmed.
 *
 *   idle N     N threads with arenas of their own wait; one waits in epoll_wait and counts EINTR
 *   arena      a thread is inside malloc_stats and holds the lock of arena 0 (and that of the stderr stream)
 *   stderr     a thread holds the lock of stderr
 *   inside     the only thread there ever was stands in malloc, below a signal handler
 *   altstack   the same, the handler on a stack of its own
 *   vfork      a thread waits in vfork for its child
 *   seccomp    like idle 1, the main thread with a filter that allows everything
 *   masked     like idle 1, the main thread with all signals blocked and a handler for SIGSEGV
 *   alarm      the only thread waits, and a handler on top of whatever it does uses malloc every 2 ms
 *   storm N    N threads allocate and free without end
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BLOCKS = 64, STACK = 1 << 16, KEPT_ERRNO = 91, MOST_THREADS = 64 };

static atomic_long interruptions, rounds;
static atomic_int harmed, leaving;
static int gate[2], arrival[2], next_descriptor;
static char ready_line[4096];
static char *guarded;

static void say(const char *text)
{
	if (write(STDOUT_FILENO, text, strlen(text)) < 0)
		_exit(1);
}

/* The addresses that the program itself sees, as the truth for whoever looks them up from outside. */
static void prepare_ready_line(void)
{
	static const char *const names[] = {"malloc", "free", "malloc_info", "malloc_stats", "syscall", "__errno_location",
					    "_IO_2_1_stderr_", NULL};
	char *end = ready_line + sprintf(ready_line, "{\"ready\": true, \"symbols\": {\"stderr\": %lu", (unsigned long)&stderr);

	for (int i = 0; names[i]; i++) {
		void *address = dlsym(RTLD_DEFAULT, names[i]);
		if (address)
			end += sprintf(end, ", \"%s\": %lu", names[i], (unsigned long)address);
	}
	strcpy(end, "}}\n");
}

static void wait_for_end_of_input(void)
{
	char byte;

	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
}

static void arrive(void)
{
	if (write(arrival[1], "", 1) != 1)
		_exit(1);
}

static void wait_for_arrivals(int count)
{
	char byte;

	while (count-- > 0)
		if (read(arrival[0], &byte, 1) != 1)
			_exit(1);
}

static void wait_at_gate(void)
{
	char byte;

	if (read(gate[0], &byte, 1) != 0)
		atomic_store(&harmed, 1);
}

/* Leaves free chunks between used ones, in whichever arena the thread has. */
static void use_heap(void)
{
	char *blocks[BLOCKS];

	for (int i = 0; i < BLOCKS; i++) {
		blocks[i] = malloc(600 + 100 * i);
		memset(blocks[i], i, 600 + 100 * i);
	}
	for (int i = 0; i < BLOCKS; i += 2)
		free(blocks[i]);
	for (int i = 1; i < BLOCKS; i += 2)
		if (blocks[i][0] != i || blocks[i][599] != i)
			atomic_store(&harmed, 1);
}

static void *idle(void *unused)
{
	use_heap();
	arrive();
	wait_at_gate();
	return unused;
}

static void *waits_in_epoll(void *unused)
{
	struct epoll_event event = {.events = EPOLLHUP};
	int set = epoll_create1(0);

	epoll_ctl(set, EPOLL_CTL_ADD, gate[0], &event);
	arrive();
	while (epoll_wait(set, &event, 1, -1) < 0) {
		if (errno != EINTR)
			atomic_store(&harmed, 1);
		atomic_fetch_add(&interruptions, 1);
	}
	close(set);
	return unused;
}

static void *storms(void *seed)
{
	unsigned state = (unsigned)(unsigned long)seed;
	char *blocks[BLOCKS] = {0};

	arrive();
	while (!atomic_load(&leaving)) {
		int i = rand_r(&state) % BLOCKS;
		size_t size = 1 + rand_r(&state) % 9000;

		free(blocks[i]);
		blocks[i] = malloc(size);
		memset(blocks[i], i, size);
		atomic_fetch_add(&rounds, 1);
	}
	return NULL;
}

/* That the next free descriptor is in use shows that somebody else makes calls in this thread meanwhile. */
static void counting_handler(int number)
{
	static char *blocks[BLOCKS];
	int kept = errno, i = (int)(atomic_fetch_add(&rounds, 1) % BLOCKS);

	(void)number;
	if (fcntl(next_descriptor, F_GETFD) >= 0)
		atomic_store(&harmed, 1);
	free(blocks[i]);
	blocks[i] = malloc(600 + 100 * i);
	memset(blocks[i], i, 600 + 100 * i);
	errno = kept;
}

static ssize_t blocked_write(void *cookie, const char *text, size_t size)
{
	static atomic_int came;

	(void)cookie;
	(void)text;
	if (!atomic_exchange(&came, 1)) {
		arrive();
		wait_at_gate();
	}
	return (ssize_t)size;
}

/* malloc_stats prints while it holds the arena's lock: so it holds it for as long as that write takes. */
static void *holds_arena(void *unused)
{
	cookie_io_functions_t functions = {.write = blocked_write};
	FILE *before = stderr, *blocked = fopencookie(NULL, "w", functions);

	setvbuf(blocked, NULL, _IONBF, 0);
	stderr = blocked;
	malloc_stats();
	stderr = before;
	fclose(blocked);
	return unused;
}

static void *holds_stderr(void *unused)
{
	flockfile(stderr);
	arrive();
	wait_at_gate();
	funlockfile(stderr);
	return unused;
}

/* The child shares our memory, and waits at the gate; its parent cannot move before. */
static void *waits_in_vfork(void *unused)
{
	pid_t child = vfork();

	if (!child) {
		close(gate[1]); /* its own descriptor: the gate opens when the last one is closed */
		arrive();
		wait_at_gate();
		_exit(0);
	}
	if (child < 0 || waitpid(child, NULL, 0) != child)
		atomic_store(&harmed, 1);
	return unused;
}

static void allow_everything_by_filter(void)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = {.len = 1, .filter = &allow};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		_exit(2);
}

static void mask_all_signals(void)
{
	struct sigaction action = {.sa_handler = counting_handler};
	sigset_t all;

	sigfillset(&all);
	sigaction(SIGSEGV, &action, NULL);
	sigprocmask(SIG_SETMASK, &all, NULL);
}

static void check_mask_and_handler(void)
{
	struct sigaction action;
	sigset_t blocked;

	sigprocmask(SIG_SETMASK, NULL, &blocked);
	sigaction(SIGSEGV, NULL, &action);
	if (!sigismember(&blocked, SIGSEGV) || !sigismember(&blocked, SIGALRM) || action.sa_handler != counting_handler)
		atomic_store(&harmed, 1);
}

/* Such a handler is sound as long as it interrupts nothing but waiting. */
static void wait_under_alarms(void)
{
	struct sigaction action = {.sa_handler = counting_handler, .sa_flags = SA_RESTART};
	struct itimerval often = {{0, 2000}, {0, 2000}}, never = {0};

	use_heap();
	next_descriptor = dup(STDIN_FILENO);
	close(next_descriptor);
	sigaction(SIGALRM, &action, NULL);
	say(ready_line);
	setitimer(ITIMER_REAL, &often, NULL);
	wait_for_end_of_input();
	setitimer(ITIMER_REAL, &never, NULL);
}

/* Runs on top of malloc, which has just touched a free chunk's page. */
static void handler(int number)
{
	(void)number;
	mprotect(guarded, 4096, PROT_READ | PROT_WRITE);
	say(ready_line);
	wait_for_end_of_input();
	atomic_fetch_add(&rounds, 1);
}

static void stand_inside_malloc(int own_stack)
{
	stack_t stack = {.ss_sp = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
			 .ss_size = STACK};
	struct sigaction action = {.sa_handler = handler, .sa_flags = own_stack ? SA_ONSTACK : 0};
	char *free_chunk = malloc(1 << 16), *above = malloc(100);
	char *volatile found; /* or the compiler leaves the call out */

	sigaltstack(&stack, NULL);
	sigaction(SIGSEGV, &action, NULL);
	guarded = (char *)((unsigned long)free_chunk & ~4095ul);
	free(free_chunk);
	mprotect(guarded, 4096, PROT_NONE);
	found = malloc(5000);
	memset(found, 1, 5000);
	free(found);
	free(above);
	if (atomic_load(&rounds) != 1)
		atomic_store(&harmed, 1);
}

int main(int argc, char **argv)
{
	const char *state = argc > 1 ? argv[1] : "idle";
	int count = argc > 2 ? atoi(argv[2]) : 1, started = 0;
	pthread_t threads[MOST_THREADS + 1];
	void *(*body)(void *) = idle;

	if (count > MOST_THREADS || pipe(gate) || pipe(arrival))
		return 2;
	prepare_ready_line();
	if (!strcmp(state, "inside") || !strcmp(state, "altstack")) {
		stand_inside_malloc(!strcmp(state, "altstack"));
	} else if (!strcmp(state, "alarm")) {
		wait_under_alarms();
	} else {
		if (!strcmp(state, "arena"))
			body = holds_arena;
		else if (!strcmp(state, "stderr"))
			body = holds_stderr;
		else if (!strcmp(state, "vfork"))
			body = waits_in_vfork;
		else if (!strcmp(state, "storm"))
			body = storms;
		while (started < count) {
			pthread_create(&threads[started], NULL, body, (void *)(long)started);
			started++;
		}
		if (body == idle)
			pthread_create(&threads[started++], NULL, waits_in_epoll, NULL);
		wait_for_arrivals(started);
		if (!strcmp(state, "seccomp"))
			allow_everything_by_filter();
		if (!strcmp(state, "masked"))
			mask_all_signals();
		errno = KEPT_ERRNO;
		say(ready_line);
		wait_for_end_of_input();
		if (!strcmp(state, "masked"))
			check_mask_and_handler();
		if (errno != KEPT_ERRNO)
			atomic_store(&harmed, 1);
		atomic_store(&leaving, 1);
		close(gate[1]);
		while (started > 0)
			pthread_join(threads[--started], NULL);
	}
	use_heap();
	sprintf(ready_line, "{\"done\": true, \"harmed\": %d, \"interruptions\": %ld, \"rounds\": %ld}\n",
		atomic_load(&harmed), atomic_load(&interruptions), atomic_load(&rounds));
	say(ready_line);
	return atomic_load(&harmed);
}
