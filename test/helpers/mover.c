/*
 * A process whose memory another one pages: descriptor 3 is a Unix socket. Sends the addresses of two registered pages and of a place with its
 * userfaultfd, which has the features of argv[1] (a number). Then, by argv[2]: "fork": a child reads the first page, and the exit code is what
 * it read. "move": moves the first page to the place, and the exit code is what it reads there. "wait": sleeps.
 */
#define _GNU_SOURCE
#include "hand-over.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static int forked_read(volatile unsigned char *memory)
{
	int status;
	pid_t child = fork();
	if (child == 0)
		_exit(*memory);
	must(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
	return WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
	char byte, *what = argc > 2 ? argv[2] : "";
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = { .api = UFFD_API, .features = strtoull(argc > 1 ? argv[1] : "0", NULL, 0) };
	must(fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0);
	char *memory = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *place = mmap(NULL, 4 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register range = { .range = { (uintptr_t)memory, 2 * page }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	must(ioctl(fd, UFFDIO_REGISTER, &range) == 0);
	uint64_t words[2] = { (uintptr_t)memory, (uintptr_t)place };
	hand_over(fd, words, sizeof words);
	close(fd);

	alarm(30);
	struct pollfd order = { .fd = 3, .events = POLLIN }; /* the other side may have made it non-blocking */
	must(poll(&order, 1, -1) == 1 && read(3, &byte, 1) == 1);
	if (strcmp(what, "fork") == 0)
		return forked_read((unsigned char *)memory);
	if (strcmp(what, "wait") == 0)
		return pause();
	must(mremap(memory, 2 * page, 3 * page, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place);
	return *(volatile unsigned char *)(place + (what[0] == 't' ? 2 * page : 0)); /* "tail": what was added */
}
