/*
 * A disk that fails: preloaded, it lets calls on the spool's files fail as the file named by
 * RELAY_TEST_FAULTS says, line by line: `write EIO`, `sync EIO`, `open EROFS`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int error_of(const char *name)
{
	if (!strcmp(name, "EIO"))
		return EIO;
	if (!strcmp(name, "ENOSPC"))
		return ENOSPC;
	if (!strcmp(name, "EROFS"))
		return EROFS;
	fprintf(stderr, "faulty_disk: what is `%s`?\n", name);
	abort();
}

/* The error that a call on a file of this path is to give now, or 0. */
static int fault_of(const char *call, const char *path)
{
	char text[256], *line, *rest = text;
	const char *faults = getenv("RELAY_TEST_FAULTS");
	/* The index in shared memory is no part of what is durable. */
	if (!faults || !strstr(path, "/spool.sqlite") || strstr(path, "-shm"))
		return 0;
	/* By number: `open` is ours. */
	long file = syscall(SYS_openat, AT_FDCWD, faults, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return 0;
	ssize_t length = read(file, text, sizeof text - 1);
	close(file);
	text[length > 0 ? length : 0] = 0;
	while ((line = strsep(&rest, "\n"))) {
		char *error = strchr(line, ' ');
		if (error && !strncmp(line, call, error - line))
			return error_of(error + 1);
	}
	return 0;
}

static int fails(const char *call, int file)
{
	char link[64], path[4096];
	snprintf(link, sizeof link, "/proc/self/fd/%d", file);
	ssize_t length = readlink(link, path, sizeof path - 1);
	path[length > 0 ? length : 0] = 0;
	int error = fault_of(call, path);
	if (error)
		errno = error;
	return error;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pwrite64(int file, const void *bytes, size_t length, off64_t at)
{
	return fails("write", file) ? -1 : NEXT(pwrite64)(file, bytes, length, at);
}

ssize_t pwrite(int file, const void *bytes, size_t length, off_t at)
{
	return fails("write", file) ? -1 : NEXT(pwrite)(file, bytes, length, at);
}

ssize_t write(int file, const void *bytes, size_t length)
{
	return fails("write", file) ? -1 : NEXT(write)(file, bytes, length);
}

int fdatasync(int file)
{
	return fails("sync", file) ? -1 : NEXT(fdatasync)(file);
}

int fsync(int file)
{
	return fails("sync", file) ? -1 : NEXT(fsync)(file);
}

static int open_if(const char *path, int flags, int mode)
{
	int error = (flags & O_ACCMODE) == O_RDONLY ? 0 : fault_of("open", path);
	if (error) {
		errno = error;
		return -1;
	}
	return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
	va_list rest;
	va_start(rest, flags);
	int mode = va_arg(rest, int);
	va_end(rest);
	return open_if(path, flags, mode);
}

int open(const char *path, int flags, ...)
{
	va_list rest;
	va_start(rest, flags);
	int mode = va_arg(rest, int);
	va_end(rest);
	return open_if(path, flags, mode);
}
