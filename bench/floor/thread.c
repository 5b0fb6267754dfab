/*
 * The floor of stores written in JavaScript: a userfaultfd that a C thread polls and reads. It fills a scratch page with the low
 * byte of the page's number and copies it in, which wakes the faulting thread. Whether both share a CPU is up to the caller's affinity.
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "floor.h"

static struct {
  uintptr_t base;
  size_t len;
  size_t page_size;
  char *scratch;
  int uffd;
  int stop; /* eventfd: written to end the thread */
  pthread_t thread;
} the;

static void *serve(void *unused) {
  (void)unused;
  struct pollfd polled[2] = {{.fd = the.uffd, .events = POLLIN}, {.fd = the.stop, .events = POLLIN}};
  for (;;) {
    if (poll(polled, 2, -1) < 0) continue;
    if (polled[1].revents != 0) return NULL;
    struct uffd_msg message;
    if (read(the.uffd, &message, sizeof message) != (ssize_t)sizeof message) continue;
    if (message.event != UFFD_EVENT_PAGEFAULT) continue;
    uintptr_t page = message.arg.pagefault.address & ~(uintptr_t)(the.page_size - 1);
    memset(the.scratch, (int)((page - the.base) / the.page_size & 255), the.page_size);
    struct uffdio_copy copy = {.dst = page, .src = (uintptr_t)the.scratch, .len = the.page_size};
    /* EEXIST: a signal made the faulting thread ask twice. */
    if (ioctl(the.uffd, UFFDIO_COPY, &copy) != 0 && errno != EEXIST) floor_die("floor: UFFDIO_COPY failed\n");
  }
}

static void release(void) {
  /* Unmapped first: closing a userfaultfd over mapped memory would let waiters read zeroes. */
  if (the.base != 0) munmap((void *)the.base, the.len);
  if (the.uffd >= 0) close(the.uffd);
  if (the.stop >= 0) close(the.stop);
  free(the.scratch);
  memset(&the, 0, sizeof the);
}

int floor_thread_open(size_t len, void **base) {
  if (the.base != 0) return -EBUSY;
  the.len = len;
  the.page_size = floor_page_size();
  the.uffd = -1;
  the.stop = -1;
  void *memory = mmap(NULL, len, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return -errno;
  the.base = (uintptr_t)memory;
  int error = floor_uffd_open(memory, len, 0, UFFDIO_REGISTER_MODE_MISSING, &the.uffd);
  if (error == 0) {
    the.scratch = aligned_alloc(the.page_size, the.page_size);
    the.stop = eventfd(0, EFD_CLOEXEC);
    if (the.scratch == NULL || the.stop < 0) error = -ENOMEM;
  }
  if (error == 0) error = -pthread_create(&the.thread, NULL, serve, NULL);
  if (error != 0) {
    release();
    return error;
  }
  *base = memory;
  return 0;
}

int floor_thread_close(void) {
  if (the.base == 0) return -EINVAL;
  uint64_t one = 1;
  if (write(the.stop, &one, sizeof one) != (ssize_t)sizeof one) return -errno;
  pthread_join(the.thread, NULL);
  release();
  return 0;
}
