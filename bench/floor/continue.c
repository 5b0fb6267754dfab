/*
 * The floor of the `memfd` backend: pages that lie in the memfd already are opened by UFFDIO_CONTINUE, a batch of them with each call.
 * Nobody touches the region while that is timed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "floor.h"
#include "kernel.h"

static struct {
  uintptr_t base;
  size_t len;
  size_t page_size;
  int memfd;
  int uffd;
} the;

int floor_continue_close(void) {
  if (the.base == 0) return -EINVAL;
  munmap((void *)the.base, the.len);
  if (the.uffd >= 0) close(the.uffd);
  if (the.memfd >= 0) close(the.memfd);
  memset(&the, 0, sizeof the);
  return 0;
}

/* Writes the low byte of its number into each page of the memfd. */
static int fill(void) {
  char *page = malloc(the.page_size);
  if (page == NULL) return -ENOMEM;
  int error = 0;
  for (size_t offset = 0; offset < the.len && error == 0; offset += the.page_size) {
    memset(page, (int)(offset / the.page_size & 255), the.page_size);
    if (pwrite(the.memfd, page, the.page_size, (off_t)offset) != (ssize_t)the.page_size) error = -EIO;
  }
  free(page);
  return error;
}

int floor_continue_open(size_t len, void **base) {
  if (the.base != 0) return -EBUSY;
  the.page_size = floor_page_size();
  the.uffd = -1;
  int memfd = memfd_create("floor", MFD_CLOEXEC);
  if (memfd < 0) return -errno;
  void *memory = ftruncate(memfd, (off_t)len) == 0 ? mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0) : MAP_FAILED;
  if (memory == MAP_FAILED) {
    int error = -errno;
    close(memfd);
    return error;
  }
  the.base = (uintptr_t)memory;
  the.len = len;
  the.memfd = memfd;
  int error = fill();
  if (error == 0) {
    uint64_t features = FLOOR_FEATURE_SIGBUS | FLOOR_FEATURE_MINOR_SHMEM;
    error = floor_uffd_open(memory, len, features, FLOOR_REGISTER_MISSING | FLOOR_REGISTER_MINOR, &the.uffd);
  }
  if (error != 0) {
    floor_continue_close();
    return error;
  }
  *base = memory;
  return 0;
}

int floor_continue_all(size_t batch) {
  size_t unit = batch * the.page_size;
  for (uintptr_t at = the.base; at < the.base + the.len; at += unit) {
    size_t left = the.base + the.len - at;
    struct floor_continue arg = {.range = {.start = at, .len = left < unit ? left : unit}};
    if (ioctl(the.uffd, FLOOR_CONTINUE, &arg) != 0) return -errno;
  }
  return 0;
}

/* The memfd keeps the pages. */
int floor_continue_shut(void) { return madvise((void *)the.base, the.len, MADV_DONTNEED) == 0 ? 0 : -errno; }
