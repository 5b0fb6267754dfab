/*
 * The floor of single kernel calls: the same ioctls on a registered region, one page a call, from a loop in C. Nobody touches the region,
 * so nobody waits in it: what is timed is the call.
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "floor.h"

static struct {
  uintptr_t base;
  size_t len;
  size_t page_size;
  char *source;
  int uffd;
} the;

int floor_calls_close(void) {
  if (the.base == 0) return -EINVAL;
  munmap((void *)the.base, the.len);
  if (the.uffd >= 0) close(the.uffd);
  free(the.source);
  memset(&the, 0, sizeof the);
  return 0;
}

int floor_calls_open(size_t len) {
  if (the.base != 0) return -EBUSY;
  the.page_size = floor_page_size();
  the.uffd = -1;
  void *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return -errno;
  the.base = (uintptr_t)memory;
  the.len = len;
  int error = floor_uffd_open(memory, len, 0, UFFDIO_REGISTER_MODE_MISSING, &the.uffd);
  the.source = aligned_alloc(the.page_size, the.page_size);
  if (error == 0 && the.source == NULL) error = -ENOMEM;
  if (error != 0) {
    floor_calls_close();
    return error;
  }
  memset(the.source, 'A', the.page_size);
  return 0;
}

int floor_calls_drop(void) { return madvise((void *)the.base, the.len, MADV_DONTNEED) == 0 ? 0 : -errno; }

int floor_calls_copy(void) {
  for (uintptr_t page = the.base; page < the.base + the.len; page += the.page_size) {
    struct uffdio_copy copy = {.dst = page, .src = (uintptr_t)the.source, .len = the.page_size};
    if (ioctl(the.uffd, UFFDIO_COPY, &copy) != 0) return -errno;
  }
  return 0;
}

int floor_calls_wake(void) {
  for (uintptr_t page = the.base; page < the.base + the.len; page += the.page_size) {
    struct uffdio_range range = {.start = page, .len = the.page_size};
    if (ioctl(the.uffd, UFFDIO_WAKE, &range) != 0) return -errno;
  }
  return 0;
}
