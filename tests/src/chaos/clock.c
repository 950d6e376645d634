/* A wall clock that a test moves for the programs that load this, and for no other: CLOCK_REALTIME plus the seconds
 * in the file that EW_CHAOS_CLOCK names. The file is mapped before a daemon confines itself. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *leap;

__attribute__((constructor)) static void map_leap(void) {
	const char *path = getenv("EW_CHAOS_CLOCK");
	int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (file < 0)
		return;
	void *at = mmap(NULL, sizeof *leap, PROT_READ, MAP_SHARED, file, 0);
	close(file);
	if (at != MAP_FAILED)
		leap = at;
}

int clock_gettime(clockid_t id, struct timespec *out) {
	static int (*real)(clockid_t, struct timespec *);
	if (!real)
		real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	int result = real ? real(id, out) : (int)syscall(SYS_clock_gettime, id, out);
	if (result == 0 && leap && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
		out->tv_sec += *leap;
	return result;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
	(void)zone;
	struct timespec now;
	int result = clock_gettime(CLOCK_REALTIME, &now);
	if (result == 0) {
		out->tv_sec = now.tv_sec;
		out->tv_usec = now.tv_nsec / 1000;
	}
	return result;
}

time_t time(time_t *out) {
	struct timespec now;
	if (clock_gettime(CLOCK_REALTIME, &now) != 0)
		return (time_t)-1;
	if (out)
		*out = now.tv_sec;
	return now.tv_sec;
}
