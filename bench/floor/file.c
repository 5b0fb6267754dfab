/*
 * The floors of bytes that go back to a file, without any paging: pwrite and fdatasync from an ordinary buffer; and a file that is read,
 * modified and written a buffer at a time.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "floor.h"

enum { PIECE = 1 << 20 }; /* bytes of one pwrite where they lie side by side: more at a time is not faster */

void floor_increment(uint64_t *words, size_t len) {
  for (size_t i = 0; i < len / sizeof *words; i++) words[i]++;
}

int floor_flush(int fd, const uint8_t *bytes, size_t len, size_t unit, size_t stride) {
  if (unit == stride) unit = stride = PIECE;
  for (size_t offset = 0; offset < len; offset += stride) {
    size_t piece = len - offset < unit ? len - offset : unit;
    ssize_t written = pwrite(fd, bytes + offset, piece, (off_t)offset);
    if (written != (ssize_t)piece) return written < 0 ? -errno : -EIO;
  }
  return fdatasync(fd) == 0 ? 0 : -errno;
}

/* --- read, modify, write --- */

static struct {
  int fd;
  size_t len;
  size_t capacity; /* of the buffer */
  uint8_t *buffer;
  off_t held;      /* offset of what is in the buffer, modified and not yet written; -1: nothing */
} the = {.held = -1};

static int write_held(void) {
  if (the.held < 0) return 0;
  if (pwrite(the.fd, the.buffer, the.capacity, the.held) != (ssize_t)the.capacity) return -EIO;
  the.held = -1;
  return 0;
}

int floor_rewrite_open(int fd, size_t len, size_t capacity) {
  if (the.buffer != NULL) return -EBUSY;
  if (capacity == 0 || len % capacity != 0) return -EINVAL;
  void *memory = mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) return -errno;
  the.fd = fd;
  the.len = len;
  the.capacity = capacity;
  the.buffer = memory;
  return 0;
}

int floor_rewrite_scan(void) {
  if (the.buffer == NULL) return -EINVAL;
  for (off_t offset = 0; offset < (off_t)the.len; offset += (off_t)the.capacity) {
    int error = write_held();
    if (error != 0) return error;
    if (pread(the.fd, the.buffer, the.capacity, offset) != (ssize_t)the.capacity) return -EIO;
    floor_increment((uint64_t *)(void *)the.buffer, the.capacity);
    the.held = offset;
  }
  return 0;
}

int floor_rewrite_close(void) {
  if (the.buffer == NULL) return -EINVAL;
  int error = write_held();
  if (error == 0 && fdatasync(the.fd) != 0) error = -errno;
  munmap(the.buffer, the.capacity);
  memset(&the, 0, sizeof the);
  the.held = -1;
  return error;
}
