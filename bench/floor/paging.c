/*
 * The floor of `pagefault paging`: a program of its own, one thread in each of two processes, not part of the addon. A child maps pages,
 * registers them with a userfaultfd of its own and passes that to its parent over a Unix socket; the parent fills each page that the child
 * touches with the next letter of the alphabet. The child reads four bytes of each page and checks them.
 *
 * Usage: paging PAGES. One line of JSON on stdout; on failure a sentence on stderr and exit code 1.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdnoreturn.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434 /* 5.3 */
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1 /* 5.11 */
#endif

enum { LETTERS = 26, MAX_PAGES = 1 << 24 };

static noreturn void fail(const char *what) {
  fprintf(stderr, "floor: %s: %s\n", what, errno == 0 ? "unexpected" : strerror(errno));
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* --- the child --- */

/* Serves faults of the kernel too where the process may have that, else those of user space only. */
static int open_userfaultfd(void) {
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  if (fd < 0 && errno == EPERM) fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  if (fd < 0) fail("userfaultfd is refused");
  struct uffdio_api api = {.api = UFFD_API};
  if (ioctl(fd, UFFDIO_API, &api) != 0) fail("UFFDIO_API is refused");
  return fd;
}

static void send_descriptor(int socket, int fd) {
  char byte = 0;
  struct iovec bytes = {.iov_base = &byte, .iov_len = 1};
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(header), &fd, sizeof fd);
  if (sendmsg(socket, &message, MSG_NOSIGNAL) != 1) fail("the userfaultfd cannot be sent");
}

/* Keeps its own descriptor: without it the end of the parent would let it read zeroes. Instead it ends with the parent. */
static noreturn void run_child(int socket, size_t pages, size_t page_size) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  size_t len = pages * page_size;
  void *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("the pages cannot be mapped");
  int uffd = open_userfaultfd();
  struct uffdio_register reg = {.range = {.start = (uintptr_t)memory, .len = len}, .mode = UFFDIO_REGISTER_MODE_MISSING};
  if (ioctl(uffd, UFFDIO_REGISTER, &reg) != 0) fail("UFFDIO_REGISTER is refused");
  send_descriptor(socket, uffd);
  const volatile char *bytes = memory;
  for (size_t page = 0; page < pages; page++) {
    char expected = (char)('A' + page % LETTERS);
    for (size_t offset = 0x00f; offset < 0x1000; offset += 0x400) {
      if (bytes[page * page_size + offset] == expected) continue;
      errno = 0;
      fail("a page holds the wrong letter");
    }
  }
  _exit(0);
}

/* --- the parent --- */

static int receive_descriptor(int socket) {
  char byte;
  struct iovec bytes = {.iov_base = &byte, .iov_len = 1};
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1) fail("the child sent no userfaultfd");
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  if (header == NULL || header->cmsg_type != SCM_RIGHTS) fail("the child's message holds no descriptor");
  int fd;
  memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return fd;
}

/* Serves faults until the child has ended. Returns how many; service[i] is the time from poll's return to that of UFFDIO_COPY. */
static size_t serve(int uffd, int child, size_t page_size, uint64_t *service, size_t max) {
  char *source = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (source == MAP_FAILED) fail("there is no memory for a page");
  struct pollfd polled[2] = {{.fd = uffd, .events = POLLIN}, {.fd = child, .events = POLLIN}};
  size_t faults = 0;
  for (;;) {
    if (poll(polled, 2, -1) < 0) {
      if (errno == EINTR) continue;
      fail("poll");
    }
    uint64_t readable = now_ns();
    if ((polled[0].revents & POLLIN) == 0) {
      if (polled[1].revents != 0) return faults;
      continue;
    }
    struct uffd_msg message;
    if (read(uffd, &message, sizeof message) != (ssize_t)sizeof message) {
      if (errno == EAGAIN) continue;
      fail("the userfaultfd cannot be read");
    }
    if (message.event != UFFD_EVENT_PAGEFAULT || faults == max) fail("an event that nobody asked for");
    memset(source, (int)('A' + faults % LETTERS), page_size);
    uint64_t page = message.arg.pagefault.address & ~(uint64_t)(page_size - 1);
    struct uffdio_copy copy = {.dst = page, .src = (uintptr_t)source, .len = page_size};
    /* EEXIST: a signal made the child ask twice. */
    if (ioctl(uffd, UFFDIO_COPY, &copy) != 0) {
      if (errno == EEXIST) continue;
      fail("UFFDIO_COPY");
    }
    service[faults++] = now_ns() - readable;
  }
}

static int ascending(const void *left, const void *right) {
  uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
  return (a > b) - (a < b);
}

/* The smallest value that at least `per_mille` of a thousand values do not exceed. */
static unsigned long long percentile(const uint64_t *sorted, size_t count, size_t per_mille) {
  size_t rank = (count * per_mille + 999) / 1000;
  return sorted[rank == 0 ? 0 : rank - 1];
}

static void report(size_t pages, uint64_t *service, size_t faults, uint64_t elapsed_ns) {
  qsort(service, faults, sizeof *service, ascending);
  printf("{\"pages\":%zu,\"faults\":%zu,\"elapsedMs\":%.3f,", pages, faults, (double)elapsed_ns / 1e6);
  printf("\"serviceNs\":{\"p50\":%llu,\"p99\":%llu,\"p999\":%llu,\"max\":%llu}}\n", percentile(service, faults, 500),
         percentile(service, faults, 990), percentile(service, faults, 999), percentile(service, faults, 1000));
}

int main(int argc, char **argv) {
  size_t pages = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
  if (pages == 0 || pages > MAX_PAGES) {
    fprintf(stderr, "Usage: paging PAGES (1 to %d)\n", MAX_PAGES);
    return 1;
  }
  size_t page_size = (size_t)sysconf(_SC_PAGESIZE);
  uint64_t *service = calloc(pages, sizeof *service);
  int sockets[2];
  if (service == NULL || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) fail("there is no memory, or no socket");

  uint64_t begin = now_ns();
  pid_t pid = fork();
  if (pid < 0) fail("fork");
  if (pid == 0) run_child(sockets[1], pages, page_size);
  close(sockets[1]);
  int child = (int)syscall(SYS_pidfd_open, pid, 0);
  if (child < 0) fail("pidfd_open");
  int uffd = receive_descriptor(sockets[0]);
  size_t faults = serve(uffd, child, page_size, service, pages);
  int status;
  if (waitpid(pid, &status, 0) != pid) fail("waitpid");
  uint64_t elapsed = now_ns() - begin;
  errno = 0;
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail("the child did not end as it should");
  if (faults != pages) fail("the number of faults is not that of the pages");
  report(pages, service, faults, elapsed);
  return 0;
}
