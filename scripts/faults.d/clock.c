/*
 * A clock that is wrong: preloaded, it puts the time of day ahead of what it is by as many
 * nanoseconds as the file named by CLOCK_AHEAD says, in eight bytes, from one moment to the next.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define SECOND 1000000000LL

static int (*real)(clockid_t, struct timespec *);
static const volatile long long *ahead;

__attribute__((constructor)) static void start(void)
{
	int file = open(getenv("CLOCK_AHEAD"), O_RDONLY | O_CLOEXEC);
	ahead = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
	real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	if (ahead == MAP_FAILED || !real)
		abort();
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	if (!real)
		start();
	int failed = real(clock, now);
	if (failed || clock != CLOCK_REALTIME)
		return failed;
	long long nanoseconds = now->tv_sec * SECOND + now->tv_nsec + *ahead;
	now->tv_sec = nanoseconds / SECOND;
	now->tv_nsec = nanoseconds % SECOND;
	return 0;
}
