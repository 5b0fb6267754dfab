/*
 * memfd_create(2), seals, holes. Any thread, no lock; descriptors are the caller's.
 */
#include "mapping.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#define HUGETLBFS 0x958458f6 /* f_type */

int pf_memfd_create(const char *name, unsigned flags) {
  int fd = memfd_create(name, flags);
  return fd >= 0 ? fd : -errno;
}

int pf_memfd_seals(int fd) {
  int seals = fcntl(fd, F_GET_SEALS);
  return seals >= 0 ? seals : -errno;
}

int pf_memfd_add_seals(int fd, unsigned seals) { return fcntl(fd, F_ADD_SEALS, seals) == 0 ? 0 : -errno; }

int pf_memfd_punch(int fd, uint64_t offset, uint64_t len) {
  int done;
  do {
    done = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len);
  } while (done != 0 && errno == EINTR);
  return done == 0 ? 0 : -errno;
}

int64_t pf_memfd_huge_page_size(int fd) {
  struct statfs of;
  if (fstatfs(fd, &of) != 0) {
    return -errno;
  }
  return (uint32_t)of.f_type == HUGETLBFS ? (int64_t)of.f_bsize : 0;
}
