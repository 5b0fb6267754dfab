/*
 * A process whose memory another one pages: descriptor 3 is a Unix socket. Sends the address of one registered page with its userfaultfd, forks
 * a child that reads the page, moves the page, and exits with what the child read.
 */
#define _GNU_SOURCE
#include "hand-over.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

int main(void)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), status;
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP };
	must(fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0);
	char *memory = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *place = mmap(NULL, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register range = { .range = { (uintptr_t)memory, page }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	must(ioctl(fd, UFFDIO_REGISTER, &range) == 0);

	uint64_t words[2] = { (uintptr_t)memory, (uintptr_t)place };
	hand_over(fd, words, sizeof words);

	alarm(30);
	pid_t child = fork(); /* returns when the event has been read */
	if (child == 0)
		_exit(*(volatile unsigned char *)memory);
	must(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
	must(mremap(memory, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place);
	return WEXITSTATUS(status);
}
