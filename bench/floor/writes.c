/*
 * The floor of writable segments: private anonymous memory filled from a file, whose first writes the kernel notes by itself
 * (WP_ASYNC), so that none of them calls anybody. A second thread flushes in a loop: PAGEMAP_SCAN takes the written pages and arms
 * them again in one step, pwrite brings them to the file, fdatasync makes them durable.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "floor.h"
#include "kernel.h"

enum { FILL = 64, REGIONS = 1024 };

static struct {
  uintptr_t base;
  size_t len;
  size_t page_size;
  int fd;
  int uffd;
  int pagemap;
  bool flushing;
  pthread_t thread;
  _Atomic bool stop;
  _Atomic uint64_t flushes; /* begun */
  uint64_t pages;           /* written by them */
} the;

int64_t floor_written(uintptr_t base, size_t len) {
  static struct floor_page_region regions[REGIONS];
  static int pagemap = -1;
  if (pagemap < 0) pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pagemap < 0) return -errno;
  int64_t bytes = 0;
  for (uintptr_t at = base; at < base + len;) {
    int count = floor_scan(pagemap, at, base + len, 0, regions, REGIONS, &at);
    if (count < 0) return count;
    for (int i = 0; i < count; i++) bytes += (int64_t)(regions[i].end - regions[i].start);
  }
  return bytes;
}

static void flush(void) {
  static struct floor_page_region regions[REGIONS];
  for (uintptr_t at = the.base; at < the.base + the.len;) {
    uint64_t flags = FLOOR_SCAN_REARM | FLOOR_SCAN_CHECK_ASYNC;
    int count = floor_scan(the.pagemap, at, the.base + the.len, flags, regions, REGIONS, &at);
    if (count < 0) floor_die("floor: PAGEMAP_SCAN failed\n");
    for (int i = 0; i < count; i++) {
      size_t len = regions[i].end - regions[i].start;
      off_t offset = (off_t)(regions[i].start - the.base);
      if (pwrite(the.fd, (void *)(uintptr_t)regions[i].start, len, offset) != (ssize_t)len) floor_die("floor: pwrite failed\n");
      the.pages += len / the.page_size;
    }
  }
  if (fdatasync(the.fd) != 0) floor_die("floor: fdatasync failed\n");
}

static void *flush_in_loop(void *unused) {
  (void)unused;
  while (!atomic_load(&the.stop)) {
    atomic_fetch_add(&the.flushes, 1);
    flush();
  }
  return NULL;
}

/* Opens every page with the bytes of the file, armed. */
static int fill(void) {
  size_t unit = FILL * the.page_size;
  char *scratch = aligned_alloc(the.page_size, unit);
  if (scratch == NULL) return -ENOMEM;
  int error = 0;
  for (size_t offset = 0; offset < the.len && error == 0; offset += unit) {
    struct uffdio_copy copy = {.dst = the.base + offset, .src = (uintptr_t)scratch, .len = unit, .mode = FLOOR_COPY_WP};
    if (pread(the.fd, scratch, unit, (off_t)offset) != (ssize_t)unit) error = -EIO;
    else if (ioctl(the.uffd, UFFDIO_COPY, &copy) != 0) error = -errno;
  }
  free(scratch);
  return error;
}

int floor_writes_close(void) {
  if (the.base == 0) return -EINVAL;
  munmap((void *)the.base, the.len);
  if (the.uffd >= 0) close(the.uffd);
  if (the.pagemap >= 0) close(the.pagemap);
  memset(&the, 0, sizeof the);
  return 0;
}

int floor_writes_open(size_t len, int fd, void **base) {
  if (the.base != 0) return -EBUSY;
  the.page_size = floor_page_size();
  if (len % (FILL * the.page_size) != 0) return -EINVAL;
  the.uffd = -1;
  void *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return -errno;
  the.base = (uintptr_t)memory;
  the.len = len;
  the.fd = fd;
  the.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  int error = the.pagemap < 0 ? -errno : 0;
  if (error == 0) {
    uint64_t features = FLOOR_FEATURE_SIGBUS | FLOOR_FEATURE_WP_ASYNC;
    error = floor_uffd_open(memory, len, features, FLOOR_REGISTER_MISSING | FLOOR_REGISTER_WP, &the.uffd);
  }
  if (error == 0) error = fill();
  if (error != 0) {
    floor_writes_close();
    return error;
  }
  *base = memory;
  return 0;
}

int floor_writes_flush_begin(void) {
  if (the.base == 0 || the.flushing) return -EINVAL;
  atomic_store(&the.stop, false);
  atomic_store(&the.flushes, 0);
  the.pages = 0;
  int error = -pthread_create(&the.thread, NULL, flush_in_loop, NULL);
  if (error != 0) return error;
  the.flushing = true;
  while (atomic_load(&the.flushes) < 2) usleep(100);
  return 0;
}

int64_t floor_writes_flushes(void) { return (int64_t)atomic_load(&the.flushes); }

int64_t floor_writes_flush_end(void) {
  if (!the.flushing) return -EINVAL;
  atomic_store(&the.stop, true);
  pthread_join(the.thread, NULL);
  the.flushing = false;
  flush();
  return (int64_t)the.pages;
}
