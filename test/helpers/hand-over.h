/* For programs whose memory another one pages: their userfaultfd goes to the other side of descriptor 3, a Unix socket. */
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void must(int ok)
{
	if (!ok)
		_exit(100);
}

/* Sends it with what the other side is to know. */
static void hand_over(int fd, uint64_t *words, size_t len)
{
	struct iovec part = { words, len };
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { .bytes = { 0 } };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	must(sendmsg(3, &message, 0) == (ssize_t)len);
}
